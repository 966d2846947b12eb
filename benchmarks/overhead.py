"""What orchestration costs: our trials against a bare loop and a bare pool of Ray actors.

    python benchmarks/overhead.py [--trials 24] [--seconds 30] [--workers N]

All three train the same networks with the same code. Each runs a third of the trials first and
then the rest; the second part has neither start-up nor imports in it. The overhead of a trial is
the time that a worker spends per trial, less the time within its epochs. The efficiency is the
time of the loop on one core over workers times the time of the trials: on cores that share caches
and clocks it is below one for any program, so that of the pool stands beside it.
Writes docs/results/overhead.json.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ray
import torch
from ray.util import ActorPool
from record import spread, write_results
from rich.console import Console

from cluster.progress import Progress
from cluster.session import session
from cluster.trials import TrialRunner
from engine.graph import load_graph
from engine.recipe import Cluster, Data
from engine.rows import TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from engine.training import Training
from trainables.data import ImageData, load_data
from trainables.loop import NetworkTraining
from trainables.tensors import TensorData

TRAINING = Training(epochs=2, batch_size=64, lr=0.05, augment="shift")


def train(task: TrainingTask, data: TensorData, store: RunStore) -> None:
    """The bare training: no more than what a trial must do."""
    training = NetworkTraining(task, data, store)
    while not training.finished:
        training.run_epoch()
    store.ledger.add(training.result())
    training.discard_checkpoint()


@ray.remote(num_cpus=1)
class Worker:
    def __init__(self, data: ImageData, directory: Path) -> None:
        torch.set_num_threads(1)
        self._data = TensorData.on(data, torch.device("cpu"))
        self._store = RunStore(directory)

    def train(self, task: TrainingTask) -> None:
        train(task, self._data, self._store)


def measure(
    run: Callable[[list[TrainingTask]], None],
    tasks: list[TrainingTask],
    store: RunStore,
    workers: int,
) -> dict[str, object]:
    first = max(len(tasks) // 3, workers)
    began = time.perf_counter()
    run(tasks[:first])
    middle = time.perf_counter()
    run(tasks[first:])
    seconds = time.perf_counter() - middle
    rows = [store.ledger.find(task.id) for task in tasks]
    trained = [sum(e.seconds for e in row.history) for row in rows[first:] if row is not None]
    per_trial = seconds * workers / (len(tasks) - first)
    return {
        "first_part_seconds": middle - began,
        "seconds": seconds,
        "worker_seconds_per_trial": per_trial,
        "training_seconds": spread(trained),
        "overhead_seconds_per_trial": per_trial - sum(trained) / len(trained),
        "rows_lost": sum(row is None or row.status != "done" for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=30.0, help="of one training")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp())
    data = load_data(Data())
    tensors = TensorData.on(data, torch.device("cpu"))
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    base = TrainingTask(spec=graph.spec(32, 1 / 16), training=TRAINING, data=data.digest, seed=0)
    probe = NetworkTraining(base, tensors, RunStore(scratch / "probe"))
    probe.run_epoch()
    epoch_seconds = probe.run_epoch().seconds
    epochs = max(2, round(options.seconds / epoch_seconds))
    training = TRAINING.for_epochs(epochs)
    tasks = [replace(base, training=training, seed=seed) for seed in range(options.trials)]

    found: dict[str, object] = {}
    stores = {name: RunStore(scratch / name) for name in ("loop", "pool", "hacscale")}

    def loop(part: list[TrainingTask]) -> None:
        for task in part:
            train(task, tensors, stores["loop"])

    found["loop"] = measure(loop, tasks, stores["loop"], 1)
    with session(None, stores["hacscale"].logs) as current, Progress(Console()) as progress:
        current.start()
        shared = ray.put(data)
        actors = [Worker.remote(shared, scratch / "pool") for _ in range(options.workers)]
        pool = ActorPool(actors)

        def use_pool(part: list[TrainingTask]) -> None:
            list(pool.map_unordered(lambda actor, task: actor.train.remote(task), part))

        found["pool"] = measure(use_pool, tasks, stores["pool"], options.workers)
        for actor in actors:
            ray.kill(actor)
        runner = TrialRunner(
            store=stores["hacscale"], data=shared, resources=Cluster(), progress=progress
        )
        found["hacscale"] = measure(
            lambda part: runner.run_tasks("sample", part),
            tasks,
            stores["hacscale"],
            options.workers,
        )
    loop_seconds = found["loop"]["seconds"]
    write_results(
        "overhead",
        {
            "trials": options.trials,
            "workers": options.workers,
            "epochs": epochs,
            **found,
            "parallel_efficiency": {
                name: loop_seconds / (options.workers * found[name]["seconds"])
                for name in ("pool", "hacscale")
            },
            "hacscale_over_pool": found["hacscale"]["seconds"] / found["pool"]["seconds"],
        },
    )


if __name__ == "__main__":
    main()
