"""``hacscale sample``: more networks of a run, and what they change."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from quick_run import drive, epochs_trained, quick_recipe, without_ray

from engine.cli import main
from engine.recipe import override
from engine.store import RunStore


def test_more_samples_train_only_those_and_refit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "quick"
    drive(run, quick_recipe())
    before = epochs_trained(RunStore(run))
    with without_ray():
        main(["sample", str(run), "--networks", "+2"])
    said = capsys.readouterr().out
    assert "4 networks before, 6 now" in said
    assert f"hacscale resume {run}" in said
    after = epochs_trained(RunStore(run))
    assert len({task for task, _ in after} - {task for task, _ in before}) == 2
    assert all(after[epoch] == count for epoch, count in before.items())
    recipe = json.loads((run / "run.json").read_text())["recipe"]
    assert recipe["sample"]["networks"] == 6


def test_more_samples_than_one_training_has_steps_leave_the_run_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "quick"
    drive(run, override(quick_recipe(), ["sample.source=slimmable"]))
    before = (run / "run.json").read_bytes()
    with without_ray(), pytest.raises(SystemExit):
        main(["sample", str(run), "--networks", "+900"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "904 networks take turns at the steps" in said
    assert (run / "run.json").read_bytes() == before


def test_trainings_that_a_scheduler_may_stop_are_not_taken_for_whole_ones(tmp_path: Path) -> None:
    run = tmp_path / "quick"
    drive(run, override(quick_recipe(), ["alpha.scheduler=asha"]))
    store = RunStore(run)
    stopped = [row.task for row in store.ledger.rows() if row.task.stoppable]
    whole = {replace(task, stoppable=None).id for task in stopped}
    assert whole
    assert not whole & {row.task.id for row in store.ledger.rows()}
    drive(run, quick_recipe())
    assert whole <= {row.task.id for row in RunStore(run).ledger.rows()}
