"""Runs the data-parallel training of the baseline and of the result."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import train
from ray.train.torch import TorchTrainer

from cluster.interface import NodeInterface
from cluster.progress import Progress
from cluster.session import lacking_node, lacking_workers
from cluster.tasks import said_by
from engine.errors import UserError
from engine.recipe import Cluster
from engine.results import Trained
from engine.rows import Row, TrainingTask
from engine.store import RunStore
from engine.trained_weights import has_weights, weights_name
from trainables.checkpoint import checkpoint_name
from trainables.data import ImageData
from trainables.final import FinalTraining, train_final

_SHOW_SECONDS = 5.0
"""From one look at the log of epochs to the next: the cores belong to the training."""

_PAUSE_SECONDS = 5.0
"""Before a training is begun anew: what was lost may be on its way back."""


class _Follow(train.UserCallback):
    """Notes the epochs of a worker on another machine, which keeps its own log.

    Train runs callbacks on the machine of the driver, who reads this one.
    """

    def __init__(self, store: RunStore, task_id: str) -> None:
        self._store, self._task_id = store, task_id

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: object
    ) -> None:
        epochs, number = self._store.epochs, int(metrics[0]["epoch"])
        if number not in epochs.numbers(self._task_id):
            epochs.note(self._task_id, number)


def run_final(
    task: TrainingTask,
    store: RunStore,
    data: "ray.ObjectRef[ImageData]",
    resources: Cluster,
    progress: Progress,
) -> Trained:
    """Trains ``task`` over the cluster unless it is in the ledger, and returns what came of it.

    Raises:
        UserError: the training failed.
    """
    weights = weights_name(task.id)
    row = store.ledger.find(task.id)
    if row is not None and row.status == "done" and not has_weights(store.weights, weights):
        store.ledger.discard([task.id])  # the weights to come may differ from those that are lost
        row = None
    if row is None:
        row = _train(task, store, data, resources, progress)
    if row.status != "done" or row.test_accuracy is None:
        raise UserError(
            f"the training of the whole network failed: {row.error}; change the recipe's train "
            "section, or repeat with --retry-failed"
        )
    return Trained(
        row=task.id,
        val_accuracy=row.last.val_accuracy,
        test_accuracy=row.test_accuracy,
        history=row.history,
        weights=f"{store.weights.name}/{weights}",
    )


def _train(
    task: TrainingTask,
    store: RunStore,
    data: "ray.ObjectRef[ImageData]",
    resources: Cluster,
    progress: Progress,
) -> Row:
    gpu, fewest = resources.uses_gpus, resources.final_workers_min
    most = resources.final_workers

    def trainer() -> TorchTrainer:
        return TorchTrainer(
            train_final,
            train_loop_config={
                "final": FinalTraining(
                    task=task,
                    data=data,
                    store=store,
                    cpus=resources.cpus_per_trial,
                    checkpoint_seconds=resources.checkpoint_minutes * 60,
                    directory=os.getcwd(),
                )
            },
            torch_config=NodeInterface(),
            scaling_config=train.ScalingConfig(
                num_workers=most if fewest is None else (fewest, most),
                use_gpu=gpu,
                resources_per_worker={"CPU": resources.cpus_per_trial, "GPU": int(gpu)},
            ),
            run_config=train.RunConfig(
                name=task.id,
                storage_path=str(store.logs / "train"),
                # It is begun anew here: Train takes a failed rendezvous for an end, and counts
                # the machines that are lost over all of a training, however long.
                failure_config=train.FailureConfig(max_failures=0),
                callbacks=[_Follow(store, task.id)],
            ),
        )

    def done() -> int:
        return max(store.epochs.numbers(task.id), default=0)

    lacked = ""

    def show() -> None:
        nonlocal lacked
        progress.training(done(), task.training.epochs)
        # Train waits for a cluster that has shrunk, without a word.
        worker = {"CPU": float(resources.cpus_per_trial), "GPU": float(gpu)}
        lack = lacking_workers(resources) or lacking_node("worker", worker)
        if lack and lack != lacked:
            progress.say(f"! {lack}: the training waits for nodes", style="yellow")
        lacked = lack

    left, before = resources.retries, done()
    while (failure := _fit(trainer(), show)) is not None:
        reached = done()
        left = resources.retries if reached > before else left - 1
        before = max(before, reached)
        if left < 0:
            raise UserError(
                f"the training of the whole network failed: {_cause(failure)}; mend the cause and "
                "repeat the command, which goes on from the last epoch"
            ) from failure
        progress.say(f"! the training goes on after: {_cause(failure)}", style="yellow")
        time.sleep(_PAUSE_SECONDS)
    row = store.ledger.await_row(task.id)
    if row is None:
        raise UserError(
            f"Ray Train ended without a row of {task.id}; give a --runs-dir that all machines "
            "share, or repeat the command if they do: it goes on from the last epoch"
        )
    store.checkpoints.delete(checkpoint_name(task.id))
    return row


def _cause(error: BaseException) -> str:
    """The last line of what a worker raised."""
    worst = error
    if isinstance(error, train.WorkerGroupError) and error.worker_failures:
        worst = next(iter(error.worker_failures.values()))
    return said_by(worst)


def _fit(trainer: TorchTrainer, follow: Callable[[], None]) -> Exception | None:
    """Runs ``trainer`` and calls ``follow`` now and then; returns what ended it early, if anything.

    In a thread, because Train takes Ctrl-C for itself in the main one and ends the process.

    Raises:
        UserError: only the user can mend what ended it.
    """
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_SHOW_SECONDS)  # which is over when the training is
        follow()
    if not failures:
        return None
    failure = failures[0]
    if isinstance(failure, train.ControllerError):
        failure = failure.controller_failure
    of_workers = isinstance(failure, train.WorkerGroupError)
    for error in failure.worker_failures.values() if of_workers else (failure,):
        # What a task of Ray has raised stands behind its own error.
        cause = getattr(error, "cause", error)
        if isinstance(cause, UserError):
            raise cause
    return failure
