"""Which network is the answer of a run: the best of those that keep the limits, by validation."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from quick_run import drive, epochs_trained, quick_recipe, without_ray
from rich.console import Console

import cluster.stages.propose
from cluster.compare import compare_run
from cluster.driver import read_run
from cluster.measuring import Measuring
from cluster.stages.choose import merit
from cluster.stages.propose import Proposing
from cluster.trainer import Trainer
from engine.answers import answer
from engine.budgets import read_budgets
from engine.codec import decode
from engine.errors import StorageError, UserError
from engine.peers.methods import chosen, rivals
from engine.recipe import Choose, Recipe, override
from engine.results import Candidate, Latency, RunRecord
from engine.rows import Row, TrainingTask
from engine.spec import ModelRef, NetworkSpec
from engine.store import RunStore

DEEPER = ("depth", "efficientnet", "fast-compound", "efficientnet-grid")
LIMITS = ["limits.latency=2x", "limits.params=1.6x"]


def searched(location: Path, *more: str) -> RunRecord:
    drive(location, override(quick_recipe(), [*LIMITS, *more]))
    return read_run(location)


def rows(location: Path) -> list[Row]:
    return list(RunStore(location, read_only=True).ledger.rows())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    location = tmp_path_factory.mktemp("runs") / "quick"
    return location, searched(location, "choose.repeats=3")


def test_the_answer_has_the_best_mean_of_the_short_trainings(
    found: tuple[Path, RunRecord],
) -> None:
    """Read from the ledger, whose made-up accuracies any network may win."""
    location, record = found
    choice, short = record.choose, record.recipe
    assert '"epochs": 2' in short
    means = []
    for candidate in choice.candidates:
        of_one = [
            row
            for row in rows(location)
            if row.task.spec == candidate.spec
            and not (row.task.importance or row.task.test)
            and row.task.training.epochs == 2
            and row.task.seed >= 2  # 0 is the one of the α search, 1 one of comparing resolutions
        ]
        accuracies = {row.task.seed: row.last.val_accuracy for row in of_one}
        assert sorted(accuracies) == [2, 3, 4]
        assert sorted(candidate.accuracies) == sorted(accuracies.values())
        means.append(fmean(accuracies.values()))
    assert [c.method for c in choice.candidates] == [
        "algorithm-1",
        *("uniform-alpha", "inverse-width", "response"),
    ]
    assert choice.chosen == means.index(max(means))


def test_what_the_repeats_cannot_tell_from_the_answer_is_counted(
    found: tuple[Path, RunRecord],
) -> None:
    choice = found[1].choose
    within = [stdev(candidate.accuracies) ** 2 for candidate in choice.candidates]
    networks = {one.spec: one for one in choice.candidates}
    error = math.sqrt(fmean(within)) / math.sqrt(3)  # three repeats of each
    # Of the studentized range, by networks, with two degrees of freedom of each of the four.
    most = {2: 3.261, 3: 4.041, 4: 4.529}[len(networks)] if len(within) == 4 else math.nan
    winner = choice.winner.accuracy
    near = sum(winner - one.accuracy <= most * error for one in networks.values())
    assert choice.tied == near - 1


def test_the_answer_is_what_is_trained_measured_and_told(found: tuple[Path, RunRecord]) -> None:
    location, record = found
    answer, result = record.choose.winner, record.result
    (final,) = [row for row in rows(location) if row.task.id == record.trained.row]
    assert final.task.spec == answer.spec
    assert result.method == answer.method
    assert (result.widths, result.resolution) == (answer.spec.width_of, answer.spec.resolution)
    assert (result.params, result.macs) == (answer.params, answer.macs)
    assert result.latency_ms.measured == answer.latency.ms  # the device has no noise


def test_other_limits_are_answered_as_the_run_answered_its_own(
    found: tuple[Path, RunRecord],
) -> None:
    location, record = found
    recipe = decode(Recipe, record.recipe, "the recipe")
    left, winner = read_budgets(RunStore(location).folder, recipe), record.choose.winner
    assert left.method == winner.method
    assert left.surface is not None
    expected = left.latency_model.predict(left.formula.cost(winner.spec.width_of))
    assert expected == pytest.approx(winner.latency.ms)  # the device has no noise
    assert answer(left, recipe.limits, left.method).spec.resolution == winner.spec.resolution


def test_every_candidate_keeps_the_limits(found: tuple[Path, RunRecord]) -> None:
    limit = found[1].allocate.allocation.limit
    for candidate in found[1].choose.candidates:
        assert candidate.latency.ms <= limit.latency_ms
        assert candidate.params <= limit.params


def test_a_network_over_the_limit_by_less_than_the_noise_may_be_the_answer() -> None:
    """Of a limit of 100 ms; within its noise 104 ms may be 99."""

    def candidate(ms: float, noise: float, accuracy: float) -> Candidate:
        return Candidate(
            method="m",
            spec=NetworkSpec(
                model=ModelRef(name="vgg11", classes=10), resolution=32, widths=(("a", 1),)
            ),
            macs=1,
            params=1,
            memory_bytes=1,
            predicted_ms=ms,
            latency=Latency.constant(ms, noise),
            rounds=1,
            accuracies=(accuracy,),
            losses=(1.0,),
        )

    within, told_over = candidate(99, 0.05, 0.5), candidate(104, 0.01, 0.9)
    not_told, failed = candidate(104, 0.05, 0.6), replace(within, accuracies=(), losses=())
    ranked = sorted((failed, within, not_told, told_over), key=lambda c: merit(c, 100.0, True))
    assert ranked == [failed, told_over, within, not_told]
    # One of which a training failed may fail as the answer too.
    assert merit(not_told, 100.0, False) < merit(within, 100.0, True)


def test_the_uniform_rival_is_the_widest_at_the_resolution_of_the_search(
    found: tuple[Path, RunRecord],
) -> None:
    record = found[1]
    uniform = next(c for c in record.choose.candidates if c.method == "uniform-alpha")
    assert uniform.spec.resolution == record.alpha.resolution
    base = record.baseline.spec.width_of
    ratios = [width / base[group] for group, width in uniform.spec.widths]
    # Whole channels of the narrowest group, which has four.
    assert max(ratios) - min(ratios) <= 1 / 4
    limit = record.allocate.allocation.limit
    used = (uniform.latency.ms / limit.latency_ms, uniform.params / limit.params)
    assert max(used) > 0.9


def test_a_network_over_the_limit_is_the_answer_only_if_all_are(
    found: tuple[Path, RunRecord],
) -> None:
    choice = found[1].choose
    limit = found[1].allocate.allocation.limit.latency_ms
    slow = Latency.constant(1.2 * limit)

    def best(candidates: Sequence[Candidate]) -> str:
        return max(candidates, key=lambda one: merit(one, limit, True)).method

    others = [c for c in choice.candidates if c is not choice.winner]
    slowed = replace(choice.winner, latency=slow)
    assert best([slowed, *others]) == max(others, key=lambda c: fmean(c.accuracies)).method
    assert best([slowed, *(replace(c, latency=slow) for c in others)]) == slowed.method
    failed = replace(choice.winner, accuracies=(), losses=())
    assert best([failed, *(replace(c, latency=slow) for c in others)]) != failed.method


def test_without_rivals_the_answer_is_that_of_algorithm_1(tmp_path: Path) -> None:
    record = searched(tmp_path / "quick", "choose.rivals=[]")
    (only,) = record.choose.candidates
    assert only.spec == record.allocate.spec
    assert record.result.method == "algorithm-1"
    assert only.accuracies == ()
    trained = {row.task.spec for row in rows(tmp_path / "quick") if row.task.seed or row.task.test}
    assert trained == {record.baseline.spec, only.spec}


def test_another_choice_repeats_no_training(found: tuple[Path, RunRecord]) -> None:
    location, record = found
    before = epochs_trained(RunStore(location))
    again = searched(location, "choose.repeats=3", "choose.rivals=[uniform-alpha]")
    assert again.choose.candidates == record.choose.candidates[:2]
    added = epochs_trained(RunStore(location)) - before
    assert {task for task, _ in added} <= {again.trained.row}
    searched(location, "choose.repeats=3")


def test_rivals_are_asked_again_when_the_allocation_may_do_less(tmp_path: Path) -> None:
    wide = searched(tmp_path / "quick", "allocate.max_width=4")
    narrow = searched(tmp_path / "quick", "allocate.max_width=1.25")
    base = wide.baseline.spec.width_of

    def widest(record: RunRecord) -> float:
        return max(w / base[g] for c in record.choose.candidates for g, w in c.spec.widths)

    assert widest(narrow) <= 1.25 < widest(wide)


def test_a_cluster_that_fails_is_no_fault_of_a_rival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hacscale-joint` trains while it is asked; the error ends the run, which then goes on."""
    train = Trainer.train_any

    def failing(self: Trainer, stage: str, tasks: Sequence[TrainingTask]) -> list[Row]:
        if stage == "propose":
            raise UserError("no worker is left")
        return train(self, stage, tasks)

    location, joint = tmp_path / "quick", "choose.rivals=[hacscale-joint]"
    with monkeypatch.context() as patch, pytest.raises(UserError, match="no worker is left"):
        patch.setattr(Trainer, "train_any", failing)
        searched(location, joint)
    record = searched(location, joint)
    assert [c.method for c in record.choose.candidates] == ["algorithm-1", "hacscale-joint"]
    assert not record.choose.left_out
    mine = record.choose.candidates[1].trained
    assert len(mine) > len(record.choose.candidates[1].accuracies)


def test_a_network_is_measured_once_whatever_methods_come_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uniform widths and the uniform rival are one family at one resolution: the base's."""
    asked: list[NetworkSpec] = []
    latencies = Measuring.latencies

    def counting(self: Measuring, purpose: str, specs: Sequence[NetworkSpec], *rest: Any):
        if purpose in ("allocate", "compare"):
            asked.extend(specs)
        return latencies(self, purpose, specs, *rest)

    monkeypatch.setattr(Measuring, "latencies", counting)
    base = ["alpha.candidates=compute", "alpha.budget=1.1", "choose.rivals=[uniform-alpha]"]
    record = searched(tmp_path / "quick", *base)
    assert record.alpha.resolution == record.baseline.spec.resolution
    with without_ray():
        made = compare_run(
            tmp_path / "quick",
            chosen("uniform,uniform-resolution,flat,flat-resolution"),
            1,
            console=Console(quiet=True),
        )
    assert made.spec("uniform") in [one.spec for one in record.choose.candidates]
    assert asked and len(asked) == len(set(asked))


def test_what_rivals_measured_before_an_interruption_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is faster than the model for some networks, so that rivals need several sessions,
    and not all as many; those that have answered are no part of the next question."""
    latencies, measure = Measuring.latencies, Proposing._measure
    asked: list[tuple[NetworkSpec, ...]] = []

    def faster(self: Measuring, purpose: str, specs: Sequence[NetworkSpec], *rest: Any):
        if purpose == "compare":
            asked.append(tuple(specs))
        return [
            replace(found, ms=(0.8 if sum(spec.width_of.values()) % 2 else 0.97) * found.ms)
            for spec, found in zip(specs, latencies(self, purpose, specs, *rest), strict=True)
        ]

    def stopped(self: Proposing, expected_ms: Any) -> None:
        measure(self, expected_ms)
        raise KeyboardInterrupt

    monkeypatch.setattr(Measuring, "latencies", faster)
    many = [
        "choose.rivals=[uniform-alpha,inverse-width,response,random-1,random-2]",
        *("limits.latency=1.5x", "limits.params=9x"),
    ]
    whole = searched(tmp_path / "whole", *many)
    uninterrupted, asked[:] = list(asked), []
    monkeypatch.setattr(Proposing, "_measure", stopped)
    record, interruptions = None, 0
    while record is None:
        try:
            record = searched(tmp_path / "quick", *many)
        except KeyboardInterrupt:
            interruptions += 1
            assert interruptions < 20, "it measures the same again and again"
    assert interruptions > 1
    assert asked == uninterrupted
    assert record.choose == whole.choose


def test_a_damaged_measurement_is_made_again(tmp_path: Path) -> None:
    whole = searched(tmp_path / "quick")
    kept = sorted((tmp_path / "quick" / "measured").glob("*.json"))
    assert kept
    for file in kept:
        file.write_bytes(b"{")
    for stage in (tmp_path / "quick").glob("*/manifest.json"):
        if stage.parent.name.startswith(("choose", "propose")):
            stage.unlink()
    assert searched(tmp_path / "quick").choose == whole.choose
    assert len(list((tmp_path / "quick" / "measured").glob("*.damaged"))) == len(kept)


def test_a_store_that_fails_is_no_fault_of_a_rival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NetAdapt lets go of weights between its steps."""

    def failing(*_: object) -> None:
        raise StorageError("the bucket does not answer")

    location, netadapt = tmp_path / "quick", "choose.rivals=[netadapt]"
    with monkeypatch.context() as patch, pytest.raises(UserError, match="bucket does not answer"):
        patch.setattr(cluster.stages.propose, "release", failing)
        searched(location, netadapt)
    record = searched(location, netadapt)
    assert [c.method for c in record.choose.candidates] == ["algorithm-1", "netadapt"]


def test_a_rival_beyond_the_latency_model_is_known_as_measured(tmp_path: Path) -> None:
    record = searched(tmp_path / "quick", "limits.latency=9x", "choose.rivals=[resolution]")
    rival = record.choose.candidates[1]
    assert rival.spec.resolution > max(c.spec.resolution for c in record.alpha.candidates)
    assert rival.predicted_ms == rival.latency.ms


def test_what_corrects_the_model_does_not_correct_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that the model knows is faster than expected; a larger one is over as measured."""
    latencies = Measuring.latencies

    def faster(self: Measuring, purpose: str, specs: Sequence[NetworkSpec], *rest: Any):
        return [
            replace(found, ms=0.7 * found.ms) if 32 < spec.resolution <= 44 else found
            for spec, found in zip(specs, latencies(self, purpose, specs, *rest), strict=True)
        ]

    monkeypatch.setattr(Measuring, "latencies", faster)
    record = searched(tmp_path / "quick", "limits.latency=1.55x", "choose.rivals=[resolution]")
    assert max(c.spec.resolution for c in record.alpha.candidates) == 44
    rival, limit = record.choose.candidates[1], record.allocate.allocation.limit
    assert (rival.spec.resolution, rival.rounds) == (44, 1)
    assert rival.latency.ms < 0.8 * limit.latency_ms


def test_repeats_of_few_networks_are_no_response_surface(tmp_path: Path) -> None:
    """Importance from one training leaves the losses of the α search alone: of three networks."""
    alike = [
        "alpha.training.epochs=2",
        "sample.training.epochs=2",
        "alpha.repeats=3",
        "alpha.budget=1.5",
    ]
    record = searched(tmp_path / "quick", "sample.source=initial", *alike)
    assert len({candidate.spec for candidate in record.alpha.candidates}) < 4
    assert record.choose.surface is None and list(record.choose.left_out) == ["response"]


def test_a_rival_without_a_network_is_left_out_and_named(tmp_path: Path) -> None:
    """A response surface needs four losses."""
    record = searched(
        tmp_path / "quick", "sample.networks=3", "sample.block=3", "sample.training.epochs=1"
    )
    there = ["algorithm-1", "uniform-alpha", "inverse-width"]
    assert [c.method for c in record.choose.candidates] == there
    assert list(record.choose.left_out) == ["response"]


def test_the_trainings_of_the_choice_are_a_cost_of_the_answer(
    found: tuple[Path, RunRecord],
) -> None:
    location, record = found
    with without_ray():
        done = compare_run(location, rivals(["uniform-alpha"]), 1, console=Console(quiet=True))
    ours = next(e.proposal for e in done.entries if e.proposal.method == "hacscale")
    uniform = next(e.proposal for e in done.entries if e.proposal.method == "uniform-alpha")
    assert ours.spec == record.choose.winner.spec
    tried = {row for c in record.choose.candidates for row in c.trained}
    assert len(tried) == 3 * len({c.spec for c in record.choose.candidates})
    assert ours.search_trials == uniform.search_trials + len(record.sample.samples) + len(tried)


def test_a_training_of_two_purposes_is_one_cost(tmp_path: Path) -> None:
    """The winner of this α search is the network of `uniform-alpha`, trained alike."""
    location = tmp_path / "quick"
    record = searched(location, "alpha.candidates=limits", "alpha.repeats=2", "choose.repeats=2")
    with without_ray():
        done = compare_run(location, (), 1, console=Console(quiet=True))
    ours = next(e.proposal for e in done.entries if e.proposal.method == "hacscale")
    uniform = record.choose.candidates[1]
    assert uniform.spec in [c.spec for c in record.alpha.candidates]
    assert ours.search_trials == sum(not row.task.test for row in rows(location))


@pytest.mark.parametrize(
    ("rival", "message"),
    [
        ("unifrom-alpha", "unknown method 'unifrom-alpha'.*uniform-alpha"),
        ("uniform-latency", "uniform-latency makes need not keep all limits"),
        *((name, f"{name} changes the depth") for name in DEEPER),
    ],
)
def test_what_cannot_be_the_answer_is_refused_before_anything_is_done(
    rival: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        searched(tmp_path / "quick", f"choose.rivals=[{rival}]")
    assert not (tmp_path / "quick" / "run.json").exists()


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        Choose(repeats=0)
    with pytest.raises(ValueError, match=re.escape("rivals must differ, not ['flat', 'flat']")):
        Choose(rivals=("flat", "flat"))
