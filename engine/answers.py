"""Any budget of a finished search, answered from what it left (`engine.budgets`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.allocation import retold
from engine.budgets import ALGORITHM_1, Budgets
from engine.errors import UserError
from engine.limits import Limits, Usage
from engine.memory import memory_bytes
from engine.results import Allocation, ImportancePredictor
from engine.rivals import inverse_width, least_loss, uniform
from engine.spec import NetworkSpec

METHODS = (ALGORITHM_1, "uniform-alpha", "inverse-width", "response")
"""Those that answer without any training."""
FRONTIER = 24
"""Latency limits of a frontier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One budget, answered.

    Attributes:
        spec: the network.
        importance: predicted, of the kernels that it has more than the base widths.
    """

    spec: NetworkSpec
    allocation: Allocation
    macs: int
    memory_bytes: int
    importance: float


def answer(budgets: Budgets, limits: Limits, method: str) -> Answer:
    """Returns the network for limits as a user states them.

    Args:
        budgets: of the search.
        limits: see `engine.limits`.
        method: one of `METHODS`.

    Raises:
        UserError: the base network, or the resolution that was found, breaks a limit, or the
            method does not answer.
    """
    return _answer(budgets, limits.resolve(budgets.baseline), method)


def frontier(budgets: Budgets, limits: Limits, method: str, points: int = FRONTIER) -> list[Answer]:
    """Returns networks for latency limits from the least possible to the last that matters.

    The least is the larger of the baseline's and that of the base widths at the resolution found;
    the last is what the network takes that all other limits allow. Limits lie evenly in the
    logarithm; a network that comes again is left out.

    Args:
        budgets: of the search.
        limits: of parameters and memory; that of latency plays no part.
        method: one of `METHODS`.
        points: latency limits tried.

    Raises:
        UserError: as in `answer`.
    """
    free = replace(limits, latency="1x").resolve(budgets.baseline)
    widest = _allocation(budgets, replace(free, latency_ms=float("inf")), method)
    low = budgets.baseline.latency_ms
    if budgets.base_factor is None:
        low = max(low, widest.start.latency_ms)
    slower = max(1.0, budgets.base_factor or 1.0) * (budgets.room or 1.0)
    high = max(low, widest.usage.latency_ms * slower)
    found: dict[tuple[tuple[str, int], ...], Answer] = {}
    for index in range(points):
        ms = high if index == points - 1 else low * (high / low) ** (index / (points - 1))
        one = _answer(budgets, replace(free, latency_ms=ms), method)
        found.setdefault(one.spec.widths, one)
    return list(found.values())


def importance_added(
    predictors: Mapping[str, ImportancePredictor],
    start: Mapping[str, int],
    widths: Mapping[str, int],
) -> float:
    """Returns Σ a·C^b over every kernel that a network has more than another, by Eq. 6."""
    return sum(
        predictors[group](width) for group in start for width in range(start[group], widths[group])
    )


def _answer(budgets: Budgets, limit: Usage, method: str) -> Answer:
    allocation, formula = _with_room(budgets, limit, method), budgets.formula
    spec = formula.base.with_widths(allocation.widths)
    return Answer(
        spec=spec,
        allocation=allocation,
        macs=formula.cost(spec.width_of).macs,
        memory_bytes=memory_bytes(formula, spec, budgets.batch),
        importance=importance_added(budgets.predictors, formula.base.width_of, spec.width_of),
    )


def _with_room(budgets: Budgets, limit: Usage, method: str) -> Allocation:
    """Leaves of the latency limit what the run left for noise, but never less than the base has.

    A model that is slower by some factor is the same as a limit that is lower by it.
    """
    slower = budgets.factor_near(limit.latency_ms)
    # In the time of the model: multiplied and divided again, the base's could miss itself by a bit.
    base_ms = budgets.latency_model.predict(budgets.formula.cost(budgets.base.width_of))
    most_ms = limit.latency_ms / slower
    within = max(most_ms / (budgets.room or 1.0), min(most_ms, base_ms))
    found = _allocation(budgets, replace(limit, latency_ms=within), method)
    return retold(found, slower, limit)


def _allocation(budgets: Budgets, limit: Usage, method: str) -> Allocation:
    match method:
        case "algorithm-1":
            return budgets.allocate(limit)
        case "uniform-alpha":
            return uniform(budgets, limit)
        case "inverse-width":
            blind = inverse_width(budgets.base.width_of)
            return budgets.allocate(limit, predictors=blind)
        case "response":
            if budgets.surface is None:
                raise UserError(
                    "the run left no response surface: it trained too few sampled networks (none "
                    "with another sample.source than trained), or is of an earlier version; "
                    "`hacscale sample RUN --networks +8` trains more, `hacscale resume RUN` then "
                    "leaves one"
                )
            return least_loss(budgets, budgets.surface, limit)
        case _:
            raise UserError(
                f"{method} is no method that answers without training; take one of "
                f"{', '.join(METHODS)}"
            )
