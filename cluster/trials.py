"""Runs trainings as Tune trials, records what fails, and tells the progress."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from cluster.packing import lowered, measure_packing, share_of, size, spread
from cluster.parents import lost_parents
from cluster.progress import Progress
from cluster.signals import signals_kept, told_to_stop
from cluster.tasks import cause_in
from engine.codec import canonical, decode
from engine.errors import UserError
from engine.local_folder import storage_error
from engine.recipe import Cluster
from engine.rows import NO_MEMORY, Epoch, Row, TrainingTask
from engine.store import RunStore
from searchers.tasks import TaskSearcher
from trainables.checkpoint import checkpoint_name
from trainables.data import ImageData
from trainables.trial import TrainingTrial

_OUT_OF_MEMORY = (
    "out of GPU memory, with no other training on the GPU; lower the stage's training.batch_size "
    "(which gives new rows), its largest width or data.resolution"
)
_IDLE_S = 60.0
_EPOCH_FIELDS = tuple(field.name for field in fields(Epoch))


@dataclass(kw_only=True)
class TrialRunner:
    """Everything that trials of one run share."""

    store: RunStore
    data: "ray.ObjectRef[ImageData]"
    resources: Cluster
    progress: Progress
    trainable: type[TrainingTrial] = TrainingTrial
    share: float = field(init=False, default=0.0)
    """GPUs of one trial at present."""
    _measured: tuple[str, int] = field(init=False, default=("", 0))
    """The stage, and the size of its network, for which it was measured how many share a GPU."""
    _networks: int = field(init=False, default=1)
    """So many do at the most."""
    _losses: Counter[str] = field(init=False, default_factory=Counter)
    """How often the worker of a training was lost, beyond what Tune tries again."""

    def run_tasks(self, stage: str, tasks: Sequence[TrainingTask]) -> None:
        """Trains every task that has no row yet.

        Raises:
            UserError: a training met what only the user can mend; it ends the others as well.
            KeyboardInterrupt: stopped in order; checkpoints of what was under way are kept.
        """
        missing = self._missing(tasks)
        if lost := lost_parents(self.store, missing.values()):
            self.progress.say("  weights to start from are gone or damaged: trained again")
            self.run_tasks(stage, lost)
            missing = self._missing(tasks)
        self.progress.begin_trials(stage, total=len(tasks), known=len(tasks) - len(missing))
        if missing:
            self._pack(stage, max(missing.values(), key=size), len(missing))
        while missing:
            # What takes longest first: begun last, it would be waited for alone.
            longest_first = sorted(
                missing.values(), key=lambda task: -size(task) * task.training.epochs
            )
            searcher = TaskSearcher(longest_first)
            postponed = self._fit(stage, self._config(searcher))
            missing = {task.id: task for task in postponed}
        if any(self.store.ledger.find(task.id) is None for task in tasks):
            raise KeyboardInterrupt  # stopped while no training ran

    def _missing(self, tasks: Sequence[TrainingTask]) -> dict[str, TrainingTask]:
        # All rows at once: in an object store every look for one that is not there takes a request.
        known = self.store.ledger.ids()
        return {
            task_id: task
            for task in tasks
            # Known, but not to be read: a row of another version of the program.
            if (task_id := task.id) not in known or self.store.ledger.find(task_id) is None
        }

    def run_search(
        self,
        stage: str,
        searcher: Searcher,
        total: int,
        known: int,
        asha_epochs: int | None,
        largest: TrainingTask,
        at_once: int,
    ) -> None:
        """Trains what ``searcher`` asks for until it has no more questions.

        Args:
            total: rows that are to be expected at the most, for the display.
            known: of them, those that are there.
            asha_epochs: epochs of a whole training, to let ASHA stop bad ones early; None to
                train all of them to the end.
            largest: what it may ask for that takes most memory.
            at_once: trainings that it asks for before it waits for one.

        Raises:
            UserError, KeyboardInterrupt: as for `run_tasks`.
        """
        self.progress.begin_trials(stage, total=total, known=known)
        scheduler = None
        if asha_epochs is not None:
            scheduler = ASHAScheduler(
                time_attr="epoch", metric="val_accuracy", mode="max", max_t=asha_epochs
            )
        self._pack(stage, largest, at_once)
        while self._fit(stage, self._config(searcher, scheduler)):
            searcher.restore("")

    def _config(
        self, searcher: Searcher, scheduler: ASHAScheduler | None = None
    ) -> tune.TuneConfig:
        return tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=trial_slots(self.resources, self.share, ray.cluster_resources()),
            reuse_actors=True,
        )

    def _pack(self, stage: str, largest: TrainingTask, count: int) -> None:
        """Decides how many trials of a stage share a GPU."""
        if self.resources.gpus_per_trial != "auto":
            self.share = self.share or self.resources.gpus_per_trial
            return
        measured_for, measured_size = self._measured
        if measured_for != stage or size(largest) > measured_size:
            self._measure_packing(stage, largest)
        gpus = ray.cluster_resources().get("GPU", 0.0)
        self.share = share_of(spread(self._networks, count, gpus))

    def _measure_packing(self, stage: str, largest: TrainingTask) -> None:
        self._measured = (stage, size(largest))
        networks, found = measure_packing(largest, self.data, self.resources.cpus_per_trial)
        self._networks = networks
        busy = "unknown" if found.utilisation is None else f"{found.utilisation:.0%}"
        self.progress.say(
            f"  up to {networks} trainings share a GPU: the largest takes "
            f"{found.used_bytes / 2**30:.1f} of {found.total_bytes / 2**30:.1f} GiB, and its "
            f"utilisation is {busy}"
        )

    def _unpack(self, postponed: Sequence[TrainingTask]) -> None:
        """Gives trials more of a GPU after some ran out of memory."""
        share = lowered(self.share) if self.share else None
        if share is None:
            raise AssertionError("a training that has its GPU alone is not postponed")
        self.share, self._networks = share, int(1 / share)
        self.progress.say(
            f"! {len(postponed)} trainings ran out of GPU memory; from now on {int(1 / share)} "
            "share a GPU",
            style="yellow",
        )

    def _fit(self, stage: str, config: tune.TuneConfig) -> list[TrainingTask]:
        """Runs trials and returns the tasks that are to be trained again.

        That are those that had too little GPU memory, packed less now, and those whose worker was
        lost: Tune gives a lost machine its trials again at once, as often as it may, before Ray has
        noticed; and what fails as a worker takes up a trial it does not try again at all.
        """
        trainable = tune.with_parameters(
            self.trainable,
            data=self.data,
            store=self.store,
            cpus=self.resources.cpus_per_trial,
            gpus=self.share,
            checkpoint_seconds=self.resources.checkpoint_minutes * 60,
        )
        packed = bool(self.share) and lowered(self.share) is not None
        watcher = _Watcher(
            self.store,
            self.progress,
            packed,
            self.resources.cpus_per_trial,
            self.share,
            may_be_lost=self._may_be_lost,
        )
        with _files_of_tune(self.store.logs), signals_kept():
            tune.Tuner(
                tune.with_resources(
                    trainable,
                    {"CPU": self.resources.cpus_per_trial, "GPU": self.share},
                ),
                tune_config=config,
                run_config=tune.RunConfig(
                    name=stage,
                    storage_path=str(self.store.logs / "tune"),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=self.resources.retries),
                    callbacks=[watcher],
                    stop=watcher,
                    verbose=0,
                ),
            ).fit()
        if watcher.user_error is not None:
            raise UserError(watcher.user_error)
        if watcher.unfinished or told_to_stop():
            raise KeyboardInterrupt
        if watcher.postponed:
            self._unpack(watcher.postponed)
        if watcher.lost:
            self.progress.say(
                f"! the workers of {len(watcher.lost)} trainings were lost; they are trained again",
                style="yellow",
            )
        return [*watcher.postponed, *watcher.lost]

    def _may_be_lost(self, task_id: str) -> bool:
        self._losses[task_id] += 1
        return self._losses[task_id] <= self.resources.retries


@contextmanager
def _files_of_tune(folder: Path) -> Generator[None]:
    """Tune keeps files that nothing is read from, but ends where it cannot write them."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of a connection, not of a file
            raise
        raise storage_error(error, folder) from error


def trial_slots(resources: Cluster, share: float, total: Mapping[str, float]) -> int:
    """Returns how many trials with that share of a GPU fit at once.

    Args:
        total: what Ray gives out of the whole cluster, by kind.
    """
    slots = total.get("CPU", 0.0) / resources.cpus_per_trial
    if share > 0:
        slots = min(slots, total.get("GPU", 0.0) / share)
    return max(1, int(slots))


class _Watcher(tune.Callback, tune.Stopper):
    """Turns the ends of trials into rows and the events of trials into progress.

    Attributes:
        unfinished: trials that have begun and not ended.
        postponed, lost: what is to be trained again, with more of a GPU or by another worker.
        user_error: what a training met that only the user can mend. It stops all others, whose
            checkpoints are kept.
    """

    def __init__(
        self,
        store: RunStore,
        progress: Progress,
        packed: bool,
        cpus: int,
        gpus: float,
        may_be_lost: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._store = store
        self._may_be_lost = may_be_lost
        self._packed = packed
        self._cpus, self._gpus = cpus, gpus
        self._progress = progress
        self._history: dict[str, dict[int, Epoch]] = {}
        self.unfinished: set[str] = set()
        self.postponed: list[TrainingTask] = []
        self.lost: list[TrainingTask] = []
        self.user_error: str | None = None
        self._ran_at = time.monotonic()
        self._told = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Notes the first error of a user; such a trial has ended by itself."""
        self.user_error = self.user_error or result.get("user_error")
        return False

    def stop_all(self) -> bool:
        """Whether the stage is to end."""
        return self.user_error is not None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles callbacks for its own way to resume, which is never taken here."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Says so where nothing runs: Tune waits for a cluster that has shrunk, without a word."""
        now = time.monotonic()
        if not trials or any(trial.status == Trial.RUNNING for trial in trials):
            self._ran_at, self._told = now, False
        elif now - self._ran_at > _IDLE_S and not self._told:
            self._told = True
            self._progress.say(
                f"! no training has run for {_IDLE_S:.0f} s: the cluster has no room for one, "
                f"which takes {self._cpus} CPUs and {self._gpus:g} GPUs, or is still starting it; "
                "it is waited for",
                style="yellow",
            )

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self.unfinished.add(trial.trial_id)
        self._progress.trial_started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if not result["epoch"]:
            return
        epochs = [_epoch(one) for one in (*result["earlier"], result)]
        first = result["epoch"] - len(epochs) + 1
        self._history.setdefault(trial.trial_id, {}).update(enumerate(epochs, first))
        self._progress.trial_epoch(trial.trial_id, result["epoch"], epochs[-1].val_accuracy)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        if (trial.last_result or {}).get("status") != NO_MEMORY:
            self._end(trial, status="stopped", error=None)
        elif self._packed:
            self.unfinished.discard(trial.trial_id)
            self.postponed.append(_task_of(trial))
            self._progress.trial_left(trial.trial_id)
        else:
            said = (trial.last_result or {}).get("said", "")
            self._end(trial, status="failed", error=f"{_OUT_OF_MEMORY} ({said})")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        task = _task_of(trial)
        if _has_failed_itself(trial) or not self._may_be_lost(task.id):
            self._end(trial, status="failed", error=_cause(trial))
            return
        self.unfinished.discard(trial.trial_id)
        self.lost.append(task)
        self._progress.trial_left(trial.trial_id)

    def _end(self, trial: Trial, status: Literal["stopped", "failed"], error: str | None) -> None:
        """Tune would take an error of the storage for the trial's, and train that again."""
        self.unfinished.discard(trial.trial_id)
        if self.user_error is not None:
            return
        try:
            self._keep(trial, status, error)
        except UserError as lost:
            self.user_error = str(lost)

    def _keep(self, trial: Trial, status: Literal["stopped", "failed"], error: str | None) -> None:
        """The worker wrote the row of a training that ended by itself; others get theirs here."""
        task = _task_of(trial)
        history = self._history.pop(trial.trial_id, {})
        ledger = self._store.ledger
        done = (trial.last_result or {}).get("status") == "done"
        row = ledger.await_row(task.id) if done else ledger.find(task.id)
        if row is None and done:
            self.user_error = (
                f"the row that a worker wrote of {task.id} cannot be read; give a --runs-dir that "
                "all machines share, or repeat the command if they do"
            )
            return
        if row is None:
            epochs = tuple(history[number] for number in sorted(history))
            row = Row(
                task=task,
                status=status,
                history=epochs,
                error=error,
                cpus=self._cpus,
                gpus=self._gpus,
            )
            ledger.add(row)
            ledger.find(task.id)
        ledger.compact()
        if error is None:
            self._store.checkpoints.delete(checkpoint_name(task.id))
        self._progress.trial_ended(trial.trial_id, row)


def _epoch(told: Mapping[str, Any]) -> Epoch:
    return Epoch(**{field: float(told[field]) for field in _EPOCH_FIELDS})


def _task_of(trial: Trial) -> TrainingTask:
    return decode(TrainingTask, canonical(trial.config["task"]), "the task of a trial")


def _cause(trial: Trial) -> str:
    """The exception at the end of the traceback that Tune kept."""
    return cause_in(_told(trial), "the trial ended with an error that Ray did not name")


def _has_failed_itself(trial: Trial) -> bool:
    """Whether an error came from a step of the training, and not from what Ray does around it."""
    return ".train()" in _told(trial).rpartition("\nFailure # ")[2]


def _told(trial: Trial) -> str:
    file = trial.error_file
    return Path(file).read_text(errors="replace") if file and Path(file).exists() else ""
