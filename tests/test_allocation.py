"""Algorithm 1 against naive implementations, and the properties that hold for any costs.

The costs here are of a chain of layers, group i between group i − 1 and group i + 1, so that the
price of a step depends on the widths beside it. Latency is a staircase in the widths.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.allocation import allocate
from engine.codec import canonical, decode
from engine.errors import UserError
from engine.limits import Usage
from engine.recipe import Allocate
from engine.results import Allocation, ImportancePredictor

Cost = Callable[[Mapping[str, int]], Usage]
Mode = Literal["paper", "greedy"]

UNLIMITED = 10**15


@dataclass
class Chain:
    """A `Widening` over any cost function, which it evaluates from scratch."""

    cost: Cost
    current: dict[str, int]
    asked: list[tuple[str, int]] = field(default_factory=list)

    @property
    def widths(self) -> dict[str, int]:
        return self.current

    @property
    def usage(self) -> Usage:
        return self.cost(self.current)

    def after(self, group: str, width: int) -> Usage:
        self.asked.append((group, width))
        return self.cost({**self.current, group: width})

    def widen(self, group: str, width: int) -> None:
        self.current[group] = width


@dataclass(frozen=True)
class Problem:
    """Everything `allocate` needs except the limits."""

    base: dict[str, int]
    multiples: dict[str, int]
    start: dict[str, int]
    predictors: dict[str, ImportancePredictor]
    stride: int
    max_width: float
    cost: Cost

    def solve(self, limit: Usage, mode: Mode = "greedy") -> Allocation:
        chain = Chain(self.cost, dict(self.start))
        found = allocate(
            chain,
            self.predictors,
            limit,
            Allocate(mode=mode, stride=self.stride, max_width=self.max_width),
            base=self.base,
            multiples=self.multiples,
        )
        assert chain.current == found.widths, "the network is left at the returned widths"
        assert decode(Allocation, canonical(found), "allocation") == found
        return found

    def next_width(self, group: str, width: int) -> int | None:
        """The width after one step, None at the cap."""
        multiple = self.multiples[group]
        stride = next(s for s in range(self.stride, 10_000) if s % multiple == 0)
        top = self.max_width * self.base[group]
        cap = max(c for c in range(0, 10_000, multiple) if c <= top)
        return min(width + stride, cap) if width < cap else None


def chain_cost(names: list[str], per_ms: list[int], grain: list[int], spatial: list[int]) -> Cost:
    """Weights between neighbours; latency in multiples of 1/1024 ms, so that sums are exact."""

    def cost(widths: Mapping[str, int]) -> Usage:
        row = [3, *(widths[n] for n in names), 10]
        stairs = [math.ceil(w / g) * g for w, g in zip(row, [1, *grain, 1], strict=True)]
        params = sum(9 * a * b for a, b in pairwise(row))
        pairs = zip(pairwise(stairs), [*per_ms, 1], [*spatial, 1], strict=True)
        latency = sum(k * (a * b // 16) + s * b for (a, b), k, s in pairs)
        return Usage(latency_ms=latency / 1024, params=params)

    return cost


def predictor(a: float, b: float) -> ImportancePredictor:
    return ImportancePredictor(a=a, b=b, b_se=0.0, r2=1.0, sum_r2=1.0, flag="")


@st.composite
def problems(draw: st.DrawFn, groups: int | None = None) -> Problem:
    count = groups or draw(st.integers(1, 5))
    names = [f"g{i}" for i in draw(st.permutations(range(count)))]
    multiples = {n: draw(st.sampled_from([1, 1, 2, 3, 8])) for n in names}
    base = {n: multiples[n] * draw(st.integers(1, 12)) for n in names}

    def several(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    return Problem(
        base=base,
        multiples=multiples,
        start=dict(base),
        predictors={
            # A coarse grid of levels, so that ties are common.
            n: predictor(2.0 ** draw(st.integers(-40, -28)), -draw(st.integers(1, 20)) / 10)
            for n in names
        },
        stride=draw(st.integers(1, 12)),
        max_width=draw(st.integers(4, 16)) / 4,
        cost=chain_cost(names, several(0, 5), several(1, 16), several(0, 50)),
    )


@st.composite
def limits_for(draw: st.DrawFn, problem: Problem) -> Usage:
    """Limits between the start and the capped network, now and then without effect."""
    low = problem.cost(problem.start)
    caps = {n: math.floor(problem.max_width * w) for n, w in problem.base.items()}
    high = problem.cost({n: max(caps[n], problem.start[n]) for n in caps})
    latency = draw(st.floats(low.latency_ms, max(low.latency_ms, high.latency_ms * 1.05)))
    params = draw(st.integers(low.params, math.ceil(high.params * 1.05)))
    return Usage(
        latency_ms=draw(st.sampled_from([latency, latency, float(UNLIMITED)])),
        params=draw(st.sampled_from([params, params, UNLIMITED])),
    )


def at_least(limit: Usage) -> st.SearchStrategy[Usage]:
    """Limits that are larger or equal in both resources."""
    factors = st.sampled_from([1.0, 1.01, 1.1, 1.5, 3.0])
    return st.builds(
        lambda f, g: Usage(latency_ms=limit.latency_ms * f, params=math.floor(limit.params * g)),
        factors,
        factors,
    )


# Two naive implementations, which compute everything anew in each step -------------------------


def trials(problem: Problem, widths: Mapping[str, int]) -> list[tuple[str, dict[str, int]]]:
    """(group, widths after its next step) of all groups below their cap, by falling a·C^b."""
    order = list(problem.start)
    ranked = sorted(
        order,
        key=lambda g: (
            -problem.predictors[g].a * widths[g] ** problem.predictors[g].b,
            order.index(g),
        ),
    )
    steps = [(group, problem.next_width(group, widths[group])) for group in ranked]
    return [(group, {**widths, group: wider}) for group, wider in steps if wider]


def naive(problem: Problem, limit: Usage, mode: Mode) -> list[tuple[str, int]]:
    """The steps as (group, new width).

    There is no set of closed groups: where usage never falls with a width, a step that does not
    fit now will not fit later either, so the best group whose step fits is the one to take.
    """
    widths = dict(problem.start)
    steps: list[tuple[str, int]] = []
    while True:
        candidates = trials(problem, widths)
        fitting = [
            (group, trial)
            for group, trial in (candidates[:1] if mode == "paper" else candidates)
            if problem.cost(trial).latency_ms <= limit.latency_ms
            and problem.cost(trial).params <= limit.params
        ]
        if not fitting:
            return steps
        group, widths = fitting[0]
        steps.append((group, widths[group]))


@pytest.mark.parametrize("mode", ["paper", "greedy"])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_step_is_that_of_the_naive_implementation(mode: Mode, data: st.DataObject) -> None:
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    found = problem.solve(limit, mode)
    assert [(s.group, s.width) for s in found.steps] == naive(problem, limit, mode)

    widths = dict(problem.start)
    for step in found.steps:
        expected = problem.predictors[step.group](widths[step.group])
        assert step.importance == expected
        widths[step.group] = step.width
        assert step.usage == problem.cost(widths)
        assert step.usage.within(limit)
    assert found.widths == widths
    assert found.start == problem.cost(problem.start)
    assert found.usage == problem.cost(widths)
    assert found.limit == limit


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_greedy_leaves_no_step_that_fits_and_says_why_not(data: st.DataObject) -> None:
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    found = problem.solve(limit)
    assert set(found.closed) == set(problem.start)
    for group, reason in found.closed.items():
        width = problem.next_width(group, found.widths[group])
        assert (width is None) == (reason == "width cap")
        if width is not None:
            after = problem.cost({**found.widths, group: width})
            assert not after.within(limit)
            if reason == "params":
                assert after.params > limit.params


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_paper_ends_where_the_best_step_does_not_fit(data: st.DataObject) -> None:
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    found = problem.solve(limit, "paper")
    for best, trial in trials(problem, found.widths)[:1]:
        assert not problem.cost(trial).within(limit)
        assert found.closed[best] != "width cap"
    # Greedy goes on from there.
    greedy = problem.solve(limit, "greedy")
    assert greedy.steps[: len(found.steps)] == found.steps


@pytest.mark.parametrize("mode", ["paper", "greedy"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_limit_is_broken_even_by_costs_that_jump_up_and_down(
    mode: Mode, data: st.DataObject
) -> None:
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    jumps = data.draw(st.lists(st.floats(0.2, 5), min_size=7, max_size=7))

    def jumping(widths: Mapping[str, int]) -> Usage:
        usage = problem.cost(widths)
        factor = 1.0 if widths == problem.start else jumps[sum(widths.values()) % 7]
        return replace(usage, latency_ms=usage.latency_ms * factor)

    found = replace(problem, cost=jumping).solve(limit, mode)
    assert found.usage == jumping(found.widths)
    assert found.usage.within(limit)
    assert all(step.usage.within(limit) for step in found.steps)


# Larger limits -------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_paper_with_larger_limits_never_narrows_a_group(data: st.DataObject) -> None:
    """Limits do not enter the choice, only the end: the smaller run is a prefix of the larger."""
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    small = problem.solve(limit, "paper")
    large = problem.solve(data.draw(at_least(limit)), "paper")
    assert large.steps[: len(small.steps)] == small.steps
    assert all(large.widths[g] >= w for g, w in small.widths.items())


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_greedy_with_larger_limits_is_the_same_or_exceeds_the_smaller_limits(
    data: st.DataObject,
) -> None:
    """Let L ≤ L' in both resources and usage never fall with a width.

    The two runs choose alike as long as the same groups are closed, so they agree up to the first
    step that fits L' but not L. If there is none, the results are the same. Otherwise the larger
    run is over L in some resource from that step on, as its widths only grow, and there it uses
    more than the smaller run, which is within L. So the larger run is never smaller or equal in
    every resource unless it is the same; with a single limit it uses strictly more of that
    resource. It may use less of the *other* resource, and a single group may be narrower
    (see the example below).
    """
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    small = problem.solve(limit)
    larger = data.draw(at_least(limit))
    large = problem.solve(larger)
    assert large.widths == small.widths or not large.usage.within(limit)
    if limit.params == UNLIMITED:
        assert large.usage.latency_ms >= small.usage.latency_ms
        assert large.widths == small.widths or large.usage.latency_ms > limit.latency_ms
    if limit.latency_ms == UNLIMITED:
        assert large.usage.params >= small.usage.params
        assert large.widths == small.widths or large.usage.params > limit.params


def test_greedy_with_a_larger_limit_can_narrow_a_group() -> None:
    """10 more parameters let the big step in that kept the small ones out."""

    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=1.0, params=100 * (widths["big"] - 1) + 10 * (widths["small"] - 1))

    problem = Problem(
        base={"big": 1, "small": 1},
        multiples={"big": 1, "small": 1},
        start={"big": 1, "small": 1},
        predictors={"big": predictor(2.0, -1), "small": predictor(1.0, -1)},
        stride=1,
        max_width=9,
        cost=cost,
    )
    small = problem.solve(Usage(latency_ms=1.0, params=90))
    large = problem.solve(Usage(latency_ms=1.0, params=100))
    assert small.widths == {"big": 1, "small": 9}
    assert large.widths == {"big": 2, "small": 1}


# What does not matter, and what does ----------------------------------------------------------


@pytest.mark.parametrize("mode", ["paper", "greedy"])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_scale_of_importance_does_not_matter(mode: Mode, data: st.DataObject) -> None:
    """Powers of two, which are exact in floating point, so that ties stay ties."""
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    factor = 2.0 ** data.draw(st.integers(-200, 200))
    scaled = replace(
        problem,
        predictors={g: replace(p, a=p.a * factor) for g, p in problem.predictors.items()},
    )
    one, other = problem.solve(limit, mode), scaled.solve(limit, mode)
    assert other.widths == one.widths
    assert other.closed == one.closed
    assert [s.usage for s in other.steps] == [s.usage for s in one.steps]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_equal_input_gives_an_equal_result(data: st.DataObject) -> None:
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    assert canonical(problem.solve(limit)) == canonical(problem.solve(limit))


@pytest.mark.parametrize("mode", ["paper", "greedy"])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_single_group_gets_everything(mode: Mode, data: st.DataObject) -> None:
    problem = data.draw(problems(groups=1))
    limit = data.draw(limits_for(problem))
    (group,) = problem.start
    width = problem.start[group]
    while (wider := problem.next_width(group, width)) and problem.cost({group: wider}).within(
        limit
    ):
        width = wider
    assert problem.solve(limit, mode).widths == {group: width}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_widths_are_valid_and_below_the_cap(data: st.DataObject) -> None:
    problem = data.draw(problems())
    found = problem.solve(data.draw(limits_for(problem)))
    for group, width in found.widths.items():
        assert width % problem.multiples[group] == 0
        assert problem.start[group] <= width <= problem.max_width * problem.base[group]


def two_groups(**changes: Any) -> Problem:
    problem = Problem(
        base={"a": 100, "b": 100},
        multiples={"a": 1, "b": 1},
        start={"a": 100, "b": 100},
        predictors={"a": predictor(1.0, -1.0), "b": predictor(1.0, -1.0)},
        stride=8,
        max_width=1.15,
        cost=chain_cost(["a", "b"], [1, 1], [1, 1], [1, 1]),
    )
    return replace(problem, **changes)


FREE = Usage(latency_ms=float(UNLIMITED), params=UNLIMITED)


def test_ties_go_to_the_first_group_and_the_last_step_is_cut_to_the_cap() -> None:
    """1.15 × 100 is 114.99999999999999 in floating point; the cap is 115."""
    found = two_groups().solve(FREE)
    assert [(s.group, s.width) for s in found.steps] == [
        ("a", 108),
        ("b", 108),
        ("a", 115),
        ("b", 115),
    ]
    assert found.closed == {"a": "width cap", "b": "width cap"}
    assert found.stop_reason.startswith("width cap reached: ")


def test_the_order_of_the_network_breaks_ties_not_that_of_the_other_mappings() -> None:
    found = two_groups(start={"b": 100, "a": 100}).solve(FREE)
    assert found.steps[0].group == "b"


def test_strides_are_rounded_up_and_caps_down_to_the_multiple() -> None:
    found = two_groups(
        base={"a": 12, "b": 100},
        start={"a": 12, "b": 100},
        multiples={"a": 6, "b": 1},
        max_width=2.9,
    ).solve(FREE)
    assert [s.width for s in found.steps if s.group == "a"] == [24, 30]


def test_a_start_beyond_the_cap_stays_as_it_is() -> None:
    found = two_groups(start={"a": 130, "b": 100}).solve(FREE)
    assert found.widths == {"a": 130, "b": 115}
    assert found.closed["a"] == "width cap"


def test_groups_predicted_to_be_zero_come_last() -> None:
    found = two_groups(predictors={"a": predictor(0.0, -1), "b": predictor(1e-9, -1)}).solve(FREE)
    assert [s.group for s in found.steps] == ["b", "b", "a", "a"]


def test_stop_reason_tells_what_is_used_of_what() -> None:
    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=widths["a"] / 100, params=10_000 * widths["b"])

    problem = two_groups(cost=cost, max_width=4)
    found = problem.solve(Usage(latency_ms=1.2, params=1_330_000))
    assert found.closed == {"a": "latency", "b": "params"}
    assert found.stop_reason == (
        "latency limit and parameter limit reached: 1.16 of 1.2 ms and 1,320,000 of 1,330,000 "
        "parameters used"
    )
    paper = problem.solve(Usage(latency_ms=1.2, params=1_330_000), "paper")
    assert paper.closed == {"a": "latency"}
    assert paper.stop_reason.startswith("latency limit reached: 1.16 of 1.2 ms and ")


def test_a_step_that_breaks_both_limits_is_closed_by_latency() -> None:
    problem = two_groups()
    found = problem.solve(problem.cost(problem.start))
    assert found.closed == {"a": "latency", "b": "latency"}


def test_a_start_over_a_limit_is_refused_with_what_it_needs() -> None:
    problem = two_groups()
    start = problem.cost(problem.start)
    slow = replace(FREE, latency_ms=start.latency_ms / 2)
    with pytest.raises(UserError, match=f"already takes {start.latency_ms:.6g} ms.*limits.latency"):
        problem.solve(slow)
    small = replace(FREE, params=start.params - 1)
    with pytest.raises(UserError, match=f"already has {start.params} parameters.*limits.params"):
        problem.solve(small)
    assert problem.solve(start).widths == problem.start, "limits that the start just keeps"


def test_an_unknown_latency_is_not_taken_for_a_small_one() -> None:
    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=1.0 if widths["a"] == 100 else math.nan, params=1)

    found = two_groups(cost=cost).solve(FREE)
    assert found.widths == {"a": 100, "b": 115}
    assert found.closed["a"] == "latency"


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_each_step_and_each_closing_asks_for_one_cost(data: st.DataObject) -> None:
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    assume(problem.cost(problem.start).within(limit))
    chain = Chain(problem.cost, dict(problem.start))
    found = allocate(
        chain,
        problem.predictors,
        limit,
        Allocate(stride=problem.stride, max_width=problem.max_width),
        base=problem.base,
        multiples=problem.multiples,
    )
    refused = sum(reason != "width cap" for reason in found.closed.values())
    assert len(chain.asked) == len(found.steps) + refused
