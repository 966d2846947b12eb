"""What orchestration costs: our trials against a bare loop and a bare pool of Ray actors.

    python benchmarks/overhead.py [--trials 8] [--rounds 3] [--seconds 30] [--workers N]

All three train the same networks with the same code, in turns, so that what else the machine does
meets all of them. The first round is not counted: it imports. Of a round, the time until every
worker has ended its first trial is its start; the time after it, per worker and trial, less that
within epochs, is the overhead of a trial. The efficiency is the time of the loop on one core over
workers times the time of the trials, from the first row to the last: on cores that share caches
and clocks it is below one for any program, so that of the pool stands beside it.
Writes docs/results/overhead.json.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util import ActorPool
from record import machine, options, run, spread, write_block, write_results
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

WAYS = ("loop", "pool", "hacscale")
LABELS = {"loop": "bare loop, one core", "pool": "bare Ray actor pool", "hacscale": "HACScale"}
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
    way: Callable[[list[TrainingTask]], None],
    tasks: list[TrainingTask],
    store: RunStore,
    workers: int,
) -> dict[str, float]:
    """Trains one round."""
    began, clock = time.perf_counter(), time.time()
    way(tasks)
    seconds = time.perf_counter() - began
    ends = sorted(e.modified for e in store.ledger.folder.entries() if e.modified >= clock - 0.01)
    rows = [store.ledger.find(task.id) for task in tasks]
    trained = [sum(e.seconds for e in row.history) for row in rows if row is not None]
    steady = (ends[-1] - ends[workers - 1]) * workers / (len(ends) - workers)
    return {
        "seconds": seconds,
        "start_seconds": ends[workers - 1] - clock - trained[0],
        "worker_seconds_per_trial": steady,
        "training_seconds": sum(trained) / len(trained),
        "overhead_seconds_per_trial": steady - sum(trained) / len(trained),
        "rows_lost": float(sum(row is None or row.status != "done" for row in rows)),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--trials", type=int, default=8, help="of a round")
    parser.add_argument("--rounds", type=int, default=3, help="that are counted")
    parser.add_argument("--seconds", type=float, default=30.0, help="of one training")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp())
    data = load_data(Data())
    tensors = TensorData.on(data, torch.device("cpu"))
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    base = TrainingTask(spec=graph.spec(32, 1 / 16), training=TRAINING, data=data.digest, seed=0)
    probe = NetworkTraining(base, tensors, RunStore(scratch / "probe"))
    probe.run_epoch()
    epoch_seconds = probe.run_epoch().seconds
    epochs = max(2, round(chosen.seconds / epoch_seconds))
    training = TRAINING.for_epochs(epochs)
    workers, stores = chosen.workers, {name: RunStore(scratch / name) for name in WAYS}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    with session(None, stores["hacscale"].logs) as current, Progress(Console()) as progress:
        current.start()
        shared = ray.put(data)
        runner = TrialRunner(
            store=stores["hacscale"], data=shared, resources=Cluster(), progress=progress
        )

        def loop(tasks: list[TrainingTask]) -> None:
            for task in tasks:
                train(task, tensors, stores["loop"])

        def pool(tasks: list[TrainingTask]) -> None:
            actors = [Worker.remote(shared, scratch / "pool") for _ in range(workers)]
            each = ActorPool(actors)
            list(each.map_unordered(lambda actor, task: actor.train.remote(task), tasks))
            for actor in actors:
                ray.kill(actor)

        ways = {"loop": loop, "pool": pool, "hacscale": lambda t: runner.run_tasks("sample", t)}
        for number in range(1 + chosen.rounds):
            seeds = range(number * chosen.trials, (number + 1) * chosen.trials)
            tasks = [replace(base, training=training, seed=seed) for seed in seeds]
            for name, way in ways.items():
                one = measure(way, tasks, stores[name], 1 if name == "loop" else workers)
                print(f"round {number} {name}: {one}", flush=True)
                if number:
                    found[name].append(one)

    def steady(name: str, number: int) -> float:
        return found[name][number]["worker_seconds_per_trial"]

    results = {
        "trials_of_a_round": chosen.trials,
        "rounds": chosen.rounds,
        "workers": workers,
        "epochs": epochs,
        **{
            name: {key: spread([one[key] for one in rounds]) for key in rounds[0]}
            for name, rounds in found.items()
        },
        "parallel_efficiency": {
            name: spread([steady("loop", n) / steady(name, n) for n in range(chosen.rounds)])
            for name in ("pool", "hacscale")
        },
        "hacscale_over_pool": spread(
            [steady("hacscale", n) / steady("pool", n) for n in range(chosen.rounds)]
        ),
    }
    write_results("overhead", results, chosen.out)
    write_block("cluster.md", "overhead", _table(results), chosen.out)


def _table(found: dict[str, Any]) -> str:
    """Medians over the rounds, with the least and the most, in Markdown."""
    lines = [
        "| way | training, s | overhead of a trial, s | start, s | efficiency | rows lost |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in WAYS:
        one = found[name]
        efficiency = found["parallel_efficiency"].get(name)
        lines.append(
            f"| {LABELS[name]} | {_spread(one['training_seconds'])} | "
            f"{_spread(one['overhead_seconds_per_trial'])} | {_spread(one['start_seconds'])} | "
            f"{_spread(efficiency) if efficiency else '–'} | {one['rows_lost']['max']:.0f} |"
        )
    rounds, trials = found["rounds"], found["trials_of_a_round"]
    return (
        "\n".join(lines)
        + f"\n\n{rounds} rounds of {trials} trainings each, {found['workers']} workers; median "
        f"(least to most) of the rounds. {machine()}"
    )


def _spread(of: dict[str, float]) -> str:
    return f"{of['median']:.2f} ({of['min']:.2f} to {of['max']:.2f})"


if __name__ == "__main__":
    run(main)
