"""The device in the loop: allocate, measure, correct the latency model, allocate again."""

import math
from collections.abc import Callable, Mapping, Sequence

from engine.allocation import shortened
from engine.errors import UserError
from engine.results import Allocation, Latency, Round

MARGIN = 0.05
"""At most this share of the latency limit is left free for the noise of the next measurement."""
TOLD = 0.01
"""Shares of a limit below this are not worth a round, however well they can be told."""
SLOWER = 0.03
"""What takes this much longer than expected is measured again.

Latencies of one network in sessions some minutes apart differ by 1 % (standard deviation, on a
quiet shared machine) to 4 %, which the rounds of one session do not show.
"""
TRIES = 3
"""Sessions at most until a network is not slower than expected."""


def steady(
    measure: Callable[[Sequence[int], int], Sequence[Latency]],
    expected_ms: Sequence[float | None],
    tries: int = TRIES,
) -> list[Latency]:
    """Measures networks, again those slower than expected; the shortest latency of each counts.

    On a machine that others use as well, a network can be a third slower for all of a session, and
    the smaller reference network beside it is not: the noise floor, which is what the rounds of one
    session tell, does not show it.

    Args:
        measure: networks, by their index, in a session of its own, whose number it is told, from 1.
        expected_ms: of each, by a latency model or an earlier measurement; None where nothing is
            expected.
        tries: sessions at most.
    """
    found = list(measure(range(len(expected_ms)), 1))
    for session in range(2, tries + 1):
        slow = [
            index
            for index, (one, expected) in enumerate(zip(found, expected_ms, strict=True))
            if expected is not None and one.ms > expected * (1.0 + SLOWER)
        ]
        if not slow:
            break
        for index, again in zip(slow, measure(slow, session), strict=True):
            found[index] = min(found[index], again, key=lambda one: one.ms)
    return found


def close_loop(
    allocate: Callable[[float], Allocation],
    measure: Callable[[Mapping[str, int], int], Latency],
    base: Mapping[str, int],
    limit_ms: float,
    most: int,
    tries: int = TRIES,
) -> tuple[Round, ...]:
    """Allocates until the network, as measured, keeps the latency limit and uses it.

    The measured latency must keep the limit with room for the noise of one more measurement: half
    the noise floor, at most `MARGIN`. The model is rescaled by what was measured, both where the
    limit is missed and where latency ended the allocation but more than that room is left once
    more; once there is a round on each side, by what lies between them (`between`). It also ends
    where a network comes again: what was measured stands.

    Where no round has kept the limit, the last one takes back steps of the nearest
    (`engine.allocation.shortened`): where the model is wrong by another factor for every network,
    each new allocation may be over in its own way. So does one for which the rescaled model leaves
    no network, down to the base widths: that these are too slow as well is only what it expects.

    Args:
        allocate: widths for a factor on the latency model.
        measure: latency of the network with these widths, in a session; see `steady`.
        base: widths that allocations start from.
        limit_ms: the latency limit.
        most: rounds at most.
        tries: sessions of a round at most; see `steady`.

    Returns:
        At least one round, in order; `best` chooses among them.

    Raises:
        UserError: ``allocate`` finds no network in the first round.
    """
    rounds: list[Round] = []
    allocation, factor, room = allocate(1.0), 1.0, 1.0
    while True:
        widths = allocation.widths
        (latency,) = steady(
            lambda _, session, widths=widths: [measure(widths, session)],
            [allocation.usage.latency_ms],
            tries,
        )
        rounds.append(Round(allocation=allocation, latency=latency, factor=factor, room=room))
        used = share_used(latency, limit_ms)
        bound = "latency" in allocation.closed.values()
        if len(rounds) == most or is_full(latency, limit_ms) or (used < 1.0 and not bound):
            break
        following = _following(rounds, allocate, base, limit_ms, last=len(rounds) == most - 1)
        if following is None or any(following[0].widths == r.allocation.widths for r in rounds):
            break
        allocation, factor, room = following
    return tuple(rounds)


def _following(
    rounds: list[Round],
    allocate: Callable[[float], Allocation],
    base: Mapping[str, int],
    limit_ms: float,
    *,
    last: bool,
) -> tuple[Allocation, float, float] | None:
    """Returns what the next round is to measure, its factor, and the room for noise in that."""
    latest, nearest = rounds[-1], rounds[best(tuple(rounds), limit_ms)]
    over = nearest.latency.ms > limit_ms
    if not (over and last):
        tried = [(share_used(done.latency, limit_ms), done.factor) for done in rounds]
        factor = between(tried) or corrected(latest)
        try:
            return allocate(factor), factor, room_for(latest.latency)
        except UserError:
            if not over:
                return None
    factor = corrected(nearest)
    taken_back = shortened(nearest.allocation, base, factor / nearest.factor)
    return taken_back, factor, room_for(nearest.latency)


def between(tried: Sequence[tuple[float, float]]) -> float | None:
    """Returns the factor on the model that lies between what was over the limit and what was below.

    A smaller network is faster by more or by less than the model expects, by steps that it does not
    know: to correct it by the last round alone leads from one side of the limit to the other. What
    is taken is where the straight line between the nearest two meets the limit (regula falsi, in
    logarithms of factor and latency).

    Args:
        tried: of every round the share of the limit that its network used, and its factor.

    Returns:
        None where all rounds are on one side, or a larger factor led to a slower network.
    """
    above = min((one for one in tried if one[0] > 1.0), default=None)
    below = max((one for one in tried if one[0] <= 1.0), default=None)
    if above is None or below is None or below[1] <= above[1]:
        return None
    share = math.log(above[0]) / math.log(above[0] / below[0])
    return above[1] * (below[1] / above[1]) ** share


def share_used(latency: Latency, limit_ms: float) -> float:
    """Returns the share of a limit that a measurement takes, with room for the noise of another."""
    return latency.ms * room_for(latency) / limit_ms


def is_full(latency: Latency, limit_ms: float) -> bool:
    """Returns whether that share is all of the limit, as far as the noise lets it be told."""
    used = share_used(latency, limit_ms)
    return used <= 1.0 <= used * max(room_for(latency), 1.0 + TOLD)


def corrected(done: Round) -> float:
    """Returns the factor that makes the latency model expect what a round measured, with room."""
    expected = done.allocation.usage.latency_ms
    return done.factor * done.latency.ms * room_for(done.latency) / expected


def corrected_limit(expected_ms: float, latency: Latency, limit_ms: float) -> float:
    """Returns the limit to be told of, so that what keeps it keeps ``limit_ms`` as measured.

    Args:
        expected_ms: latency that a network was expected to have, which need not be all of a limit.
        latency: of that network, as measured.
        limit_ms: the limit.
    """
    return expected_ms / share_used(latency, limit_ms)


def best(rounds: tuple[Round, ...], limit_ms: float) -> int:
    """Returns the index of the round that uses most of the limit and keeps it; see `miss`."""
    return min(range(len(rounds)), key=lambda index: miss(rounds[index].latency, limit_ms))


def miss(latency: Latency, limit_ms: float) -> tuple[bool, bool, float]:
    """Orders measured networks, the best first.

    Those that keep the limit with room for noise, then those that keep it, then those that exceed
    it; of each kind the one nearest to the limit.
    """
    with_room = share_used(latency, limit_ms) > 1.0
    return latency.ms > limit_ms, with_room, abs(latency.ms - limit_ms)


def room_for(latency: Latency) -> float:
    """Returns one and the share that is left free for the noise of one more measurement.

    One standard error: a floor is two. All of it would leave one and a half floors of the limit
    unused on average, as the loop ends where between one and two times this room is left.
    """
    return 1.0 + min(latency.noise_floor / 2.0, MARGIN)
