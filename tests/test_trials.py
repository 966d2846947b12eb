"""Trainings as Ray Tune trials: failures become rows, killed workers start again."""

import io
import math
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
import torch
from ray.tune.experiment import Trial
from rich.console import Console

from cluster import final
from cluster.device import measure
from cluster.final import run_final
from cluster.progress import Progress
from cluster.session import session
from cluster.trials import TrialRunner, _Watcher
from engine.codec import jsonable
from engine.errors import UserError
from engine.graph import load_graph
from engine.recipe import Cluster, Data, Device
from engine.rows import NO_MEMORY, Row, TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from engine.training import Training
from trainables.checkpoint import checkpoint_name
from trainables.data import ImageData, load_data
from trainables.loop import NetworkTraining
from trainables.trial import TrainingTrial

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TRAINING = Training(epochs=4, batch_size=32, lr=0.05, augment="none", warmup_epochs=1)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(Data(source="digits", train_images=300))


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, data: ImageData) -> Iterator[TrialRunner]:
    store = RunStore(tmp_path_factory.mktemp("run"))
    with session(None, store.logs) as current, Progress(Console(quiet=True)) as progress:
        current.start()
        yield TrialRunner(
            store=store, data=ray.put(data), resources=Cluster(retries=1), progress=progress
        )


@pytest.fixture(scope="module")
def task(data: ImageData) -> TrainingTask:
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    return TrainingTask(spec=graph.spec(32, 1 / 16), training=TRAINING, data=data.digest, seed=0)


@pytest.fixture
def watched(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[_Watcher, Progress, io.StringIO, dict[str, float]]:
    """What follows trials, what it tells, and the clock of this process, which stands still."""
    clock, said = {"now": 0.0}, io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    progress = Progress(Console(file=said, width=200))
    return _Watcher(cast(RunStore, None), progress, False, 2, 0.5), progress, said, clock


def test_a_cluster_without_room_is_told_once_until_a_training_runs(watched) -> None:
    watcher, _, said, clock = watched
    pending = cast(Trial, SimpleNamespace(status=Trial.PENDING))
    running = cast(Trial, SimpleNamespace(status=Trial.RUNNING))
    for now, trials in (
        (50.0, [pending]),
        (61.0, [pending]),
        (99.0, [pending]),
        (100.0, [pending, running]),
        (159.0, [pending]),
        (161.0, [pending]),
    ):
        clock["now"] = now
        watcher.on_step_end(0, trials)
        told = said.getvalue().count("no training has run for 60 s")
        assert told == (0 if now < 60 else 1 if now < 160 else 2)
    assert "which takes 2 CPUs and 0.5 GPUs" in said.getvalue()


def test_the_pace_of_a_training_that_was_taken_up_again_is_that_of_now(watched) -> None:
    """Of 300 epochs 250 were known; two took 20 s each, so that 48 take 960 s."""
    _, progress, said, clock = watched
    progress.begin("train")
    for seconds, epoch in ((5.0, 250), (25.0, 251), (45.0, 252)):
        clock["now"] = seconds
        progress.training(epoch, 300)
    assert said.getvalue().splitlines()[-1].endswith("about 16:00 left")


def test_failures_are_recorded_and_the_others_go_on(
    runner: TrialRunner, task: TrainingTask
) -> None:
    good = replace(task, seed=11)
    diverges = replace(task, training=replace(TRAINING, lr=1e12))
    never_learns = replace(task, training=replace(TRAINING, lr=1e-12, epochs=1))
    crashes = replace(task, spec=replace(task.spec, widths=task.spec.widths[1:]))
    runner.run_tasks("mixed", [diverges, crashes, never_learns, good])

    def row(task: TrainingTask):
        found = runner.store.ledger.find(task.id)
        assert found is not None
        return found

    assert row(good).status == "done"
    assert row(good).last.val_accuracy > 0.15
    assert row(diverges).status == "failed"
    assert "not finite" in (row(diverges).error or "")
    assert row(never_learns).status == "failed"
    assert "most frequent class" in (row(never_learns).error or "")
    assert row(crashes).status == "failed"
    assert "the spec belongs to another network" in (row(crashes).error or "")
    # What the driver writes down says what was held, as what a worker does.
    assert row(crashes).cpus == row(good).cpus == runner.resources.cpus_per_trial
    # A crash is tried again, a training that ended by itself is not.
    assert runner.store.epochs.numbers(never_learns.id) == [1]


def test_what_only_the_user_can_mend_ends_a_stage_at_once(
    runner: TrialRunner, task: TrainingTask
) -> None:
    first, second, third = (  # equally long: what is longest begins first
        replace(task, seed=seed, training=replace(TRAINING, epochs=500)) for seed in (14, 13, 15)
    )
    refused, others = replace(second, data="another data set"), [first, third]
    with pytest.raises(UserError, match=r"^the data set is not the one that the run began with"):
        runner.run_tasks("refused", [others[0], refused, others[1]])
    assert all(runner.store.ledger.find(one.id) is None for one in (refused, *others))


def test_what_only_the_user_can_mend_ends_a_final_training_at_once(
    runner: TrialRunner, task: TrainingTask
) -> None:
    refused = replace(task, seed=16, data="another data set", sync_workers=True, test=True)
    with pytest.raises(UserError, match=r"^the data set is not the one that the run began with"):
        run_final(refused, runner.store, runner.data, runner.resources, runner.progress)
    assert runner.store.ledger.find(refused.id) is None


def test_a_final_training_without_room_says_so_once_until_there_is(
    runner: TrialRunner, task: TrainingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack, said, looks = "the recipe needs 2 CPUs at once, but Ray has 1", io.StringIO(), 0
    waits = replace(task, seed=18, sync_workers=True, test=True)
    over = threading.Event()

    class Waiting:
        def __init__(self, *_: object, **__: object) -> None: ...

        def fit(self) -> None:
            assert over.wait(20)
            runner.store.ledger.add(Row(task=waits, status="failed", history=(), error="enough"))

    def lacking(_: Cluster) -> str:
        nonlocal looks
        looks += 1
        if looks == 8:
            over.set()
        return "" if looks in (3, 4) else lack

    monkeypatch.setattr(final, "TorchTrainer", Waiting)
    monkeypatch.setattr(final, "lacking_workers", lacking)
    monkeypatch.setattr(final, "_SHOW_SECONDS", 0.02)
    progress = Progress(Console(file=said, width=200))
    with pytest.raises(UserError, match="enough"):
        run_final(waits, runner.store, runner.data, runner.resources, progress)
    assert said.getvalue().count(f"{lack}: the training waits for nodes") == 2


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        # What a try reaches; two retries from the furthest epoch on.
        ([3, 3, 3], "goes on"),
        ([0, 0, 0], "fails"),
        ([1, 2, 3, 4, 5, 6], "goes on"),
        ([3, 3, 4, 4, 4], "goes on"),
        ([3, 3, 4, 4, 4, 4], "fails"),
        ([3, 3, 2, 3], "fails"),
    ],
)
def test_a_final_training_is_begun_anew_while_it_goes_on(
    epochs: list[int],
    expected: str,
    runner: TrialRunner,
    task: TrainingTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, left, said = RunStore(tmp_path), list(epochs), io.StringIO()
    broken = replace(task, seed=17, sync_workers=True, test=True)

    class Breaking:
        def __init__(self, *_: object, **__: object) -> None: ...

        def fit(self) -> None:
            if not left:
                store.ledger.add(Row(task=broken, status="failed", history=(), error="enough"))
                return
            if epoch := left.pop(0):
                store.epochs.note(broken.id, epoch)
            raise RuntimeError("the rendezvous failed")

    monkeypatch.setattr(final, "TorchTrainer", Breaking)
    monkeypatch.setattr(final, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(final, "_SHOW_SECONDS", 0.01)
    progress = Progress(Console(file=said, width=200))
    resources = replace(runner.resources, retries=2)
    words = "enough" if expected == "goes on" else "the rendezvous failed; mend the cause"
    with pytest.raises(UserError, match=words):
        run_final(broken, store, runner.data, resources, progress)
    assert left == []
    again = len(epochs) - (expected == "fails")
    assert said.getvalue().count("! the training goes on after: the rendezvous failed") == again


def test_a_module_of_the_users_finds_files_where_the_driver_does(
    runner: TrialRunner, task: TrainingTask
) -> None:
    """Tune and Train both let their workers stand in folders of their own."""
    assert Path("pyproject.toml").exists(), "the tests are to be started from the project's folder"
    ours = replace(task, seed=21, training=TRAINING.for_epochs(1), loss="tests.beside:loss")
    whole = replace(ours, seed=22, sync_workers=True, test=True)
    runner.run_tasks("beside", [ours])
    run_final(whole, runner.store, runner.data, runner.resources, runner.progress)
    for one in (ours, whole):
        row = runner.store.ledger.find(one.id)
        assert row is not None and row.status == "done", row


def test_what_a_measurement_says_is_one_line(runner: TrialRunner, task: TrainingTask) -> None:
    unknown = replace(task.spec, model=ModelRef(name="vgg12", classes=10))
    with pytest.raises(UserError, match=r"^unknown model 'vgg12'") as caught:
        measure([unknown], unknown, Device(runtime="synthetic"), 3, 1, per_layer=False)
    assert "\n" not in str(caught.value)


def test_rows_that_are_known_are_not_trained_again(runner: TrialRunner, task: TrainingTask) -> None:
    known = replace(task, seed=11)
    runner.run_tasks("first", [known])
    before = runner.store.epochs.numbers(known.id)
    runner.run_tasks("again", [known])
    assert runner.store.epochs.numbers(known.id) == before == [1, 2, 3, 4]


def test_a_training_stopped_after_it_was_resumed_keeps_all_its_epochs(
    data: ImageData, task: TrainingTask, tmp_path: Path
) -> None:
    """As ASHA stops one: without a session, as the driver and a worker do it in turn."""
    store, task = RunStore(tmp_path), replace(task, seed=13)
    known = {"task": jsonable(task)}

    def taken_up() -> TrainingTrial:
        trial = TrainingTrial.__new__(TrainingTrial)
        trial.setup(known, data=data, store=store, cpus=1, gpus=0.0, checkpoint_seconds=math.inf)
        return trial

    first = taken_up()
    for _ in range(2):
        first.step()
    resumed = taken_up()
    with Progress(Console(quiet=True)) as progress:
        progress.begin_trials("asha", total=1, known=0)
        watcher = _Watcher(store, progress, packed=False, cpus=1, gpus=0.0)
        result = resumed.step()
        trial = cast("Trial", SimpleNamespace(trial_id="one", config=known, last_result=result))
        watcher.on_trial_start(0, [], trial)
        watcher.on_trial_result(0, [], trial, result)
        watcher.on_trial_complete(0, [], trial)
    row = store.ledger.find(task.id)
    assert row is not None and row.status == "stopped" and len(row.history) == 3


def test_storage_that_is_lost_as_a_trial_ends_ends_the_stage(
    task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune takes what a callback raises for an error of the trial, and trains it again."""
    store = RunStore(tmp_path)

    def lost(*_: object) -> None:
        raise UserError("no space left for the ledger")

    monkeypatch.setattr(store.ledger, "compact", lost)
    store.checkpoints.write(checkpoint_name(task.id), b"the last epoch")
    with Progress(Console(quiet=True)) as progress:
        progress.begin_trials("lost", total=1, known=0)
        watcher = _Watcher(store, progress, packed=False, cpus=1, gpus=0.0)
        config = {"task": jsonable(task)}
        trial = cast("Trial", SimpleNamespace(trial_id="one", config=config, last_result={}))
        watcher.on_trial_start(0, [], trial)
        watcher.on_trial_complete(0, [], trial)
    assert watcher.stop_all() and watcher.user_error == "no space left for the ledger"
    assert store.checkpoints.exists(checkpoint_name(task.id))


STEP = (
    "\nFailure # 2 (occurred at noon)\nray::ResourceTrainable.train() (pid=7)\nValueError: mine\n"
)
LOST = "\nFailure # 2 (occurred at noon)\nThe actor is unavailable: Socket closed\n"
RESET = "\nFailure # 1 (occurred at noon)\nray::ResourceTrainable.reset() (pid=7)\nOSError: gone\n"


@pytest.mark.parametrize(
    ("said", "again"), [(STEP, False), (LOST, True), (RESET, True), (STEP + LOST, True)]
)
def test_a_training_whose_worker_was_lost_is_trained_again(
    said: str, again: bool, task: TrainingTask, tmp_path: Path
) -> None:
    """As often as the recipe says; what fails in its own steps has been tried by Tune."""
    store, file = RunStore(tmp_path / "run"), tmp_path / "error.txt"
    file.write_text(said)
    allowed = [True, False]
    with Progress(Console(quiet=True)) as progress:
        progress.begin_trials("lost", total=1, known=0)
        watcher = _Watcher(store, progress, False, 1, 0.0, lambda _: allowed.pop(0))
        trial = cast(
            "Trial",
            SimpleNamespace(
                trial_id="one",
                config={"task": jsonable(task)},
                last_result={},
                error_file=str(file),
            ),
        )
        for expected in (again, False):
            watcher.on_trial_start(0, [], trial)
            watcher.on_trial_error(0, [], trial)
            assert [one.id for one in watcher.lost] == [task.id] * again
            row = store.ledger.find(task.id)
            assert (row is None) == expected
            assert not watcher.unfinished
            if not again:
                break
    assert row is not None and row.status == "failed"


def test_workers_that_die_oftener_than_tune_tries_again_cost_nothing(
    data: ImageData, task: TrainingTask, runner: TrialRunner, tmp_path: Path
) -> None:
    class Dying(TrainingTrial):
        def step(self) -> dict[str, Any]:
            deaths = Path(self._store.location, "deaths")
            deaths.mkdir(exist_ok=True)
            if (count := len(list(deaths.iterdir()))) < 3:
                (deaths / str(count)).touch()
                os._exit(1)
            return super().step()

    said = io.StringIO()
    mortal = TrialRunner(
        store=RunStore(tmp_path / "run"),
        data=runner.data,
        resources=Cluster(retries=1),
        progress=Progress(Console(file=said, width=200)),
        trainable=Dying,
    )
    short = replace(task, seed=19, training=TRAINING.for_epochs(1))
    mortal.run_tasks("dying", [short])
    row = mortal.store.ledger.find(short.id)
    assert row is not None and row.status == "done"
    assert said.getvalue().count("the workers of 1 trainings were lost") == 1


def test_memory_that_ran_out_is_free_before_the_next_trial(
    task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Held:
        pass

    held: list[weakref.ref[Held]] = []
    alive: list[bool] = []

    def step(trial: TrainingTrial) -> dict[str, object]:
        batch = Held()
        trial._training = cast("NetworkTraining", batch)
        held.append(weakref.ref(batch))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingTrial, "_step", step)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[0]() is not None))
    trial = TrainingTrial.__new__(TrainingTrial)
    assert trial.step()["status"] == NO_MEMORY
    assert alive == [False]


def test_a_killed_worker_repeats_one_epoch_at_most(runner: TrialRunner, task: TrainingTask) -> None:
    victim = replace(task, seed=12, training=replace(TRAINING, epochs=10))
    killer = threading.Thread(target=kill_worker_of, args=(runner.store, victim))
    killer.start()
    runner.run_tasks("killed", [victim])
    killer.join()
    row = runner.store.ledger.find(victim.id)
    assert row is not None and row.status == "done" and len(row.history) == 10
    epochs = runner.store.epochs.numbers(victim.id)
    assert len(workers_of(runner.store, victim)) == 2
    assert set(epochs) == set(range(1, 11))
    assert len(epochs) <= 11


@pytest.mark.long
def test_a_killed_final_worker_repeats_one_epoch_at_most(
    runner: TrialRunner, task: TrainingTask
) -> None:
    victim = replace(task, training=replace(TRAINING, epochs=30), sync_workers=True, test=True)
    killer = threading.Thread(target=kill_worker_of, args=(runner.store, victim))
    killer.start()
    trained = run_final(victim, runner.store, runner.data, runner.resources, runner.progress)
    killer.join()
    assert len(trained.history) == 30
    assert len(workers_of(runner.store, victim)) == 2
    assert len(runner.store.epochs.numbers(victim.id)) <= 31
    assert runner.store.folder.exists(trained.weights)
    row = runner.store.ledger.find(victim.id)
    assert row is not None
    assert row.test_accuracy == trained.test_accuracy


def workers_of(store: RunStore, task: TrainingTask) -> list[int]:
    """Process ids that trained epochs of ``task``, in order of appearance."""
    noted = store.epochs.read()
    return list(dict.fromkeys(epoch.process for epoch in noted if epoch.task == task.id))


def kill_worker_of(store: RunStore, task: TrainingTask) -> None:
    """Kills the process that trains ``task`` once it has noted an epoch."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if pids := workers_of(store, task):
            os.kill(pids[0], signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.long
def test_asha_stops_bad_trainings_and_leaves_rows(
    runner: TrialRunner, task: TrainingTask, tmp_path: Path
) -> None:
    from engine.recipe import Alpha
    from searchers.alpha import AlphaSearcher

    graph = load_graph(task.spec.model, 32)
    specs = [graph.spec(32, multiplier) for multiplier in (1 / 16, 1 / 12, 1 / 10, 1 / 8)]
    settings = Alpha(trials=4, batch=4, repeats=3, scheduler="asha")
    training = replace(TRAINING, epochs=8)

    def candidate(alpha: float):
        return specs[min(int(alpha * 4), 3)]

    def tasks_of(spec) -> list[TrainingTask]:
        # The second repeat cannot learn, so it is the one to be stopped; the third ends before it
        # has an accuracy.
        rates = (0.05, 1e-9, 1e30)
        return [replace(task, spec=spec, training=replace(training, lr=lr)) for lr in rates]

    searcher = AlphaSearcher(
        settings=settings,
        seed=0,
        journal=tmp_path / "journal",
        candidate=candidate,
        tasks_of=tasks_of,
        finished=runner.store.ledger.find,
    )
    largest = tasks_of(specs[-1])[0]
    runner.run_search(
        "asha", searcher, total=12, known=0, asha_epochs=8, largest=largest, at_once=12
    )
    rows = [runner.store.ledger.find(t.id) for spec in specs for t in tasks_of(spec)]
    assert all(row is not None for row in rows)
    stopped = [row for row in rows if row is not None and row.status == "stopped"]
    assert stopped
    assert all(1 <= len(row.history) < 8 for row in stopped)
    assert all(row is not None and row.status == "failed" for row in rows[2::3])
