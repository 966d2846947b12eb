"""Methods that train networks of their own: resumable, as published, right where it is known."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from test_peers import filter_norms, loss, question, trained, usage

from engine.errors import UserError
from engine.limits import Usage
from engine.peers import legr
from engine.peers.contract import Method, Question
from engine.peers.depth import Compound, deeper
from engine.peers.grid import CompoundGrid, grid
from engine.peers.growing import NetAdaptGrowing, widened
from engine.peers.inherited import FineTuning, oversized
from engine.peers.legr import LeGR, Ranking, cut
from engine.peers.netadapt import NetAdapt, narrowed
from engine.peers.steps import PUBLISHED, Steps, best_trained
from engine.peers.uniform import Uniform
from engine.rows import Row, TrainingTask
from engine.spec import NetworkSpec

THAT_TRAIN: tuple[Method, ...] = (
    CompoundGrid(),
    NetAdapt(),
    NetAdaptGrowing(steps=Steps(first=0.3, decay=1.0)),
    LeGR(evaluations=14, population=4),
)


class Trainings:
    """Rows that are kept, as in a ledger, and weights that trainings start from.

    Args:
        dies_after: new trainings after which the driver is killed.
    """

    def __init__(self, dies_after: int | None = None) -> None:
        self.rows: dict[str, Row] = {}
        self.new: list[TrainingTask] = []
        self.weights: set[str] = set()
        self.dies_after = dies_after

    def __call__(self, tasks: Sequence[TrainingTask]) -> list[Row]:
        for task in tasks:
            if task.id in self.rows:
                continue
            if len(self.new) == self.dies_after:
                raise KeyboardInterrupt
            if task.start is not None:
                assert task.start.row in self.weights
                assert self.rows[task.start.row].task.spec == task.start.spec
            self.new.append(task)
            self.rows[task.id] = trained([task])[0]
            if task.keep_weights:
                self.weights.add(task.id)
        return [self.rows[task_id] for task_id in dict.fromkeys(task.id for task in tasks)]

    def release(self, rows: Sequence[Row]) -> None:
        self.weights -= {row.task.id for row in rows}

    def ask(self, method: Method, asked: Question) -> NetworkSpec:
        return method.propose(replace(asked, train=self, release=self.release))


@pytest.mark.parametrize("method", THAT_TRAIN, ids=lambda method: method.name)
def test_what_was_trained_is_not_trained_again(method: Method) -> None:
    whole = Trainings()
    answer = whole.ask(method, question(1.3, 1.5))
    assert len(whole.new) > 5 and len(whole.new) == len(whole.rows)
    for killed_after in (1, len(whole.new) // 2):
        trainings = Trainings(dies_after=killed_after)
        with pytest.raises(KeyboardInterrupt):
            trainings.ask(method, question(1.3, 1.5))
        trainings.dies_after = None
        assert trainings.ask(method, question(1.3, 1.5)) == answer
        assert trainings.new == whole.new
    whole.dies_after = len(whole.new)
    assert whole.ask(method, question(1.3, 1.5)) == answer


@pytest.mark.parametrize("method", THAT_TRAIN, ids=lambda method: method.name)
def test_a_corrected_limit_takes_few_further_trainings(method: Method) -> None:
    trainings, stated = Trainings(), question(1.3, 1.5)
    trainings.ask(method, stated)
    before = len(trainings.new)
    corrected = replace(stated.limit, latency_ms=0.97 * stated.limit.latency_ms)
    answer = trainings.ask(method, replace(stated, limit=corrected))
    assert usage(answer).latency_ms <= corrected.latency_ms
    further = len(trainings.new) - before
    assert further == 0 if isinstance(method, LeGR | CompoundGrid) else further < before / 2


@pytest.mark.parametrize("method", THAT_TRAIN, ids=lambda method: method.name)
def test_a_step_whose_trainings_all_fail_is_one_line(method: Method) -> None:
    asked = replace(question(1.3, 1.5), train=lambda tasks: [])
    with pytest.raises(UserError, match="every training of a step failed"):
        method.propose(asked)


def test_a_batch_that_is_lost_does_not_end_an_evolution() -> None:
    lost: list[int] = []

    def train(tasks: Sequence[TrainingTask]) -> list[Row]:
        lost.append(len(tasks))
        return [] if len(lost) in (3, 4) else trained(tasks)

    method = LeGR(evaluations=10, population=4, parallel=1)
    asked = replace(question(1.3, 1.5), train=train)
    assert usage(method.propose(asked)).latency_ms <= asked.limit.latency_ms
    assert len(lost) > 4
    asked = replace(asked, train=lambda tasks: trained(tasks) if tasks[0].start is None else [])
    with pytest.raises(UserError, match="every training of the evolution failed"):
        method.propose(asked)


@pytest.mark.parametrize("method", [NetAdapt(), NetAdaptGrowing(), LeGR()], ids=lambda m: m.name)
def test_the_truth_of_a_known_surface_is_worth_more_than_uniform_widths(method: Method) -> None:
    asked = question(1.5, 1.5)
    base = asked.base.width_of
    blind = loss(Uniform().propose(asked).width_of, base, 32)
    assert loss(method.propose(asked).width_of, base, 32) < blind - 0.03


# NetAdapt --------------------------------------------------------------------------------------


def test_the_steps_are_the_published_ones() -> None:
    """R_i = R_{i-1} - 0.025·R₀·0.96^(i-1), worked out by hand for R₀ = 100."""
    usages = [100.0]
    for iteration in (1, 2, 3, 4):
        usages.append(usages[-1] - 100 * PUBLISHED.share(iteration))
    assert usages == pytest.approx([100, 97.5, 95.1, 92.796, 90.58416])
    # 0.96^34 is the first power below a quarter: until the 34th nothing differs.
    assert PUBLISHED.share(34) == pytest.approx(0.025 * 0.96**33)
    assert PUBLISHED.share(100) == 0.025 / 4
    with pytest.raises(ValueError, match="share"):
        Steps(first=1.0)


def test_every_network_is_the_widest_that_reaches_the_target() -> None:
    """All trainings of a search in which latency alone is limited, against single channels."""
    trainings, asked = Trainings(), question(1.3, 1000.0)
    answer = trainings.ask(NetAdapt(), asked)
    start, *candidates = trainings.new
    first = usage(start.spec).latency_ms
    by_parent: dict[NetworkSpec, list[NetworkSpec]] = {}
    for task in candidates:
        assert task.start is not None and task.keep_weights
        by_parent.setdefault(task.start.spec, []).append(task.spec)
    assert start.keep_weights and start.spec == oversized(asked) and len(by_parent) > 3
    for iteration, (parent, made) in enumerate(by_parent.items(), start=1):
        step = 0.1 * 0.96 ** (iteration - 1) * first
        target = max(asked.limit.latency_ms, usage(parent).latency_ms - step)
        for spec in made:
            ((group, width),) = set(spec.widths) - set(parent.widths)
            assert usage(spec).latency_ms <= target
            assert usage(spec.with_widths({group: width + 1})).latency_ms > target
    assert answer in by_parent[parent]


def known_accuracy(asked: Question, cheap: str) -> Question:
    """Narrowing a group costs a tenth of the accuracy, but for one that is cheap to narrow."""

    def train(tasks: Sequence[TrainingTask]) -> list[Row]:
        rows = []
        for row in trained(tasks):
            parent = (row.task.start.spec if row.task.start else row.task.spec).width_of
            changed = [g for g, width in row.task.spec.widths if width != parent[g]]
            lost = 0.1 * (changed != [cheap]) if changed else 0.0
            epoch = replace(row.last, val_accuracy=0.9 - lost)
            rows.append(replace(row, history=(epoch,)))
        return rows

    return replace(asked, train=train)


@pytest.mark.parametrize("cheap", ["features.4", "features.18"])
def test_the_group_that_costs_no_accuracy_is_narrowed(cheap: str) -> None:
    asked = question(1.3, 1000.0)
    start, narrowest = oversized(asked), asked.widths(cheap)[0]
    # Only as much is asked as that one group can give.
    room = usage(start.with_widths({cheap: narrowest + 1})).latency_ms
    limit = replace(asked.limit, latency_ms=room)
    answer = NetAdapt().propose(replace(known_accuracy(asked, cheap), limit=limit))
    assert {g for g, w in answer.widths if w != start.width_of[g]} == {cheap}


def test_the_ratio_is_that_of_accuracy_lost_to_usage_saved() -> None:
    """Of equal accuracies that with the most usage saved, as the ratio has it; losers go."""
    released: list[Row] = []
    asked = replace(question(), release=released.extend)
    narrower = {
        asked.base.with_widths({"features.0": 8}): 0.10,
        asked.base.with_widths({"features.4": 16}): 0.30,
        asked.base.with_widths({"features.8": 32}): 0.20,
    }
    (parent,) = trained([asked.short(asked.base)])

    def pick(accuracies: Sequence[float], direction: int) -> NetworkSpec:
        def train(tasks: Sequence[TrainingTask]) -> list[Row]:
            return [
                replace(row, history=(replace(row.last, val_accuracy=accuracy),))
                for row, accuracy in zip(trained(tasks), accuracies, strict=True)
            ]

        before = replace(parent, history=(replace(parent.last, val_accuracy=0.5),))
        one = best_trained(replace(asked, train=train), FineTuning(), before, narrower, direction)
        return one.task.spec

    first, second, third = narrower
    # Lost 0.01, 0.02 and 0.03: ratios 0.100, 0.067, 0.150.
    assert pick([0.49, 0.48, 0.47], -1) == second
    assert [row.task.spec for row in released] == [first, third]
    # Lost 0.01, 0.04 and 0.01: ratios 0.100, 0.133, 0.050.
    assert pick([0.49, 0.46, 0.49], -1) == third
    # Gained 0.02, 0.03 and 0.03: ratios 0.20, 0.10, 0.15.
    assert pick([0.52, 0.53, 0.53], 1) == first


def test_a_network_that_cannot_be_narrow_enough_is_one_line() -> None:
    asked = question(1.0, 1.0)
    narrowest = asked.base.with_widths({g: asked.widths(g)[0] for g, _ in asked.base.widths})
    limit = replace(asked.limit, latency_ms=0.99 * usage(narrowest).latency_ms)
    with pytest.raises(UserError, match="narrowest network"):
        NetAdapt().propose(replace(asked, limit=limit))
    with pytest.raises(UserError, match="narrowest network"):
        narrowed(replace(asked, limit=limit), narrowest, "latency_ms", 1.0, 1.0)


def test_what_grows_only_grows_and_uses_what_there_is() -> None:
    trainings, asked = Trainings(), question(1.3, 1.5)
    answer = trainings.ask(NetAdaptGrowing(), asked)
    steps = [task for task in trainings.new if task.start is not None]
    for task in steps:
        ((group, width),) = set(task.spec.widths) - set(task.start.spec.widths)
        assert width > task.start.spec.width_of[group]
        assert usage(task.spec).within(asked.limit)
    room = asked.limit.latency_ms - usage(asked.base).latency_ms
    assert asked.limit.latency_ms - usage(answer).latency_ms < 0.025 * room
    # At most a tenth of the room a step, and a step for every group.
    assert len(steps) < 20 * len(answer.widths)


def test_a_group_that_adds_next_to_nothing_hides_no_other() -> None:
    """It has room for a channel, and the next width of all others is more than a step."""
    asked = question()
    first, *others = asked.base.width_of
    base = asked.base.width_of

    def by_group(spec: NetworkSpec, _: float) -> Usage:
        grown = {group for group, width in spec.widths if width > base[group]}
        ms = 1.0 + 0.001 * (first in grown) + 0.12 * len(grown - {first})
        return Usage(latency_ms=ms, params=1)

    limit = Usage(latency_ms=2.0, params=10**9)
    asked = replace(asked, usage=by_group, limit=limit, stated_limit=limit)
    wider = widened(asked, asked.base, {"latency_ms": 1.0, "params": 10**9}, 0.1)
    assert [g for spec in wider for g, width in spec.widths if width > base[g]] == others
    assert list(wider.values()) == pytest.approx([0.12] * len(others))


# LeGR ------------------------------------------------------------------------------------------


def whole_row(asked: Question) -> Row:
    task = replace(asked.short(oversized(asked)), keep_weights=True, filter_norms=True)
    return trained([task])[0]


def ranking(asked: Question, seed: int) -> Ranking:
    rng = np.random.default_rng(seed)
    groups = [group for group, _ in asked.base.widths]
    return Ranking(
        scale={g: float(np.exp(rng.normal())) for g in groups},
        shift={g: float(rng.normal()) for g in groups},
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_filters_go_in_the_order_of_their_scores(seed: int) -> None:
    """Against one that takes the lowest filter away until the limits are kept."""
    asked = question(1.3, 1.2)
    whole, order = whole_row(asked), ranking(asked, seed)
    filters = [
        (order.scale[group] * norm + order.shift[group], group)
        for group, norms in filter_norms(whole.task.spec).items()
        for norm in norms
    ]
    left = Counter(whole.task.spec.width_of)
    spec = whole.task.spec
    for _, group in sorted(filters):
        if asked.keeps(spec):
            break
        left[group] -= 1
        spec = spec.with_widths({g: max(n, asked.widths(g)[0]) for g, n in left.items()})
    assert cut(asked, order, whole) == spec
    assert spec != whole.task.spec


def test_evolution_finds_a_better_ranking_than_the_norms_alone() -> None:
    asked = question(1.3, 1.2)
    whole, base = whole_row(asked), asked.base.width_of
    groups = list(base)
    neutral = Ranking(scale=dict.fromkeys(groups, 1.0), shift=dict.fromkeys(groups, 0.0))
    learned = LeGR().learned(asked, whole)
    losses = [loss(cut(asked, r, whole).width_of, base, 32) for r in (neutral, learned)]
    assert losses[1] < losses[0] - 0.01
    assert all(scale > 0 for scale in learned.scale.values())


def test_evolution_is_as_long_as_it_says_and_starts_from_one_network() -> None:
    trainings = Trainings()
    method = LeGR(evaluations=14, population=4, tournament=2, parallel=3)
    batches: list[int] = []

    def train(tasks: Sequence[TrainingTask]) -> list[Row]:
        batches.append(len(tasks))
        return trainings(tasks)

    method.propose(replace(question(1.3, 1.2), train=train))
    # The whole network, the first population, then three at a time; equal cuts are one training.
    assert len(batches) == 1 + 1 + 4
    assert all(n <= most for n, most in zip(batches, [1, 4, 3, 3, 3, 1], strict=True))
    start, *evaluations = trainings.new
    assert {task.start.row for task in evaluations} == {start.id}
    assert not any(task.keep_weights for task in evaluations)
    assert (legr.PUBLISHED.evaluations, legr.PUBLISHED.population) == (400, 64)
    assert (legr.PUBLISHED.tournament, legr.PUBLISHED.parallel) == (16, 1)
    with pytest.raises(ValueError, match="population"):
        LeGR(evaluations=4)


# EfficientNet's grid ---------------------------------------------------------------------------


def test_the_grid_doubles_the_multiply_accumulates_and_has_the_published_factors() -> None:
    assert (1.2, 1.1, 1.15) in grid()
    assert 5 <= len(grid()) <= 16
    assert all(abs(d * w * w * r * r - 2) <= 0.1 and min(d, w, r) >= 1 for d, w, r in grid())
    for axis in range(3):  # each alone, and not only together
        assert any(all(f == 1 for i, f in enumerate(p) if i != axis) for p in grid())
    assert all(one != other for one, other in pairwise(grid()))


def test_the_factors_of_least_loss_are_raised_to_the_limits() -> None:
    asked = question(2.0, 3.0)
    best = deeper(asked, 1.4, 1.2, 32)

    def train(tasks: Sequence[TrainingTask]) -> list[Row]:
        return [
            replace(row, history=(replace(row.last, val_loss=float(row.task.spec != best)),))
            for row in trained(tasks)
        ]

    answer = CompoundGrid().propose(replace(asked, train=train))
    assert answer == Compound(depth=1.4, width=1.2, resolution=1.0).propose(asked)
