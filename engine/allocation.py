"""Algorithm 1: widen the most important group, step by step, until the limits are used up."""

import math
from collections.abc import Mapping
from typing import Literal

from engine.costs import Widening
from engine.errors import UserError
from engine.limits import Usage
from engine.recipe import Allocate
from engine.results import Allocation, ImportancePredictor, Step

Reason = Literal["latency", "params", "width cap"]

_REACHED: dict[Reason, str] = {
    "latency": "latency limit",
    "params": "parameter limit",
    "width cap": "width cap",
}


def allocate(
    widening: Widening,
    predictors: Mapping[str, ImportancePredictor],
    limit: Usage,
    settings: Allocate,
    *,
    base: Mapping[str, int],
    multiples: Mapping[str, int],
) -> Allocation:
    """Widens groups by predicted importance as far as the limits go.

    Each step takes the group whose predicted importance a·C^b at its present width C is the
    greatest, the first in the order of ``widening`` if several are, and adds its stride. The
    last step before the cap is cut to it.

    Source: Algorithm 1, HACScale. As printed, it tests the limits before a step and so exceeds
    them by up to one stride; here a step is tested first and taken only if the network keeps
    every limit. With ``settings.mode``

    - ``paper``, the loop ends at the first step that does not fit;
    - ``greedy``, the group whose step does not fit is closed for good and the others go on until
      all are closed. Where usage never falls with a width, no group has a step left that fits.

    Widths stay whole strides above the start: the few channels that would still fit below one
    stride gain little, and widths off the stride are slow on most devices.

    Args:
        widening: the network at its start; it is left at the returned widths.
        predictors: Eq. 6 of every group.
        limit: absolute limits.
        settings: mode, stride and width cap. A group's stride is ``settings.stride`` rounded up
            to its multiple; its cap is ``settings.max_width`` times its base width, rounded down.
        base: width of every group in the base network.
        multiples: a group's width must be a multiple of this.

    Returns:
        Widths within every limit. In a step, ``importance`` is that before the step, which won
        it. ``closed`` is in the order of closing, with ``latency`` as the reason where a step
        would break both limits; in mode ``paper`` it lacks the groups that were still open.

    Raises:
        UserError: the start itself breaks a limit.
    """
    start = usage = widening.usage
    if not start.within(limit):
        raise UserError(_no_room(start, limit))
    widths = dict(widening.widths)
    strides = {g: math.ceil(settings.stride / multiples[g]) * multiples[g] for g in widths}
    caps = {g: _cap(settings.max_width, base[g], multiples[g]) for g in widths}

    steps: list[Step] = []
    closed: dict[str, Reason] = {}
    growing = list(widths)
    while growing:
        importance = {g: predictors[g](widths[g]) for g in growing}
        group = max(growing, key=importance.__getitem__)
        width = min(widths[group] + strides[group], caps[group])
        if width <= widths[group]:
            closed[group] = "width cap"
        elif not (after := widening.after(group, width)).within(limit):
            closed[group] = _broken(after, limit)
            if settings.mode == "paper":
                break
        else:
            steps.append(Step(group=group, width=width, importance=importance[group], usage=after))
            widening.widen(group, width)
            widths[group], usage = width, after
            continue
        growing.remove(group)

    return Allocation(
        widths=widths,
        start=start,
        usage=usage,
        limit=limit,
        steps=tuple(steps),
        closed=closed,
        stop_reason=_stop_reason(closed, usage, limit),
    )


def _cap(max_width: float, base: int, multiple: int) -> int:
    # The tolerance keeps 1.15 × 100 at 115; in floating point it is 114.99999999999999.
    return math.floor(max_width * base / multiple + 1e-9) * multiple


def _broken(usage: Usage, limit: Usage) -> Reason:
    return "params" if usage.latency_ms <= limit.latency_ms else "latency"


def _no_room(start: Usage, limit: Usage) -> str:
    if _broken(start, limit) == "latency":
        return (
            f"the network to be widened already takes {start.latency_ms:.6g} ms, the limit is "
            f"{limit.latency_ms:.6g} ms; raise limits.latency, or lower alpha.budget for a "
            "smaller resolution"
        )
    return (
        f"the network to be widened already has {start.params} parameters, the limit is "
        f"{limit.params}; raise limits.params"
    )


def _stop_reason(closed: Mapping[str, Reason], usage: Usage, limit: Usage) -> str:
    reached = [name for reason, name in _REACHED.items() if reason in closed.values()]
    return (
        f"{' and '.join(reached)} reached: {usage.latency_ms:.4g} of {limit.latency_ms:.4g} ms and "
        f"{usage.params:,} of {limit.params:,} parameters used"
    )
