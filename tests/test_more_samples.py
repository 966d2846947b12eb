"""``hacscale sample``: more networks of a run, and what they change."""

import json
from pathlib import Path

import pytest
from quick_run import drive, epochs_trained, quick_recipe, without_ray

from engine.cli import main
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
