"""The whole search through the command line: interrupted anywhere, it ends the same."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import cluster.measuring
from cluster.device import _measure
from cluster.search import Search
from engine.cli import main
from engine.store import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STAGES = ("baseline", "profile", "alpha", "sample", "fit", "allocate", "choose", "train", "measure")

# A network of 37,000 parameters, 200 images and a device without noise: every stage in seconds,
# and nothing in the result that a repetition could change.
TINY = [
    "device.runtime=synthetic", "width=0.0625", "data.train_images=200",
    "train.epochs=3", "alpha.training.epochs=2", "sample.training.epochs=2",
    "alpha.trials=4", "alpha.batch=4", "alpha.repeats=1",
    "sample.networks=4", "sample.block=4", "profile.networks=8", "profile.held_out=2",
    "choose.repeats=1", "choose.rivals=[]", "cluster.final_workers=1",
]  # fmt: skip


def words(runs: Path, name: str, *more: str) -> list[str]:
    return ["run", "digits-vgg11", "--runs-dir", str(runs), "--name", name, "--set", *TINY, *more]


def command(runs: Path, name: str) -> list[str]:
    code = "from engine.cli import main; main()"
    return [sys.executable, "-c", code, *words(runs, name)]


def result_of(run: Path) -> dict[str, object]:
    return json.loads((run / "result.json").read_text())


def epochs_trained(run: Path) -> Counter[tuple[str, int]]:
    epochs = RunStore(run, read_only=True).epochs.read()
    return Counter((epoch.task, epoch.number) for epoch in epochs)


def losses(run: Path) -> dict[str, list[tuple[float, float]]]:
    rows = RunStore(run, read_only=True).ledger.rows()
    return {
        row.task.id: [(epoch.train_loss, epoch.val_loss) for epoch in row.history] for row in rows
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    done = subprocess.run(command(runs, "whole"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return runs / "whole"


def test_all_stages_are_committed_and_limits_kept(uninterrupted: Path) -> None:
    for stage in STAGES:
        assert list(uninterrupted.glob(f"{stage}-*/manifest.json")), stage
    result = json.loads((uninterrupted / "result.json").read_text())
    assert result["latency_ms"]["measured"] <= result["latency_ms"]["limit"]
    assert result["params"] == result["memory"]["used"] <= result["memory"]["limit"]
    report = (uninterrupted / "report.html").read_text()
    assert report.startswith("<!doctype html>") or report.startswith("<!DOCTYPE html>")


def test_every_epoch_is_trained_once(uninterrupted: Path) -> None:
    assert set(epochs_trained(uninterrupted).values()) == {1}


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("alpha", signal.SIGTERM),
        pytest.param("alpha", signal.SIGKILL, marks=LONG),
        pytest.param("train", signal.SIGINT, marks=LONG),
        pytest.param("train", signal.SIGKILL, marks=LONG),
    ],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    stage: str, number: signal.Signals, uninterrupted: Path, tmp_path: Path
) -> None:
    """Stops the driver under Ray Tune, or under Ray Train, in order or by SIGKILL, and resumes.

    It begins at that stage; what follows it is there already, and holds if all ends the same. All
    stages, killed at every kind of moment, are those of test_faults.py, which needs no Ray.
    """
    run = tmp_path / "whole"
    shutil.copytree(uninterrupted, run)
    for directory in (*run.glob(f"{stage}-*"), run / "studies", run / "ledger"):
        shutil.rmtree(directory)
    (run / "result.json").unlink()
    (run / "logs" / "epochs.log").unlink()
    stop_in(stage, number, tmp_path)
    done = subprocess.run(command(tmp_path, "whole"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    assert result_of(run) == result_of(uninterrupted)
    rows, expected = losses(run), losses(uninterrupted)
    assert rows and rows.items() <= expected.items()
    counts = epochs_trained(run)
    assert {task for task, _ in counts} == rows.keys()
    # Two trainings at most were under way, and each repeats at most one epoch.
    assert sum(counts.values()) - len(counts) <= 2
    assert max(counts.values()) <= 2


def stop_in(stage: str, number: signal.Signals, runs: Path) -> None:
    """Starts the run and sends it a signal soon after the stage began."""
    log = runs / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command(runs, "whole"), stdout=out, stderr=out)
    before = set((runs / "whole" / "ledger").glob("*.json"))
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        begun = f"\n{stage} ·" in "\n" + log.read_text()
        fresh = set((runs / "whole" / "ledger").glob("*.json")) - before
        started = any((runs / "whole" / "checkpoints").glob("*.pt"))
        if begun and (fresh or started):
            break
        time.sleep(0.05)
    assert process.poll() is None, log.read_text()
    process.send_signal(number)
    code = process.wait(timeout=120)
    if number != signal.SIGKILL:
        assert code == 130, log.read_text()
        assert "hacscale resume" in log.read_text()
        assert "Traceback" not in log.read_text()


def test_a_finished_run_repeated_trains_nothing(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = epochs_trained(uninterrupted)
    main(["resume", str(uninterrupted)])
    assert epochs_trained(uninterrupted) == before
    assert "report:" in capsys.readouterr().out


def test_allocate_answers_other_limits_without_training(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = epochs_trained(uninterrupted)
    main(["allocate", str(uninterrupted), "--latency", "3x", "--params", "2x"])
    assert "parameters used" in capsys.readouterr().out
    assert epochs_trained(uninterrupted) == before


def test_a_changed_recipe_reuses_what_did_not_change(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, result = epochs_trained(uninterrupted), result_of(uninterrupted)
    # Answers for Ray where nothing is trained: the device without noise is asked right here.
    monkeypatch.setattr(cluster.measuring, "measure", lambda *a, **k: [*_measure(*a, **k)][-1])
    monkeypatch.setattr(Search, "_start_ray", lambda self: None)
    # The network without noise keeps its limit at the first try, whatever is allowed after that,
    # and so do those of the rivals, which have as many.
    main(words(uninterrupted.parent, "whole", "allocate.rounds=2"))
    out = capsys.readouterr().out
    redone = [line.split()[0] for line in out.splitlines() if "has changed" in line]
    assert redone == ["allocate:", "choose:"]
    assert epochs_trained(uninterrupted) == before
    assert result_of(uninterrupted) == result | {
        "recipe_key": result_of(uninterrupted)["recipe_key"]
    }
