"""What a search leaves for any other limits: one file that holds all that an allocation needs.

The file, ``budgets.json`` in the run's directory, is arithmetic: with it a budget is answered
(`engine.answers`) without PyTorch, without tracing and without training.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from engine.allocation import allocate
from engine.codec import STRICT, decode
from engine.errors import UserError
from engine.folder import Folder
from engine.formula import NetworkFormula
from engine.hardware.contract import LatencyModel
from engine.hardware.models import load_latency
from engine.limits import Usage
from engine.recipe import Allocate
from engine.response import ResponseSurface
from engine.results import Allocation, ImportancePredictor
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
        model: JSON of the latency model, as the closed loop corrected it.
        settings: of the allocation.
        baseline: what the base network uses, measured.
        batch: images in a forward.
        method: what made the answer of the run, as `engine.results.Candidate` names it.
        surface: of the validation loss; None where too few networks were trained.
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

    def corrected(self, spec: NetworkSpec, ms: float) -> "Budgets":
        """Returns these with the latency model corrected by a network that took so long."""
        expected_ms = self.latency_model.predict(self.formula.cost(spec.width_of))
        return replace(self, model=self.latency_model.rescaled(ms / expected_ms).to_json())


def read_budgets(folder: Folder) -> Budgets:
    """Reads the budgets of a run.

    Raises:
        UserError: the run has none yet, or the file is damaged.
    """
    data = folder.read(FILE)
    if data is None:
        raise UserError(
            f"the run {folder.name} has chosen no widths yet, so there is no {FILE}; go on with "
            f"`hacscale resume {shlex.quote(folder.location)}`"
        )
    return decode(Budgets, data, FILE)
