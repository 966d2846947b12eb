"""The training of the baseline and of the result, data parallel, as a Ray Train function."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace

import ray
import ray.train
from ray.train.torch import get_device

from engine.errors import TrainingFailed
from engine.rows import Row, TrainingTask
from engine.store import RunStore
from engine.trained_weights import weights_name, write_weights
from trainables.data import ImageData
from trainables.device import use_cpus
from trainables.loop import NetworkTraining
from trainables.tensors import TensorData


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTraining:
    """What every worker of a final training gets.

    Attributes:
        directory: of the driver, where a module of the user's finds files.
    """

    task: TrainingTask
    data: "ray.ObjectRef[ImageData]"
    store: RunStore
    cpus: int
    checkpoint_seconds: float
    directory: str


def train_final(config: dict[str, FinalTraining]) -> None:
    """Trains the task of ``config["final"]`` on the workers that Ray Train has started.

    Worker 0 keeps checkpoints, weights and the row in the run store; all workers resume from the
    same checkpoint. A training that fails leaves a failed row.
    """
    final = config["final"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    use_cpus(final.cpus)
    with suppress(OSError):  # Train has gone to a folder of its own; another machine stays there
        os.chdir(final.directory)
    device = get_device()
    data = TensorData.on(ray.get(final.data), device)
    training = NetworkTraining(final.task, data, final.store, rank, world, final.checkpoint_seconds)
    try:
        while not training.finished:
            training.run_epoch()
            # No worker may begin the next epoch before a checkpoint of this one is there.
            ray.train.report({"epoch": len(training.history)})
        row = training.result()
    except TrainingFailed as error:
        row = Row(task=final.task, status="failed", history=training.history, error=str(error))
    if rank == 0:
        if row.status == "done":
            name = weights_name(final.task.id)
            write_weights(final.store.weights, name, training.state_dict())
        gpus = float(world) if device.type == "cuda" else 0.0
        final.store.ledger.add(replace(row, cpus=world * final.cpus, gpus=gpus))
