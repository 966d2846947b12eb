"""A ceiling of hours: what is counted, what is refused, and the orderly stop."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_store import row

from cluster.hours import MaxHours, held, stopped_after, used_hours
from cluster.progress import Progress
from engine.errors import UserError
from engine.recipe import Cluster
from engine.rows import Row
from engine.store import RunStore

GPUS = Cluster(cpus_per_trial=3, gpus_per_trial=0.25, final_workers=4)


def lasting(number: int, seconds: float, final: bool = False) -> Row:
    """A training of two epochs."""
    made = row(number)
    history = tuple(replace(made.history[0], seconds=seconds / 2) for _ in range(2))
    return replace(made, task=replace(made.task, sync_workers=final), history=history)


@pytest.mark.parametrize(
    ("resources", "kind", "final", "expected"),
    [
        (GPUS, "gpu", False, 0.25),
        (GPUS, "gpu", True, 4.0),  # data-parallel workers have a GPU each
        (GPUS, "cpu", False, 3),
        (GPUS, "cpu", True, 12),
        (replace(GPUS, gpus_per_trial="auto"), "gpu", False, 1.0),
        (Cluster(), "gpu", True, 0.0),
    ],
)
def test_what_one_training_holds(resources: Cluster, kind, final: bool, expected: float) -> None:
    assert held(resources, kind, final) == expected


def test_hours_are_counted_over_the_epochs_of_finished_trainings() -> None:
    rows = [lasting(0, 3600), lasting(1, 1800), lasting(2, 900, final=True)]
    assert used_hours(rows, GPUS, "gpu") == pytest.approx(1.5 * 0.25 + 0.25 * 4)
    assert used_hours(rows, GPUS, "cpu") == pytest.approx(1.5 * 3 + 0.25 * 12)
    assert used_hours([], GPUS, "cpu") == 0


def test_a_row_that_says_what_it_held_is_believed() -> None:
    """With gpus_per_trial auto the recipe does not say it, nor with workers that come and go."""
    shared = replace(lasting(0, 3600), gpus=0.125, cpus=1)
    two_of_four = replace(lasting(1, 3600, final=True), gpus=2.0, cpus=6)
    resources = replace(GPUS, gpus_per_trial="auto")
    assert used_hours([shared, two_of_four], resources, "gpu") == pytest.approx(2.125)
    assert used_hours([shared, two_of_four], resources, "cpu") == pytest.approx(7)


@pytest.mark.parametrize("hours", [0.0, -1.0, float("inf"), float("nan")])
def test_a_ceiling_is_above_zero(hours: float) -> None:
    with pytest.raises(UserError, match="--max-cpu-hours must be above zero"):
        MaxHours(kind="cpu", hours=hours).check(GPUS)


def test_a_ceiling_of_gpus_that_nobody_uses_is_refused() -> None:
    with pytest.raises(UserError, match=r"limits nothing, as cluster.gpus_per_trial is 0"):
        MaxHours(kind="gpu", hours=1).check(Cluster())


def under(limit: MaxHours | None, store: RunStore, said: io.StringIO | None = None):
    return stopped_after(limit, store, GPUS, Progress(Console(file=said or io.StringIO())))


def test_a_run_that_has_used_it_up_is_refused(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.ledger.add(lasting(0, 3600))
    with (
        pytest.raises(UserError, match=r"has used 3 CPU-hours of 2.5; raise --max-cpu-hours"),
        under(MaxHours(kind="cpu", hours=2.5), store),
    ):
        raise AssertionError


def test_the_run_is_interrupted_once_trainings_have_used_it(tmp_path: Path, monkeypatch) -> None:
    """By rows that another process writes, as workers do."""
    monkeypatch.setattr("cluster.hours._POLL_SECONDS", 0.02)
    store, said, worker = RunStore(tmp_path), io.StringIO(), RunStore(tmp_path)
    with pytest.raises(KeyboardInterrupt), under(MaxHours(kind="cpu", hours=5), store, said):
        worker.ledger.add(lasting(0, 3600))
        time.sleep(0.2)
        assert not said.getvalue()
        worker.ledger.add(lasting(1, 3600))
        time.sleep(30)
        raise AssertionError
    assert "6 CPU-hours are used, --max-cpu-hours is 5: stopping in order" in said.getvalue()


def test_no_ceiling_and_one_that_is_not_reached_do_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cluster.hours._POLL_SECONDS", 0.01)
    store = RunStore(tmp_path)
    store.ledger.add(lasting(0, 3600))
    for limit in (None, MaxHours(kind="cpu", hours=3.1)):
        with under(limit, store):
            time.sleep(0.1)
