"""The closed loop on devices that differ from their model in known ways."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.closed_loop import (
    MARGIN,
    SLOWER,
    TOLD,
    TRIES,
    best,
    between,
    close_loop,
    corrected,
    corrected_limit,
    steady,
)
from engine.errors import UserError
from engine.limits import Usage
from engine.results import Allocation, Latency, Round, Step

START = {"g": 1}


def allocator(limit_ms: float, cap: int = 10_000) -> Callable[[float], Allocation]:
    """One group; the model expects its width in ms, times the factor. Every channel is a step."""

    def allocate(factor: float) -> Allocation:
        width = min(math.floor(limit_ms / factor), cap)
        if width < 1:
            raise UserError("no room")
        return Allocation(
            widths={"g": width},
            start=Usage(latency_ms=factor, params=1),
            usage=Usage(latency_ms=width * factor, params=width),
            limit=Usage(latency_ms=limit_ms, params=cap),
            steps=tuple(
                Step(
                    group="g",
                    width=wider,
                    importance=1.0,
                    usage=Usage(latency_ms=wider * factor, params=wider),
                )
                for wider in range(2, width + 1)
            ),
            closed={"g": "width cap" if width == cap else "latency"},
            stop_reason="",
        )

    return allocate


def closed(
    device: Callable[[int], float],
    limit: float = 1000.0,
    noise: float = 0.0,
    most: int = 3,
    tries: int = TRIES,
    cap: int = 10_000,
) -> tuple[Round, ...]:
    def measure(widths: Mapping[str, int], session: int) -> Latency:
        return Latency.constant(device(widths["g"]), noise)

    return close_loop(allocator(limit, cap), measure, START, limit, most, tries)


@pytest.mark.parametrize("slow", [(), (0,), (1,), (0, 1), (0, 2)])
def test_a_session_in_which_the_machine_is_slow_changes_nothing(slow: tuple[int, ...]) -> None:
    """Some sessions take a third longer, without any noise of their own."""
    sessions: list[int] = []

    def device(width: int) -> float:
        sessions.append(width)
        return width * 1.02 * (1.33 if len(sessions) - 1 in slow else 1.0)

    assert closed(device) == closed(lambda width: width * 1.02)
    assert len(sessions) == 2 + len(slow)


def test_the_last_round_takes_back_steps_where_every_allocation_is_over_in_its_own_way() -> None:
    """A slower model leads to other networks, of which the model knows still less."""

    def allocate(factor: float) -> Allocation:
        found = allocator(1000.0)(factor)
        kind = 1 + sum(factor > known for known in (1.0, 1.11))
        of_kind = Step(group="kind", width=kind, importance=1.0, usage=found.steps[0].usage)
        return replace(
            found,
            widths={"kind": kind, **found.widths},
            steps=(of_kind, *found.steps),
            closed={"kind": "width cap", **found.closed},
        )

    def measure(widths: Mapping[str, int], session: int) -> Latency:
        return Latency.constant(widths["g"] * (1.0 + 0.12 * widths["kind"]))

    start = {"kind": 0, "g": 1}
    first, second, third = close_loop(allocate, measure, start, 1000.0, 3)
    assert [first.allocation.widths["kind"], second.allocation.widths["kind"]] == [1, 3]
    assert first.latency.ms == pytest.approx(1120) and second.latency.ms > 1120
    assert third.allocation.widths == {"kind": 1, "g": 892}  # 1000 / 1.12
    assert third.predicted_ms == pytest.approx(third.latency.ms)
    assert 999 < third.latency.ms <= 1000
    assert best((first, second, third), 1000.0) == 2


def test_a_device_that_is_asked_by_hand_has_one_session_of_a_round() -> None:
    sessions: list[int] = []

    def device(width: int) -> float:
        sessions.append(width)
        return width * 1.5

    closed(device, tries=1)
    assert sessions == [1000, 666]


def test_what_parameters_ended_is_corrected_too_where_it_is_over_the_latency_limit() -> None:
    """Parameters allow ten channels; the model expects 10 ms of them and the device has 2 s."""
    first, second = closed(lambda width: width * 200.0, cap=10)
    assert first.allocation.closed == {"g": "width cap"}
    assert (first.latency.ms, second.latency.ms) == (2000, 1000)
    assert second.allocation.widths == {"g": 5}


def test_a_hundredth_of_the_limit_is_not_worth_a_round() -> None:
    assert len(closed(lambda width: width * (1 - 0.9 * TOLD))) == 1
    assert len(closed(lambda width: width * (1 - 1.2 * TOLD))) == 2


def test_a_network_that_stays_slow_is_believed_after_three_sessions() -> None:
    sessions: list[int] = []

    def device(width: int) -> float:
        sessions.append(width)
        return width * 1.5

    first, second = closed(device)
    assert sessions == [1000] * 3 + [666]
    assert (first.latency.ms, second.latency.ms) == (1500, 999)


def test_what_is_slower_than_expected_is_measured_again_and_the_shortest_counts() -> None:
    sessions = [10.5, 10.2, 10.4]

    def measured(expected_ms: float | None) -> float:
        (found,) = steady(
            lambda _, session: [Latency.constant(sessions[session - 1])], [expected_ms]
        )
        return found.ms

    assert measured(10.0) == 10.2
    assert measured(10.5 / (1 + SLOWER)) == 10.5
    assert measured(None) == 10.5


def test_only_the_networks_that_are_slow_are_measured_again() -> None:
    asked: list[list[int]] = []

    def measure(networks: Sequence[int], session: int) -> list[Latency]:
        asked.append(list(networks))
        more = {1: [0.0, 1.0, 1.0]}.get(session, [0.0, 0.0, 0.0])
        return [Latency.constant(10.0 * (i + 1) + more[i]) for i in networks]

    found = steady(measure, [10.0, 20.0, None])
    assert [one.ms for one in found] == [10.0, 20.0, 31.0]
    assert asked == [[0, 1, 2], [1]]


@settings(max_examples=100)
@given(st.floats(0.5, 2), st.floats(0, 0.2))
def test_a_model_that_is_off_by_a_factor_is_right_in_the_second_round(
    factor: float, noise: float
) -> None:
    rounds = closed(lambda width: width * factor, noise=noise)
    chosen = rounds[best(rounds, 1000.0)]
    room = 1 + min(noise / 2, MARGIN)
    assert len(rounds) <= 2
    # All of the limit but two steps of the width, and the room for noise twice.
    assert chosen.latency.ms * room * max(room, 1 + TOLD) + 2 * factor * room >= 1000
    assert chosen.latency.ms * room <= 1000
    if len(rounds) == 2:
        assert rounds[1].predicted_ms == pytest.approx(rounds[1].latency.ms)


def test_a_device_that_is_steeper_than_its_model_is_searched_between_two_rounds() -> None:
    """It takes 1068·(w/1000)² ms: 1068 ms, then 936 ms, whose own correction leads back to the
    first network. In logarithms the device is a straight line, which meets the limit at 967.6."""
    first, second, third = closed(lambda width: 1.068e-3 * width**2)
    assert [done.allocation.widths["g"] for done in (first, second, third)] == [1000, 936, 967]
    assert corrected(second) == pytest.approx(1.0, rel=1e-3)
    assert 997 < third.latency.ms <= 1000
    assert best((first, second, third), 1000.0) == 2


def test_between_two_rounds_is_asked_only_where_they_lie_on_both_sides() -> None:
    assert between([(1.2, 1.0)]) is between([(0.9, 1.0), (0.8, 1.1)]) is None
    # A larger factor, which led to the slower network, says nothing of what lies between.
    assert between([(1.2, 1.2), (0.9, 1.0)]) is None
    # Of several the nearest on each side, by hand: 1.21 and 1/1.1 are two and one steps of ln 1.1.
    tried = [(1.5, 0.9), (1.21, 1.0), (1 / 1.1, 1.3), (0.5, 2.0)]
    assert between(tried) == pytest.approx(1.3 ** (2 / 3))


@settings(max_examples=100)
@given(data=st.data())
def test_nothing_over_the_limit_is_chosen_where_something_below_was_seen(
    data: st.DataObject,
) -> None:
    factors: dict[int, float] = {}

    def device(width: int) -> float:
        if width not in factors:
            factors[width] = data.draw(st.floats(0.3, 3))
        return width * factors[width]

    rounds = closed(device, noise=data.draw(st.floats(0, 0.3)))
    assert 1 <= len(rounds) <= 3
    chosen = rounds[best(rounds, 1000.0)].latency.ms
    if any(r.latency.ms <= 1000 for r in rounds):
        assert chosen <= 1000
    else:
        assert chosen == min(r.latency.ms for r in rounds)


def test_the_same_network_is_not_measured_twice() -> None:
    seen: list[int] = []

    def device(width: int) -> float:
        seen.append(width)
        return 500.0 if len(seen) == 1 else 2000.0

    rounds = close_loop(
        lambda _: allocator(1000.0)(1.0),
        lambda w, _: Latency.constant(device(w["g"])),
        START,
        1000.0,
        3,
    )
    assert len(rounds) == len(seen) == 1


def test_a_rescaled_model_without_a_network_leads_to_the_base_widths() -> None:
    """That they are over too is only expected: here they keep the limit and other widths do not."""
    first, second = closed(lambda width: 999.0 if width == 1 else width * 5000.0, most=2)
    assert [done.allocation.widths["g"] for done in (first, second)] == [1000, 1]
    assert best((first, second), 1000.0) == 1
    assert second.predicted_ms == pytest.approx(5000.0) and second.latency.ms == 999


def test_a_limit_just_above_the_base_widths_is_kept_although_the_model_is_wrong_of_wider_ones():
    """By hand: 64 channels take 1 ms and each further one thrice what the model expects of it."""
    limit, wide = 1.065, 64

    def allocate(factor: float) -> Allocation:
        widths = range(wide, 129)
        usage = [Usage(latency_ms=factor * (1 + 0.002 * (w - wide)), params=w) for w in widths]
        fitting = [u for u in usage if u.latency_ms <= limit]
        if not fitting:
            raise UserError("no room")
        return Allocation(
            widths={"g": fitting[-1].params},
            start=usage[0],
            usage=fitting[-1],
            limit=Usage(latency_ms=limit, params=1000),
            steps=tuple(
                Step(group="g", width=u.params, importance=1.0, usage=u) for u in fitting[1:]
            ),
            closed={"g": "latency"},
            stop_reason="",
        )

    def measure(widths: Mapping[str, int], session: int) -> Latency:
        return Latency.constant(1 + 0.006 * (widths["g"] - wide), 0.02)

    rounds = close_loop(allocate, measure, {"g": wide}, limit, 3)
    assert [done.allocation.widths["g"] for done in rounds[:2]] == [96, 64]
    chosen = rounds[best(rounds, limit)]
    assert 1.0 <= chosen.latency.ms <= limit


def test_a_rescaled_model_without_a_network_ends_the_loop_where_one_kept_the_limit() -> None:
    """It keeps it without room for noise, which the model would correct if it could."""

    def allocate(factor: float) -> Allocation:
        if factor > 1.0:
            raise UserError("no room")
        return allocator(1000.0)(factor)

    rounds = close_loop(allocate, lambda w, _: Latency.constant(999.0, 0.02), START, 1000.0, 3)
    assert [done.latency.ms for done in rounds] == [999]
    with pytest.raises(UserError, match="no room"):
        close_loop(allocator(0.5), lambda w, _: Latency.constant(1.0), START, 0.5, 3)


def test_latency_left_over_is_used_only_where_latency_ended_the_allocation() -> None:
    capped = close_loop(
        allocator(1000.0, cap=10), lambda w, _: Latency.constant(w["g"]), START, 1000.0, 3
    )
    assert len(capped) == 1
    assert len(closed(lambda width: width * 0.5)) == 2


def test_the_corrected_model_expects_what_was_measured_with_room() -> None:
    (done,) = closed(lambda width: width * 1.25, noise=0.02, most=1)
    assert corrected(done) == pytest.approx(1.25 * 1.01)


def test_a_corrected_limit_leaves_out_what_was_over_although_it_was_expected_below() -> None:
    """Expected at 9 of 10 ms and measured at 10.5: as much slower than the limit allows."""
    limit = corrected_limit(9.0, Latency.constant(10.5, 0.01), 10.0)
    assert limit == pytest.approx(9.0 * 10.0 / (10.5 * 1.005))
    assert limit < 9.0
    # A device of which all is 10.5/9 as slow as expected then keeps its limit with room.
    assert limit * 10.5 / 9.0 * 1.005 == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("ms", "noise", "verdict"),
    [
        (10.0, 0.0, "within"),
        (10.1, 0.02, "within noise"),
        (10.3, 0.02, "over"),
        (9.0, 9, "within"),
        (11.6, 0.5, "over"),
    ],
)
def test_a_verdict_speaks_of_the_noise_floor(ms: float, noise: float, verdict: str) -> None:
    assert Latency.constant(ms, noise).verdict(10.0) == verdict
