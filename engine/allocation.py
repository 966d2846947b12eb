"""Algorithm 1: widen the most important group, step by step, until the limits are used up."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from engine.costs import Widening
from engine.errors import UserError
from engine.limits import Usage
from engine.recipe import Allocate, Choice
from engine.results import Allocation, ImportancePredictor, Reason, Step

PAPER_STRIDE = 10
"""Channels of a step in the paper's implementation of Algorithm 1."""

MOST_STEPS = 64
"""In at most so many steps a width is doubled."""

_ROUNDING_MS = 1e-9
"""Sums of latencies that differ by less are the same: the step takes no time."""

_REACHED: dict[Reason, str] = {
    "latency": "latency limit",
    "params": "parameter limit",
    "memory": "memory limit",
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
    plateaus: Mapping[str, int],
) -> Allocation:
    """Widens groups by predicted importance as far as the limits go.

    Each step takes the group whose predicted importance a·C^b at its present width C is the
    greatest, the first in the order of ``widening`` if several are, and widens it by its stride.
    The last step before the cap is cut to it. With another ``settings.rule`` it takes the group
    whose step from C to C' adds most importance, a·C^b·(C' − C) if every new kernel is worth what
    one is worth now, for what the step costs: ``per-ms``, ``per-param``, or ``per-limit`` the sum,
    over the limits, of the share that it takes of what is left. The last is the rule of greedy
    knapsacks of several resources: what runs short grows dear, so that all limits are used up.

    Source: Algorithm 1, HACScale. As printed, it tests the limits before a step and so exceeds
    them by up to one stride; here a step is tested first and taken only if the network keeps
    every limit. With ``settings.mode``

    - ``paper``, a step adds the stride and the loop ends at the first one that does not fit;
    - ``greedy``, a step leads to the next multiple of the stride, so that it fills a plateau of
      the device's latency, or several where they are less than 1/`MOST_STEPS` of the base width:
      the channels up to there are free once the first of them is paid for. Where a step does not
      fit, as many plateaus are taken as do, and of one that the base width has begun, which is paid
      for already, as many channels as do. The group is then closed for good
      and the others go on until all are closed. Where usage never falls with a width, no group
      has a step left that fits.

    Let one limit of each resource be at least as large as another. Choices depend on widths alone
    (but for ``per-limit``, of which the following does not hold), so ``paper`` with the larger
    ones begins with the same steps and narrows no group. ``greedy`` finds the same network, or one
    that exceeds the smaller limits in some resource (where usage never falls with a width); it may
    use less of another resource, and a group may be narrower.

    Args:
        widening: the network at its start; it is left at the returned widths.
        predictors: Eq. 6 of every group.
        limit: absolute limits.
        settings: mode, choice, stride and width cap. A group's cap is ``settings.max_width`` times
            its base width, rounded down to its multiple.
        base: width of every group in the base network.
        multiples: a group's width must be a multiple of this.
        plateaus: by group, channels that the device computes together, multiples of its multiple
            (`engine.widening.plateaus`).

    Returns:
        Widths within every limit. In a step, ``importance`` is that before the step. ``closed`` is
        in the order of closing, with the first of latency, parameters and memory as the reason
        where a step would break several; in mode ``paper`` it lacks the groups that were still
        open.

    Raises:
        UserError: the start itself breaks a limit.
    """
    start = usage = widening.usage
    check_room(start, limit)
    widths = dict(widening.widths)
    strides, grains = _strides(settings, base, multiples, plateaus)
    caps = {g: _cap(settings.max_width, base[g], multiples[g]) for g in widths}

    def wider(group: str) -> int:
        width, stride = widths[group], strides[group]
        aligned = width if settings.mode == "paper" else width // stride * stride
        return min(aligned + stride, caps[group])

    def worth(group: str) -> tuple[bool, float]:
        """Whether a step costs nothing and yet adds something, and what it is worth."""
        importance = predictors[group](widths[group])
        if settings.rule == "importance" or wider(group) <= widths[group]:
            return False, importance
        price = _price(settings.rule, usage, widening.after(group, wider(group)), limit)
        gain = importance * (wider(group) - widths[group])
        free = price <= 0
        return free and gain > 0, gain if free else gain / price

    steps: list[Step] = []
    closed: dict[str, Reason] = {}
    growing = list(widths)
    while growing:
        group = max(growing, key=worth)
        before, width = widths[group], wider(group)
        if width <= before:
            closed[group] = "width cap"
            growing.remove(group)
            continue
        after = widening.after(group, width)
        if not after.within(limit):
            closed[group] = _broken(after, limit)
            if settings.mode == "paper":
                break
            growing.remove(group)
            fine = multiples[group] if before % grains[group] else grains[group]
            fitting = _widest(widening, group, range(before, width, fine), limit)
            if fitting is None:
                continue
            width, after = fitting
        importance = predictors[group](before)
        steps.append(Step(group=group, width=width, importance=importance, usage=after))
        widening.widen(group, width)
        widths[group], usage = width, after

    return Allocation(
        widths=widths,
        start=start,
        usage=usage,
        limit=limit,
        steps=tuple(steps),
        closed=closed,
        stop_reason=_stop_reason(closed.values(), usage, limit),
    )


def shortened(allocation: Allocation, base: Mapping[str, int], slower: float) -> Allocation:
    """Returns an allocation as far as it goes if the device is ``slower`` times as slow.

    These are the same steps without the last ones. Another allocation with a slower latency model
    may choose other steps, and lead to a network of which nothing was measured.

    Args:
        base: widths that it started from, which are left where they take too long themselves.
    """
    limit = allocation.limit
    told = retold(allocation, slower, limit)
    start, steps = told.start, list(told.steps)
    while steps and steps[-1].usage.latency_ms > limit.latency_ms:
        steps.pop()
    usage = steps[-1].usage if steps else start
    widths = {group: base[group] for group in allocation.widths}
    widths |= {step.group: step.width for step in steps}
    closed: dict[str, Reason] = {
        group: allocation.closed.get(group, "latency") if width == widths[group] else "latency"
        for group, width in allocation.widths.items()
    }
    return replace(
        allocation,
        widths=widths,
        start=start,
        usage=usage,
        steps=tuple(steps),
        closed=closed,
        stop_reason=_stop_reason(closed.values(), usage, limit),
    )


def retold(allocation: Allocation, slower: float, limit: Usage) -> Allocation:
    """Returns an allocation told of a device that is ``slower`` times as slow, and of its limit."""
    usage = _slower(allocation.usage, slower)
    return replace(
        allocation,
        start=_slower(allocation.start, slower),
        usage=usage,
        limit=limit,
        steps=tuple(replace(s, usage=_slower(s.usage, slower)) for s in allocation.steps),
        stop_reason=_stop_reason(allocation.closed.values(), usage, limit),
    )


def _slower(usage: Usage, factor: float) -> Usage:
    return replace(usage, latency_ms=usage.latency_ms * factor)


def check_room(start: Usage, limit: Usage) -> None:
    """Checks that the base widths at the resolution that was found keep the limits.

    Raises:
        UserError: they do not.
    """
    if not start.within(limit):
        raise UserError(_no_room(start, limit))


def _price(choice: Choice, before: Usage, after: Usage, limit: Usage) -> float:
    """What a step costs."""
    ms, params = after.latency_ms - before.latency_ms, after.params - before.params
    ms = ms if abs(ms) > _ROUNDING_MS else 0.0
    match choice:
        case "per-ms":
            return ms
        case "per-param":
            return params
        case _:
            shares = [
                _share(ms, limit.latency_ms - before.latency_ms),
                _share(params, limit.params - before.params),
            ]
            if limit.memory_bytes is not None:
                held, needed = before.memory_bytes or 0, after.memory_bytes or 0
                shares.append(_share(needed - held, limit.memory_bytes - held))
            return sum(shares)


def _share(added: float, left: float) -> float:
    if left > 0:
        return added / left
    return math.inf if added > 0 else 0.0


def _strides(
    settings: Allocate,
    base: Mapping[str, int],
    multiples: Mapping[str, int],
    plateaus: Mapping[str, int],
) -> tuple[dict[str, int], dict[str, int]]:
    """Channels of a step, and what a step that does not fit is cut to multiples of."""
    if settings.stride is None and settings.mode == "greedy":
        strides = {
            group: max(1, math.ceil(base[group] / MOST_STEPS / plateau)) * plateau
            for group, plateau in plateaus.items()
        }
        return strides, dict(plateaus)
    stride = settings.stride or PAPER_STRIDE
    strides = {g: math.ceil(stride / multiple) * multiple for g, multiple in multiples.items()}
    return strides, strides


def capped(
    widths: Mapping[str, int], base: Mapping[str, int], most: float, rounding: Mapping[str, int]
) -> dict[str, int]:
    """Returns widths that are at most ``most`` times the base's, or the base's.

    Rounding to coarse steps leads beyond that, where a latency model may know nothing.
    """
    return {g: min(w, max(base[g], _cap(most, base[g], rounding[g]))) for g, w in widths.items()}


def _cap(max_width: float, base: int, multiple: int) -> int:
    # The tolerance keeps 1.15 × 100 at 115; in floating point it is 114.99999999999999.
    return math.floor(max_width * base / multiple + 1e-9) * multiple


def _widest(
    widening: Widening, group: str, widths: range, limit: Usage
) -> tuple[int, Usage] | None:
    """Returns the widest width of ``widths`` but the first that keeps the limits, and its usage."""
    for width in reversed(widths[1:]):
        after = widening.after(group, width)
        if after.within(limit):
            return width, after
    return None


def _broken(usage: Usage, limit: Usage) -> Reason:
    if not usage.latency_ms <= limit.latency_ms:
        return "latency"
    return "params" if usage.params > limit.params else "memory"


def _no_room(start: Usage, limit: Usage) -> str:
    found = "the base widths at the resolution found"
    match _broken(start, limit):
        case "latency":
            return (
                f"{found} take {start.latency_ms:.6g} ms by the latency model, the limit is "
                f"{limit.latency_ms:.6g} ms; raise limits.latency to so much, or lower "
                "alpha.budget for a smaller resolution"
            )
        case "params":
            return (
                f"{found} have {start.params} parameters, the limit is {limit.params}; "
                "raise limits.params"
            )
        case _:
            return (
                f"{found} take {start.memory_bytes} bytes of weights and activations, the limit is "
                f"{limit.memory_bytes}; raise limits.memory, or lower alpha.budget for a smaller "
                "resolution"
            )


def _stop_reason(reasons: Iterable[Reason], usage: Usage, limit: Usage) -> str:
    found = set(reasons)
    reached = " and ".join(name for reason, name in _REACHED.items() if reason in found)
    used = what_is_used(usage, limit)
    return f"{reached} reached: {used}" if reached else used


def what_is_used(usage: Usage, limit: Usage) -> str:
    """Returns what a network uses of its limits, in words."""
    used = [
        f"{usage.latency_ms:.4g} of {limit.latency_ms:.4g} ms",
        f"{usage.params:,} of {limit.params:,} parameters",
    ]
    if usage.memory_bytes is not None and limit.memory_bytes is not None:
        used.append(f"{usage.memory_bytes:,} of {limit.memory_bytes:,} bytes")
    *most, last = used
    return f"{', '.join(most)} and {last} used"
