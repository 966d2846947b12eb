"""A comparison with methods that train, over made-up trainings: killed, damaged, asked again."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from quick_run import drive, epochs_trained, quick_recipe, without_ray
from rich.console import Console

from cluster.compare import compare_run
from cluster.measuring import Measuring
from cluster.trainer import Trainer
from engine.comparison import Comparison
from engine.peers.contract import Method
from engine.peers.grid import CompoundGrid
from engine.peers.growing import NetAdaptGrowing
from engine.peers.legr import LeGR
from engine.peers.netadapt import NetAdapt
from engine.peers.steps import Steps
from engine.peers.uniform import Uniform
from engine.recipe import override
from engine.results import Latency
from engine.rows import Row, TrainingTask
from engine.spec import NetworkSpec
from engine.store import RunStore
from searchers.tasks import TaskSearcher

METHODS = (
    Uniform(),
    CompoundGrid(),
    NetAdapt(),
    NetAdaptGrowing(steps=Steps(first=0.3, decay=1.0)),
    LeGR(evaluations=9, population=3, tournament=2),
)


def compare(location: Path) -> Comparison:
    with without_ray():
        return compare_run(location, METHODS, seeds=1, console=Console(quiet=True))


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    location = tmp_path / "quick"
    drive(location, override(quick_recipe(), ["limits.latency=1.3x", "limits.params=1.5x"]))
    return location


def answers(comparison: Comparison) -> dict[str, object]:
    return {
        entry.proposal.method: (entry.proposal.spec, entry.proposal.search_trials)
        for entry in comparison.entries
    }


def test_methods_that_train_are_resumable_and_counted(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(searched)
    final = set(store.weights.files(".safetensors"))

    # Killed at the twentieth training of a method's own; then all that it kept is damaged.
    suggest, suggested = TaskSearcher.suggest, []

    def killing(self: TaskSearcher, trial_id: str):
        answer = suggest(self, trial_id)
        suggested.append(answer)
        if len(suggested) == 20:
            raise KeyboardInterrupt
        return answer

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TaskSearcher, "suggest", killing)
        compare(searched)
    kept = set(store.weights.files(".safetensors")) - final
    assert kept
    for name in kept:
        store.weights.write(f"{name}.safetensors", b"damaged")
    done = compare(searched)
    assert not done.refusals
    # What was kept is no longer needed; the final trainings are.
    left = {RunStore(searched).ledger.find(i) for i in store.weights.files(".safetensors")}
    assert all(row is not None and row.task.test for row in left)

    trials = {entry.proposal.method: entry.proposal.search_trials for entry in done.entries}
    assert trials["uniform"] == 0 and trials["efficientnet-grid"] == 10
    assert trials["netadapt"] > 8 and trials["netadapt-growing"] > 8 and 2 < trials["legr"] <= 10
    for entry in done.entries:
        assert entry.proposal.params <= done.params_limit
        assert entry.proposal.latency.ms <= done.latency_limit_ms

    before = epochs_trained(store)
    assert answers(compare(searched)) == answers(done)
    assert epochs_trained(store) == before
    # Asked anew: the rows are there, and answer alike.
    for path in searched.glob("propose-*/manifest.json"):
        path.unlink()
    assert answers(compare(searched)) == answers(done)
    assert epochs_trained(store) == before


def test_what_methods_lack_is_trained_and_measured_at_the_same_time(
    tmp_path: Path, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are those of each method alone; the number of rounds that of the longest."""
    train, batches = Trainer.train_any, list[int]()
    measure, sessions = Measuring.latencies, list[int]()

    def counting(self: Trainer, stage: str, tasks: Sequence[TrainingTask]) -> list[Row]:
        before = self.store.ledger.ids()
        batches.extend([len(tasks)] if {task.id for task in tasks} - before else [])
        return train(self, stage, tasks)

    def measuring(
        self: Measuring, purpose: str, specs: Sequence[NetworkSpec], *others: Any
    ) -> list[Latency]:
        sessions.extend([len(specs)] if purpose == "compare" else [])
        return measure(self, purpose, specs, *others)

    def compared(name: str, methods: Sequence[Method]) -> tuple[dict[str, object], int, int]:
        location = shutil.copytree(searched, tmp_path / name / "quick")
        batches.clear()
        sessions.clear()
        with without_ray():
            made = compare_run(location, methods, seeds=1, console=Console(quiet=True))
        return answers(made), len(batches), len(sessions)

    monkeypatch.setattr(Trainer, "train_any", counting)
    monkeypatch.setattr(Measuring, "latencies", measuring)
    alone = [compared(method.name, [method]) for method in METHODS]
    found, rounds, measured = compared("together", METHODS)
    assert found == {name: answer for one, _, _ in alone for name, answer in one.items()}
    assert rounds == max(rounds for _, rounds, _ in alone) < sum(rounds for _, rounds, _ in alone)
    assert measured < sum(sessions for _, _, sessions in alone)


def test_trainings_of_a_method_are_not_taken_for_those_of_the_search(searched: Path) -> None:
    """Grid points and fine-tunings are trained like candidates of α, and are none."""
    first = compare(searched)
    cost = {e.proposal.method: e.proposal.search_trials for e in first.entries}["hacscale"]
    recipe = RunStore(searched).info().recipe
    most = recipe.alpha.trials * recipe.alpha.repeats + recipe.sample.networks
    most += (len(recipe.choose.rivals) + 1) * recipe.choose.repeats
    assert cost <= most
