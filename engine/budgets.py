"""What a search leaves for any other limits: one file that holds all that an allocation needs.

The file, ``budgets.json`` in the run's directory, is arithmetic: with it a budget is answered
(`engine.answers`) without PyTorch, without tracing and without training.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from engine.allocation import allocate
from engine.codec import STRICT, decode, digest
from engine.errors import UserError
from engine.folder import Folder
from engine.formula import NetworkFormula
from engine.hardware.contract import LatencyModel
from engine.hardware.models import load_latency
from engine.limits import Limits, Usage
from engine.recipe import Allocate, Cluster, Recipe
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
        key: of the recipe that it was found by (`budgets_key`); None in files that did not note it.
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
