"""Orders of rungs by hand and against counting pairs; the ladder over rows without Ray."""

import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from example_run import example_run
from hypothesis import given
from hypothesis import strategies as st
from test_sample_stage import FACTS, row_of

from cluster import fidelity, opened
from cluster.search import Search
from cluster.stages.sample import sample_stage
from engine.codec import decode
from engine.fidelity import agreements, default_rungs, sentences
from engine.limits import Limits
from engine.provenance import run_info
from engine.recipe import Recipe, Sample
from engine.report import render_report
from engine.results import FidelityLadder, Rung
from engine.rows import TrainingTask
from engine.spec import ModelRef, NetworkSpec
from engine.store import RunStore
from engine.training import FAST


def ladder(*rungs: tuple[float | None, ...]) -> FidelityLadder:
    spec = NetworkSpec(model=ModelRef(name="vgg11", classes=10), resolution=32, widths=(("a", 8),))
    return FidelityLadder(
        networks=(spec,) * len(rungs[0]),
        rungs=tuple(Rung(epochs=8 + k, accuracies=a, seconds=1.0) for k, a in enumerate(rungs)),
    )


def test_tau_and_its_p_value_by_hand() -> None:
    """Of 6 pairs one is in another order: τ = 4/6. Of 24 orders 4 have at most one: p = 2·4/24."""
    (one,) = agreements(ladder((0.1, 0.2, 0.3, 0.4), (0.5, 0.7, 0.6, 0.8)))
    assert (one.tau, one.p_value, one.networks) == pytest.approx((4 / 6, 8 / 24, 4))
    (found,) = sentences(ladder((0.1, 0.2, 0.3, 0.4), (0.5, 0.7, 0.6, 0.8)))
    assert "τ = 0.67 (p = 0.33, 4 networks), which chance" in found


@pytest.mark.parametrize("longer", [(0.5, None, None), (0.5, 0.5, 0.5)])
def test_orders_that_cannot_be_compared_are_said_to_be_so(longer: tuple[float | None, ...]) -> None:
    (found,) = sentences(ladder((0.1, 0.2, 0.3), longer))
    assert "cannot be compared" in found and "nan" not in found


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=9))
def test_tau_counts_pairs(points: list[tuple[int, int]]) -> None:
    """τ-b: (same − other) / √(pairs not tied in the first · pairs not tied in the second)."""
    (one,) = agreements(ladder(*zip(*(map(float, p) for p in points), strict=True)))
    moves = [(a[0] - b[0], a[1] - b[1]) for a, b in combinations(points, 2)]
    score = sum((x * y > 0) - (x * y < 0) for x, y in moves)
    free = sum(x != 0 for x, _ in moves) * sum(y != 0 for _, y in moves)
    if free:
        assert one.tau == pytest.approx(score / math.sqrt(free))
    else:
        assert math.isnan(one.tau)


def test_failed_trainings_are_left_out_and_every_two_rungs_are_compared() -> None:
    found = agreements(ladder((0.1, 0.2, None, 0.4), (0.1, 0.2, 0.3, None), (0.3, 0.2, 0.1, 0.4)))
    assert [(a.shorter, a.longer, a.networks) for a in found] == [(8, 9, 2), (8, 10, 3), (9, 10, 3)]


def test_the_report_shows_a_ladder_that_is_there() -> None:
    record = example_run()
    assert "Fidelity" not in render_report(record)
    page = render_report(replace(record, fidelity=ladder((0.1, 0.2, 0.3), (0.1, None, 0.3))))
    assert "8 epochs order the networks as 9 do with Kendall&#39;s τ = 1.00" in page
    assert "<td>10.0\u00a0%</td><td>10.0\u00a0%</td>" in page and "<td>failed</td>" in page


def test_rungs_reach_from_the_short_to_the_final_training() -> None:
    assert default_rungs(6, 300) == (6, 42, 300)
    assert default_rungs(3, 6) == (3, 4, 6)
    assert default_rungs(5, 5) == (5,)


class Trainer:
    def __init__(self, store: RunStore) -> None:
        self._store, self.tasks = store, list[TrainingTask]()

    def run_tasks(self, stage: str, tasks) -> None:
        for task in tasks:
            if self._store.ledger.find(task.id) is None:
                self.tasks.append(task)
                self._store.ledger.add(row_of(task))


def test_what_the_sample_stage_trained_is_a_rung_already(tmp_path, monkeypatch) -> None:
    short = FAST.for_epochs(2)
    recipe = Recipe(
        limits=Limits(latency="1.1x", params="1.5x"),
        sample=Sample(networks=4, block=4, training=short),
        train=FAST.for_epochs(8),
    )
    store = RunStore(tmp_path)
    store.write_info(run_info("a", "", recipe))
    trainer = Trainer(store)

    def known(**fields: Any) -> Search:
        search = Search(**fields)
        search.data.__dict__["facts"] = FACTS
        search.trainer.__dict__["trials"] = trainer
        return search

    class Alpha:
        class alpha:
            resolution = 32

    monkeypatch.setattr(opened, "Search", known)
    monkeypatch.setattr(opened, "session", lambda *_: nullcontext())

    def groundwork(search: Search) -> type[Alpha]:
        sample_stage(search, 32)
        return Alpha

    monkeypatch.setattr(fidelity, "groundwork", groundwork)
    found = fidelity.climb(tmp_path, networks=5)
    assert [rung.epochs for rung in found.rungs] == [2, 4, 8]
    # Four in the stage itself, then the fifth network's short one and five on each other rung.
    assert [task.training.epochs for task in trainer.tasks] == [2] * 5 + [4] * 5 + [8] * 5
    assert decode(FidelityLadder, (tmp_path / "fidelity.json").read_bytes(), "it") == found
    assert fidelity.climb(tmp_path, networks=5) == found and len(trainer.tasks) == 15
    assert fidelity.climb(tmp_path, 3, [2, 3]).rungs[1].epochs == 3
