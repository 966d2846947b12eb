"""Algorithm 1 against naive implementations, and the properties that hold for any costs.

The costs here are of a chain of layers, group i between group i − 1 and group i + 1, so that the
price of a step depends on the widths beside it. Latency is a staircase in the widths.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.allocation import MOST_STEPS, allocate, shortened
from engine.codec import canonical, decode
from engine.errors import UserError
from engine.limits import Usage
from engine.recipe import Allocate, Choice
from engine.results import Allocation, ImportancePredictor

Cost = Callable[[Mapping[str, int]], Usage]
Mode = Literal["paper", "greedy"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
WITHOUT_LIMITS: tuple[Choice, ...] = tuple(c for c in CHOICES if c != "per-limit")

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
    stride: int | None
    max_width: float
    cost: Cost
    plateaus: dict[str, int]

    def settings(self, mode: Mode, choice: Choice = "importance") -> Allocate:
        return Allocate(mode=mode, choice=choice, stride=self.stride, max_width=self.max_width)

    def solve(
        self, limit: Usage, mode: Mode = "greedy", choice: Choice = "importance"
    ) -> Allocation:
        chain = Chain(self.cost, dict(self.start))
        found = self.widen(chain, limit, mode, choice)
        assert chain.current == found.widths, "the network is left at the returned widths"
        assert decode(Allocation, canonical(found), "allocation") == found
        return found

    def widen(
        self, chain: Chain, limit: Usage, mode: Mode = "greedy", choice: Choice = "importance"
    ) -> Allocation:
        return allocate(
            chain,
            self.predictors,
            limit,
            self.settings(mode, choice),
            base=self.base,
            multiples=self.multiples,
            plateaus=self.plateaus,
        )

    def stride_of(self, group: str, mode: Mode) -> int:
        if self.stride is None and mode == "greedy":
            return self.plateaus[group]
        stride = self.stride or 10
        return next(s for s in range(stride, 10_000) if s % self.multiples[group] == 0)

    def next_width(self, group: str, width: int, mode: Mode = "greedy") -> int | None:
        """The width after one step, None at the cap."""
        multiple, stride = self.multiples[group], self.stride_of(group, mode)
        top = self.max_width * self.base[group]
        cap = max(c for c in range(0, 10_000, multiple) if c <= top)
        if mode == "paper":
            wider = width + stride
        else:
            wider = next(w for w in range(width + 1, 20_000) if w % stride == 0)
        return min(wider, cap) if width < cap else None


def chain_cost(names: list[str], per_ms: list[int], grain: list[int], spatial: list[int]) -> Cost:
    """Weights between neighbours; latency in multiples of 1/1024 ms, so that sums are exact."""

    def cost(widths: Mapping[str, int]) -> Usage:
        row = [3, *(widths[n] for n in names), 10]
        stairs = [math.ceil(w / g) * g for w, g in zip(row, [1, *grain, 1], strict=True)]
        params = sum(9 * a * b for a, b in pairwise(row))
        pairs = zip(pairwise(stairs), [*per_ms, 1], [*spatial, 1], strict=True)
        latency = sum(k * (a * b // 16) + s * b for (a, b), k, s in pairs)
        # Of two neighbouring activations, a maximum over layers.
        peak = max(s * a + s * b for (a, b), s in zip(pairwise(row), [*spatial, 1], strict=True))
        return Usage(latency_ms=latency / 1024, params=params, memory_bytes=4 * (params + peak))

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
        stride=draw(st.one_of(st.none(), st.integers(1, 12))),
        plateaus={n: m * draw(st.sampled_from([1, 2, 4, 5])) for n, m in multiples.items()},
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
    memory = draw(st.integers(low.memory_bytes or 0, math.ceil((high.memory_bytes or 0) * 1.05)))
    return Usage(
        latency_ms=draw(st.sampled_from([latency, latency, float(UNLIMITED)])),
        params=draw(st.sampled_from([params, params, UNLIMITED])),
        memory_bytes=draw(st.sampled_from([memory, None, None])),
    )


def at_least(limit: Usage) -> st.SearchStrategy[Usage]:
    """Limits that are larger or equal in both resources."""
    factors = st.sampled_from([1.0, 1.01, 1.1, 1.5, 3.0])
    return st.builds(
        lambda f, g, h: Usage(
            latency_ms=limit.latency_ms * f,
            params=math.floor(limit.params * g),
            memory_bytes=limit.memory_bytes and math.floor(limit.memory_bytes * h),
        ),
        factors,
        factors,
        factors,
    )


# Two naive implementations, which compute everything anew in each step -------------------------


def trials(
    problem: Problem, widths: Mapping[str, int], limit: Usage, mode: Mode, choice: Choice
) -> list[tuple[str, dict[str, int]]]:
    """(group, widths after its next step) of all groups below their cap, the best first."""
    order = list(problem.start)
    before = problem.cost(widths)
    ranked: list[tuple[bool, float, int, str, dict[str, int]]] = []
    for group in order:
        wider = problem.next_width(group, widths[group], mode)
        if wider is None:
            continue
        trial = {**widths, group: wider}
        after = problem.cost(trial)
        if abs(after.latency_ms - before.latency_ms) < 1e-9:
            after = replace(after, latency_ms=before.latency_ms)
        free = False
        score = problem.predictors[group].a * widths[group] ** problem.predictors[group].b
        if choice != "importance":
            score *= wider - widths[group]
            resources = {"per-ms": "latency_ms", "per-param": "params"}
            if choice in resources:
                name = resources[choice]
                price = getattr(after, name) - getattr(before, name)
            else:
                price = 0.0
                for name in ("latency_ms", "params", "memory_bytes"):
                    most = getattr(limit, name)
                    if most is None or getattr(after, name) == getattr(before, name):
                        continue
                    left = most - getattr(before, name)
                    added = getattr(after, name) - getattr(before, name)
                    price += added / left if left else math.inf
            free = score > 0 and price <= 0
            score = score / price if price > 0 else score
        ranked.append((not free, -score, order.index(group), group, trial))
    return [(group, trial) for *_, group, trial in sorted(ranked, key=lambda r: r[:3])]


def keeps(usage: Usage, limit: Usage) -> bool:
    return (
        usage.latency_ms <= limit.latency_ms
        and usage.params <= limit.params
        and (limit.memory_bytes is None or (usage.memory_bytes or 0) <= limit.memory_bytes)
    )


def naive(problem: Problem, limit: Usage, mode: Mode, choice: Choice) -> list[tuple[str, int]]:
    """The steps as (group, new width).

    There is no set of closed groups but for what stands between two multiples of its stride and
    got the channels that fit there: where usage never falls with a width, any other step that does
    not fit now will not fit later either.
    """
    widths = dict(problem.start)
    steps: list[tuple[str, int]] = []
    done: set[str] = set()
    while True:
        for group, trial in trials(problem, widths, limit, mode, choice):
            if group in done:
                continue
            taken = trial
            if keeps(problem.cost(trial), limit):
                break
            if mode == "paper":
                return steps
            done.add(group)
            width, multiple = widths[group], problem.multiples[group]
            between = [
                {**widths, group: w}
                for w in range(width + multiple, trial[group], multiple)
                if width % problem.stride_of(group, mode)
            ]
            fitting = [t for t in between if keeps(problem.cost(t), limit)]
            if fitting:
                taken = fitting[-1]
                break
        else:
            return steps
        widths = taken
        steps.append((group, widths[group]))


MODES = [("paper", "importance"), *(("greedy", choice) for choice in CHOICES)]


@pytest.mark.parametrize(("mode", "choice"), MODES)
@settings(max_examples=60)
@given(data=st.data())
def test_every_step_is_that_of_the_naive_implementation(
    mode: Mode, choice: Choice, data: st.DataObject
) -> None:
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    found = problem.solve(limit, mode, choice)
    assert [(s.group, s.width) for s in found.steps] == naive(problem, limit, mode, choice)

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


@settings(max_examples=60)
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
            if reason == "memory":
                assert limit.memory_bytes is not None
                assert (after.memory_bytes or 0) > limit.memory_bytes


@settings(max_examples=100)
@given(data=st.data())
def test_paper_ends_where_the_best_step_does_not_fit(data: st.DataObject) -> None:
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    found = problem.solve(limit, "paper")
    for best, trial in trials(problem, found.widths, limit, "paper", "importance")[:1]:
        assert not problem.cost(trial).within(limit)
        assert found.closed[best] != "width cap"


@pytest.mark.parametrize("mode", ["paper", "greedy"])
@settings(max_examples=100)
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


@settings(max_examples=60)
@given(data=st.data())
def test_paper_with_larger_limits_never_narrows_a_group(data: st.DataObject) -> None:
    """Limits do not enter the choice, only the end: the smaller run is a prefix of the larger."""
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    small = problem.solve(limit, "paper")
    large = problem.solve(data.draw(at_least(limit)), "paper")
    assert large.steps[: len(small.steps)] == small.steps
    assert all(large.widths[g] >= w for g, w in small.widths.items())


@settings(max_examples=100)
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
    (see the example below). ``per-limit`` looks at the limits, so its runs agree in nothing.
    """
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    choice = data.draw(st.sampled_from(WITHOUT_LIMITS))
    small = problem.solve(limit, choice=choice)
    larger = data.draw(at_least(limit))
    large = problem.solve(larger, choice=choice)
    assert large.widths == small.widths or not large.usage.within(limit)
    if limit.params == UNLIMITED and limit.memory_bytes is None:
        assert large.usage.latency_ms >= small.usage.latency_ms
        assert large.widths == small.widths or large.usage.latency_ms > limit.latency_ms
    if limit.latency_ms == UNLIMITED and limit.memory_bytes is None:
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
        plateaus={"big": 1, "small": 1},
    )
    small = problem.solve(Usage(latency_ms=1.0, params=90))
    large = problem.solve(Usage(latency_ms=1.0, params=100))
    assert small.widths == {"big": 1, "small": 9}
    assert large.widths == {"big": 2, "small": 1}


# What does not matter, and what does ----------------------------------------------------------


@pytest.mark.parametrize("mode", ["paper", "greedy"])
@settings(max_examples=50)
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


@settings(max_examples=50)
@given(data=st.data())
def test_equal_input_gives_an_equal_result(data: st.DataObject) -> None:
    problem = data.draw(problems())
    limit = data.draw(limits_for(problem))
    assert canonical(problem.solve(limit)) == canonical(problem.solve(limit))


@settings(max_examples=100)
@given(data=st.data(), slower=st.floats(1, 1.5))
def test_a_shortened_allocation_takes_back_no_more_steps_than_a_slower_device_asks_for(
    data: st.DataObject, slower: float
) -> None:
    problem = data.draw(problems())
    found = problem.solve(data.draw(limits_for(problem)))
    most = found.limit.latency_ms
    less = shortened(found, problem.start, slower)
    kept = len(less.steps)
    assert [(s.group, s.width) for s in less.steps] == [
        (s.group, s.width) for s in found.steps[:kept]
    ]
    assert less.widths == problem.start | {s.group: s.width for s in found.steps[:kept]}
    assert less.usage.latency_ms == pytest.approx(slower * problem.cost(less.widths).latency_ms)
    assert less.usage.params == problem.cost(less.widths).params
    assert less.usage.latency_ms <= most or not less.steps
    assert all(step.usage.latency_ms * slower > most for step in found.steps[kept:])
    assert less.closed.keys() == less.widths.keys()
    if kept == len(found.steps):
        assert less.closed == found.closed
    else:
        assert "latency" in less.closed.values()


@pytest.mark.parametrize("mode", ["paper", "greedy"])
@settings(max_examples=50)
@given(data=st.data())
def test_a_single_group_gets_everything(mode: Mode, data: st.DataObject) -> None:
    problem = data.draw(problems(groups=1))
    limit = data.draw(limits_for(problem))
    (group,) = problem.start
    width = problem.start[group]
    while (wider := problem.next_width(group, width, mode)) and problem.cost({group: wider}).within(
        limit
    ):
        width = wider
    if wider and mode == "greedy" and width % problem.stride_of(group, mode):
        fitting = range(width, wider, problem.multiples[group])
        width = max(w for w in fitting if problem.cost({group: w}).within(limit))
    assert problem.solve(limit, mode).widths == {group: width}


@settings(max_examples=100)
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
        plateaus={"a": 16, "b": 16},
    )
    return replace(problem, **changes)


FREE = Usage(latency_ms=float(UNLIMITED), params=UNLIMITED)


def test_ties_go_to_the_first_group_and_the_last_step_is_cut_to_the_cap() -> None:
    """1.15 × 100 is 114.99999999999999 in floating point; the cap is 115."""
    found = two_groups().solve(FREE)
    assert [(s.group, s.width) for s in found.steps] == [
        ("a", 104),
        ("b", 104),
        ("a", 112),
        ("b", 112),
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
    assert [s.group for s in found.steps] == ["b", "b", "b", "a", "a", "a"]


def test_stop_reason_tells_what_is_used_of_what() -> None:
    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=widths["a"] / 100, params=10_000 * widths["b"])

    problem = two_groups(cost=cost, max_width=4)
    found = problem.solve(Usage(latency_ms=1.18, params=1_330_000))
    assert found.closed == {"a": "latency", "b": "params"}
    assert found.stop_reason == (
        "latency limit and parameter limit reached: 1.12 of 1.18 ms and 1,280,000 of 1,330,000 "
        "parameters used"
    )
    paper = problem.solve(Usage(latency_ms=1.18, params=1_330_000), "paper")
    assert paper.closed == {"a": "latency"}
    assert paper.stop_reason.startswith("latency limit reached: 1.16 of 1.18 ms and ")


def test_a_step_that_breaks_both_limits_is_closed_by_latency() -> None:
    problem = two_groups()
    found = problem.solve(problem.cost(problem.start))
    assert found.closed == {"a": "latency", "b": "latency"}


def test_a_start_over_a_limit_is_refused_with_what_it_needs() -> None:
    problem = two_groups()
    start = problem.cost(problem.start)
    slow = replace(FREE, latency_ms=start.latency_ms / 2)
    with pytest.raises(UserError, match=f"take {start.latency_ms:.6g} ms.*limits.latency"):
        problem.solve(slow)
    small = replace(FREE, params=start.params - 1)
    with pytest.raises(UserError, match=f"have {start.params} parameters.*limits.params"):
        problem.solve(small)
    assert problem.solve(start).widths == problem.start, "limits that the start just keeps"


def test_an_unknown_latency_is_not_taken_for_a_small_one() -> None:
    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=1.0 if widths["a"] == 100 else math.nan, params=1)

    found = two_groups(cost=cost).solve(FREE)
    assert found.widths == {"a": 100, "b": 115}
    assert found.closed["a"] == "latency"


@settings(max_examples=50)
@given(data=st.data())
def test_each_step_and_each_closing_asks_for_one_cost(data: st.DataObject) -> None:
    problem = data.draw(problems())
    base = {g: w * problem.stride_of(g, "greedy") for g, w in problem.base.items()}
    # Steps of wider groups are of several plateaus, and are cut where they do not fit.
    assume(problem.stride is not None or max(base.values()) <= MOST_STEPS)
    problem = replace(problem, base=base, start=dict(base))
    limit = data.draw(limits_for(problem))
    assume(problem.cost(problem.start).within(limit))
    chain = Chain(problem.cost, dict(problem.start))
    found = problem.widen(chain, limit)
    refused = sum(reason != "width cap" for reason in found.closed.values())
    assert len(chain.asked) == len(found.steps) + refused


def test_a_wide_group_takes_steps_of_several_channels_and_at_the_end_as_many_as_fit() -> None:
    """Of 512 channels a step is eight; of a limit of 1,030 in all, 6 are left after 64 steps."""

    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=1.0, params=sum(widths.values()))

    problem = replace(
        two_groups(stride=None, cost=cost, max_width=3),
        base={"a": 512, "b": 1}, start={"a": 512, "b": 1}, plateaus={"a": 1, "b": 1},
    )  # fmt: skip
    found = problem.solve(Usage(latency_ms=1.0, params=1030))
    widths = [step.width for step in found.steps if step.group == "a"]
    assert widths[:3] == [520, 528, 536]
    assert sum(found.widths.values()) == 1030
    assert all(after - before == 8 for before, after in pairwise(widths[:-1]))


# Plateaus, choices, memory --------------------------------------------------------------------


def test_a_step_fills_a_plateau_of_the_device() -> None:
    """100 channels stand on the plateau of 16 that ends at 112."""
    found = two_groups(stride=None, max_width=1.3, multiples={"a": 2, "b": 1}).solve(FREE)
    assert [s.width for s in found.steps if s.group == "a"] == [112, 128, 130]
    paper = two_groups(stride=None, max_width=1.3).solve(FREE, "paper")
    assert [s.width for s in paper.steps if s.group == "a"] == [110, 120, 130]


def test_channels_of_a_plateau_that_is_paid_for_are_taken_one_by_one_at_the_end() -> None:
    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=1.0, params=sum(widths.values()))

    problem = two_groups(stride=None, cost=cost, max_width=2)
    found = problem.solve(Usage(latency_ms=1.0, params=217))
    # a fills its plateau with 12 channels; 5 of the 12 that b has free still fit.
    assert found.widths == {"a": 112, "b": 105}
    assert found.closed["b"] == "params"
    aligned = replace(problem, base={"a": 96, "b": 96}, start={"a": 96, "b": 96})
    assert aligned.solve(Usage(latency_ms=1.0, params=213)).widths == {"a": 112, "b": 96}


def test_a_choice_by_cost_prefers_what_is_cheap() -> None:
    def cost(widths: Mapping[str, int]) -> Usage:
        a, b = widths["a"] - 100, widths["b"] - 100
        return Usage(latency_ms=(a + 4 * b) / 100 + 1, params=1000 + 100 * a + b)

    problem = two_groups(cost=cost, predictors={"a": predictor(2, -1), "b": predictor(3, -1)})
    chosen: dict[Choice, str] = {"importance": "b", "per-ms": "a", "per-param": "b"}
    for choice, group in chosen.items():
        assert problem.solve(FREE, choice=choice).steps[0].group == group
    # A first step adds 4 channels, worth 8 in a and 12 in b, for 0.04 ms and 400 parameters in a
    # and 0.16 ms and 4 parameters in b. Of 1 ms and 1,000 parameters: 8/0.44 and 12/0.164.
    few_params = Usage(latency_ms=2, params=2000)
    assert problem.solve(few_params, choice="per-limit").steps[0].group == "b"
    # Of 0.2 ms and 10⁶ parameters: 8/0.2004 and 12/0.800004.
    little_time = Usage(latency_ms=1.2, params=1_001_000)
    assert problem.solve(little_time, choice="per-limit").steps[0].group == "a"


def test_the_choice_by_limits_comes_near_the_best_of_a_linear_program() -> None:
    """Of 4a + 3b under 2a + b ≤ 100 and a + 2b ≤ 100 the best is 33⅓ of each, not 50 of a."""

    def cost(widths: Mapping[str, int]) -> Usage:
        a, b = widths["a"] - 100, widths["b"] - 100
        return Usage(latency_ms=1 + (2 * a + b) / 100, params=100 + a + 2 * b)

    worth = {"a": predictor(4, -0.001), "b": predictor(3, -0.001)}
    problem = two_groups(cost=cost, predictors=worth, stride=1, max_width=4)
    limit = Usage(latency_ms=2, params=200)
    assert problem.solve(limit).widths == {"a": 150, "b": 100}
    found = problem.solve(limit, choice="per-limit")
    value = 4 * (found.widths["a"] - 100) + 3 * (found.widths["b"] - 100)
    assert 0.95 * 700 / 3 < value <= 700 / 3


def test_a_free_step_is_taken_before_all_others() -> None:
    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=1 + widths["a"] / 100, params=1)

    problem = two_groups(cost=cost, predictors={"a": predictor(9, -1), "b": predictor(1, -1)})
    assert problem.solve(FREE, choice="per-ms").steps[0].group == "b"


def test_free_steps_go_by_importance() -> None:
    """Rounding is no price, and a group that adds nothing goes last however little it costs."""

    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=1 + 1e-12 * widths["a"], params=sum(widths.values()))

    problem = two_groups(cost=cost, predictors={"a": predictor(1, -1), "b": predictor(9, -1)})
    assert problem.solve(FREE, choice="per-ms").steps[0].group == "b"
    dead = replace(problem, predictors={"a": predictor(0, -1), "b": predictor(9, -1)})
    assert dead.solve(FREE, choice="per-ms").steps[0].group == "b"


def test_the_printed_loop_knows_one_choice() -> None:
    with pytest.raises(ValueError, match="choice must be importance with mode paper"):
        Allocate(mode="paper", choice="per-ms")


def test_memory_is_a_limit_like_the_others() -> None:
    def cost(widths: Mapping[str, int]) -> Usage:
        return Usage(latency_ms=1, params=1, memory_bytes=max(widths.values()))

    problem = two_groups(cost=cost, max_width=4)
    found = problem.solve(replace(FREE, memory_bytes=130))
    # Steps lead to multiples of 8, which 100 is not.
    assert found.widths == {"a": 128, "b": 128}
    assert set(found.closed.values()) == {"memory"}
    assert found.stop_reason.endswith("and 128 of 130 bytes used")
    assert found.stop_reason.startswith("memory limit reached")
    with pytest.raises(UserError, match=r"take 100 bytes .* limits\.memory"):
        problem.solve(replace(FREE, memory_bytes=99))


def test_a_memory_that_is_not_known_keeps_no_limit() -> None:
    used = Usage(latency_ms=1, params=1)
    assert used.within(Usage(latency_ms=1, params=1))
    assert not used.within(Usage(latency_ms=1, params=1, memory_bytes=10**9))
