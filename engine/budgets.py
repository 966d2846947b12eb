"""What a search leaves for any other limits: one file that holds all that an allocation needs.

The file, ``budgets.json`` in the run's directory, is arithmetic: with it a budget is answered
(`engine.answers`) without PyTorch, without tracing and without training.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from engine.allocation import allocate
from engine.closed_loop import room_for
from engine.codec import STRICT, decode, digest
from engine.errors import UserError
from engine.folder import Folder
from engine.formula import NetworkFormula
from engine.hardware.contract import LatencyModel
from engine.hardware.models import load_latency
from engine.limits import Limits, Usage
from engine.recipe import Allocate, Cluster, Recipe
from engine.response import ResponseSurface
from engine.results import Allocation, ImportancePredictor, Latency
from engine.spec import NetworkSpec
from engine.widening import LayerCosts, NetworkWidening, plateaus

FILE = "budgets.json"
ALGORITHM_1 = "algorithm-1"
"""Widths by importance."""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What a search knows: enough for any limits.

    Attributes:
        base: the base network, at its own resolution.
        formula: that network at the resolution that the search found.
        predictors: Eq. 6 of every group.
        model: JSON of the latency model, as the answer of the run corrected it.
        settings: of the allocation.
        baseline: what the base network uses, measured.
        batch: images in a forward.
        method: what made the answer of the run, as `engine.results.Candidate` names it.
        surface: of the validation loss; None where too few networks were trained.
        key: of the recipe that it was found by (`budgets_key`); None in files that did not note it.
        answer_ms: measured latency of the run's answer.
        base_factor: on ``model``, by which it is right for the base network as well; None where the
            answer is of another resolution.
        room: one and the share of the latency limit that is left for noise
            (`engine.closed_loop.room_for`). These three are None in files that did not note them.
    """

    __pydantic_config__ = STRICT

    base: NetworkSpec
    formula: NetworkFormula
    predictors: dict[str, ImportancePredictor]
    model: str
    settings: Allocate
    baseline: Usage
    batch: int
    method: str = ALGORITHM_1
    surface: ResponseSurface | None = None
    key: str | None = None
    answer_ms: float | None = None
    base_factor: float | None = None
    room: float | None = None

    @cached_property
    def latency_model(self) -> LatencyModel:
        """The model that ``model`` holds."""
        return load_latency(self.model)

    @cached_property
    def costs(self) -> LayerCosts:
        """Of the network's layers by that model: one question after another asks for the same."""
        return LayerCosts(self.formula, self.latency_model)

    def allocate(
        self,
        limit: Usage,
        factor: float = 1.0,
        *,
        predictors: Mapping[str, ImportancePredictor] | None = None,
        settings: Allocate | None = None,
    ) -> Allocation:
        """Runs Algorithm 1; nothing is measured or trained.

        Args:
            limit: absolute limits.
            factor: on the latency model.
            predictors: worth of a channel by group; None for Eq. 6.
            settings: of the allocation; None for those of the search.

        Raises:
            UserError: the network at the start of the allocation breaks a limit.
        """
        settings, costs = settings or self.settings, self.costs
        if factor != 1.0:
            costs = LayerCosts(self.formula, self.latency_model.rescaled(factor))
        return allocate(
            NetworkWidening(costs, None if limit.memory_bytes is None else self.batch),
            predictors or self.predictors,
            limit,
            settings,
            base=self.base.width_of,
            multiples=(
                self.formula.multiples if settings.mode == "paper" else self.formula.rounding
            ),
            plateaus=plateaus(self.formula, costs.model),
        )

    def corrected(self, spec: NetworkSpec, latency: Latency) -> "Budgets":
        """Returns these with the latency model corrected by a network that was measured."""
        model, ms = self.latency_model, latency.ms
        model = model.rescaled(ms / model.predict(self.formula.cost(spec.width_of)))
        base_factor = None
        if spec.resolution == self.base.resolution and ms > self.baseline.latency_ms:
            expected_ms = model.predict(self.formula.cost(self.base.width_of))
            base_factor = self.baseline.latency_ms / expected_ms
        return replace(
            self,
            model=model.to_json(),
            answer_ms=ms,
            base_factor=base_factor,
            room=room_for(latency),
        )

    def factor_near(self, limit_ms: float) -> float:
        """Returns the factor by which ``model`` is right for networks that take so long.

        It is known for the answer, 1, and for the base network; between them it is on the straight
        line, in logarithms of factor and latency, as between two rounds of the closed loop.
        """
        if self.base_factor is None or self.answer_ms is None or limit_ms >= self.answer_ms:
            return 1.0
        base_ms = self.baseline.latency_ms
        share = max(0.0, math.log(limit_ms / base_ms) / math.log(self.answer_ms / base_ms))
        # A hair below it, so that rounding never puts the base network over its own latency.
        return self.base_factor ** (1.0 - share) * (1.0 - 1e-9)


def budgets_key(recipe: Recipe) -> str:
    """Identifies what budgets are found by: a recipe but for its limits, which may be any others.

    Nor does it count how many machines there are, and what they may use.
    """
    return digest(replace(recipe, limits=Limits(latency="1x", params="1x"), cluster=Cluster()))


def read_budgets(folder: Folder, recipe: Recipe) -> Budgets:
    """Reads the budgets of a run.

    Args:
        recipe: of the run.

    Raises:
        UserError: the run has none yet, the file is damaged, or it is of an earlier recipe.
    """
    resume = f"`hacscale resume {shlex.quote(folder.location)}`"
    data = folder.read(FILE)
    if data is None:
        raise UserError(
            f"the run {folder.name} has chosen no widths yet, so there is no {FILE}; go on with "
            f"{resume}"
        )
    try:
        budgets = decode(Budgets, data, FILE)
    except UserError as error:
        raise UserError(f"{error}; {resume} writes it again") from None
    if budgets.key is not None and budgets.key != budgets_key(recipe):
        raise UserError(
            f"{FILE} of {folder.name} is of its recipe before that was changed; {resume} goes on "
            "with the one of now, and writes it again"
        )
    return budgets
