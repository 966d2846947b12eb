"""The rivals of Algorithm 1's widths that need no more than arithmetic, at one resolution."""

from collections.abc import Iterable

from engine.allocation import check_room, what_is_used
from engine.budgets import Budgets
from engine.limits import Usage
from engine.recipe import CHOICES
from engine.response import ResponseSurface
from engine.results import Allocation, ImportancePredictor
from engine.spec import NetworkSpec
from engine.uniform import widest_within
from engine.widening import NetworkWidening


def inverse_width(groups: Iterable[str]) -> dict[str, ImportancePredictor]:
    """Returns an importance of 1/C for every group."""
    return {
        group: ImportancePredictor(a=1.0, b=-1.0, b_se=0.0, r2=0.0, sum_r2=0.0, flag="1/C")
        for group in groups
    }


def least_loss(budgets: Budgets, surface: ResponseSurface, limit: Usage) -> Allocation:
    """Returns the allocation of the least loss that a response surface predicts.

    Algorithm 1 widens by the surface's marginal gains with each of its rules of choice.

    Raises:
        UserError: the base widths break a limit.
    """
    gains = surface.predictors()
    allocations = [
        budgets.allocate(
            limit, predictors=gains, settings=budgets.settings.choosing("greedy", choice)
        )
        for choice in CHOICES
    ]
    resolution = budgets.formula.base.resolution
    return min(allocations, key=lambda found: surface(found.widths, resolution))


def uniform(budgets: Budgets, limit: Usage) -> Allocation:
    """Returns the largest multiple of the base widths that keeps the limits; it has no steps.

    Raises:
        UserError: the base widths break a limit.
    """
    formula, costs = budgets.formula, budgets.costs
    batch = None if limit.memory_bytes is None else budgets.batch

    def usage(spec: NetworkSpec) -> Usage:
        return NetworkWidening(costs, batch, start=spec).usage

    start = usage(formula.base)
    check_room(start, limit)
    most = budgets.settings.max_width
    spec = widest_within(formula, most, lambda spec: usage(spec).within(limit))
    used = usage(spec)
    return Allocation(
        widths=spec.width_of,
        start=start,
        usage=used,
        limit=limit,
        steps=(),
        closed={},
        stop_reason=what_is_used(used, limit),
    )
