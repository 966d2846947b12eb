"""Any budget of a finished search, from one file that holds all that Algorithm 1 needs.

The file, ``budgets.json`` in the run's directory, is arithmetic: with it a budget is answered
without PyTorch, without tracing and without training.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from engine.allocation import allocate
from engine.closed_loop import corrected
from engine.codec import STRICT, decode
from engine.errors import UserError
from engine.folder import Folder
from engine.formula import NetworkFormula
from engine.hardware.contract import LatencyModel
from engine.hardware.models import load_latency
from engine.limits import Limits, Usage
from engine.memory import memory_bytes
from engine.recipe import Allocate
from engine.results import Allocation, ImportancePredictor, Round
from engine.spec import NetworkSpec
from engine.widening import NetworkWidening, plateaus

FILE = "budgets.json"
FRONTIER = 24
"""Latency limits of a frontier."""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What a search knows: enough for any limits.

    Attributes:
        base: the base network, at its own resolution.
        formula: that network at the resolution that the search found.
        predictors: Eq. 6 of every group.
        model: JSON of the latency model, as the closed loop corrected it.
        settings: of the allocation.
        baseline: what the base network uses, measured.
        batch: images in a forward.
    """

    __pydantic_config__ = STRICT

    base: NetworkSpec
    formula: NetworkFormula
    predictors: dict[str, ImportancePredictor]
    model: str
    settings: Allocate
    baseline: Usage
    batch: int

    @cached_property
    def latency_model(self) -> LatencyModel:
        """The model that ``model`` holds."""
        return load_latency(self.model)

    def allocate(self, limit: Usage, factor: float = 1.0) -> Allocation:
        """Runs Algorithm 1; nothing is measured or trained.

        Args:
            limit: absolute limits.
            factor: on the latency model.

        Raises:
            UserError: the network at the start of the allocation breaks a limit.
        """
        model = self.latency_model.rescaled(factor)
        batch = None if limit.memory_bytes is None else self.batch
        return allocate(
            NetworkWidening(self.formula, model, batch),
            self.predictors,
            limit,
            self.settings,
            base=self.base.width_of,
            multiples=self.formula.multiples,
            plateaus=plateaus(self.formula, model),
        )

    def corrected(self, done: Round) -> "Budgets":
        """Returns these with the latency model as a round of the closed loop corrects it."""
        return replace(self, model=self.latency_model.rescaled(corrected(done)).to_json())

    def answer(self, limits: Limits) -> "Answer":
        """Returns the network for limits as a user states them.

        Raises:
            UserError: the base network, or the resolution that was found, breaks a limit.
        """
        return self._answer(limits.resolve(self.baseline))

    def frontier(self, limits: Limits, points: int = FRONTIER) -> list["Answer"]:
        """Returns networks for latency limits from the least possible to the last that matters.

        The least is the larger of the baseline's and that of the network before its first step;
        the last is what the network takes that all other limits allow. Limits lie evenly in the
        logarithm; a network that comes again is left out.

        Args:
            limits: of parameters and memory; that of latency plays no part.
            points: latency limits tried.

        Raises:
            UserError: one of them is broken by the base network, or at the resolution found.
        """
        free = replace(limits, latency="1x").resolve(self.baseline)
        widest = self.allocate(replace(free, latency_ms=float("inf")))
        low = max(self.baseline.latency_ms, widest.start.latency_ms)
        high = max(low, widest.usage.latency_ms)
        found: dict[tuple[tuple[str, int], ...], Answer] = {}
        for index in range(points):
            ms = high if index == points - 1 else low * (high / low) ** (index / (points - 1))
            answer = self._answer(replace(free, latency_ms=ms))
            found.setdefault(answer.spec.widths, answer)
        return list(found.values())

    def _answer(self, limit: Usage) -> "Answer":
        allocation = self.allocate(limit)
        spec = self.formula.base.with_widths(allocation.widths)
        return Answer(
            spec=spec,
            allocation=allocation,
            macs=self.formula.cost(spec.width_of).macs,
            memory_bytes=memory_bytes(self.formula, spec, self.batch),
            importance=importance_gained(allocation, self.formula.base.width_of),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One budget, answered.

    Attributes:
        spec: the network.
        importance: predicted, of the kernels that the allocation added.
    """

    spec: NetworkSpec
    allocation: Allocation
    macs: int
    memory_bytes: int
    importance: float


def importance_gained(allocation: Allocation, start: Mapping[str, int]) -> float:
    """Returns Σ a·C^b·(C' − C) over the steps of an allocation from ``start``.

    Every kernel that a step adds counts as one of its group did before it.
    """
    widths = dict(start)
    gained = 0.0
    for step in allocation.steps:
        gained += step.importance * (step.width - widths[step.group])
        widths[step.group] = step.width
    return gained


def read_budgets(folder: Folder) -> Budgets:
    """Reads the budgets of a run.

    Raises:
        UserError: the run has none yet, or the file is damaged.
    """
    data = folder.read(FILE)
    if data is None:
        raise UserError(
            f"the run {folder.name} has allocated no widths yet, so there is no {FILE}; go on with "
            f"`hacscale resume {shlex.quote(folder.location)}`"
        )
    return decode(Budgets, data, FILE)
