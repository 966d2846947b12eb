"""What orchestration costs: our trials against a bare loop and a bare pool of Ray actors.

    python benchmarks/overhead.py [--trials 4] [--rounds 3] [--seconds 30] [--workers N]

All three train such networks with the same code, in turns, so that what else the machine does meets
all of them; the loop trains what one worker of the others does. A first round of short trainings
imports and is not counted. Of a round, the time until every worker has ended its first trial, less
that trial, is its start. Of every later trial, what it takes beyond its epochs is known from the
end of the one before; what that is more than in the bare loop, which builds networks and writes
checkpoints and rows as well, is the overhead. The efficiency is the time of a trial of the loop on
one core over that of a trial with all cores busy: on cores that share caches and clocks it is below
one for any program, so that of the pool stands beside it. Writes docs/results/overhead.json.
"""

import heapq
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import sub, truediv
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util import ActorPool
from record import Spread, machine, options, run, spread, write_block, write_results
from rich.console import Console

from cluster.progress import Progress
from cluster.session import session
from cluster.trials import TrialRunner
from engine.errors import UserError
from engine.graph import load_graph
from engine.recipe import Cluster, Data
from engine.rows import TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from engine.training import Training
from trainables.checkpoint import checkpoint_name
from trainables.data import ImageData, load_data
from trainables.device import use_cpus
from trainables.loop import NetworkTraining
from trainables.tensors import TensorData

WAYS = ("loop", "pool", "hacscale")
LABELS = {"loop": "bare loop, one core", "pool": "bare Ray actor pool", "hacscale": "HACScale"}
WIDTH = 1 / 4
"""At which a training of half a minute has about as many epochs as one of a sampled network."""
TRAINING = Training(epochs=2, batch_size=64, lr=0.05, augment="shift")


def train(task: TrainingTask, data: TensorData, store: RunStore) -> None:
    """The bare training: no more than what a trial must do."""
    training = NetworkTraining(task, data, store)
    while not training.finished:
        training.run_epoch()
    store.ledger.add(training.result())
    store.checkpoints.delete(checkpoint_name(task.id))


@ray.remote(num_cpus=1)
class Worker:
    def __init__(self, data: ImageData, directory: Path) -> None:
        use_cpus(1)
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
    began = time.time()
    way(tasks)
    modified = {entry.name: entry.modified for entry in store.ledger.folder.entries()}
    ended = [modified.get(f"{task.id}.json") for task in tasks]
    rows = [store.ledger.find(task.id) for task in tasks]
    trained = [sum(epoch.seconds for epoch in row.history) if row else 0.0 for row in rows]
    lost = sum(row is None or row.status != "done" for row in rows)
    ends = [end for end in ended if end is not None]
    if lost or len(ends) < len(tasks):
        raise SystemExit(f"{lost} of {len(tasks)} rows are lost")
    beyond = beyond_epochs(ends, trained, workers)
    return {
        "start_seconds": max(ends[:workers]) - began - max(trained[:workers]),
        "training_seconds": statistics.fmean(trained[workers:]),
        "beyond_epochs_seconds": statistics.fmean(beyond),
        "trial_seconds": statistics.fmean(trained[workers:]) + statistics.fmean(beyond),
    }


def beyond_epochs(ended: Sequence[float], trained: Sequence[float], workers: int) -> list[float]:
    """What every trial takes beyond its epochs, but for the first one of every worker.

    A worker that has ended a trial begins the next one, so trials begin in their order at the ends
    of those before.

    Args:
        ended: when each trial ended, in the order in which they were given out.
        trained: seconds of their epochs.
        workers: that trained them.
    """
    free = sorted(ended[:workers])
    found: list[float] = []
    for end, seconds in zip(ended[workers:], trained[workers:], strict=True):
        found.append(end - heapq.heappop(free) - seconds)
        heapq.heappush(free, end)
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--trials", type=int, help="of a round; default: two for every core")
    parser.add_argument("--rounds", type=int, default=3, help="that are counted")
    parser.add_argument("--seconds", type=float, default=30.0, help="of one training")
    chosen = parser.parse_args()
    workers = os.cpu_count() or 1  # a private session of Ray uses all cores
    trials = 2 * workers if chosen.trials is None else chosen.trials
    if trials <= workers:
        raise UserError(f"--trials must be above {workers}, the number of cores, not {trials}")
    use_cpus(1)
    scratch = Path(tempfile.mkdtemp())
    data = load_data(Data())
    tensors = TensorData.on(data, torch.device("cpu"))
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    base = TrainingTask(spec=graph.spec(32, WIDTH), training=TRAINING, data=data.digest, seed=0)
    probe = NetworkTraining(base, tensors, RunStore(scratch / "probe"))
    probe.run_epoch()
    epoch_seconds = probe.run_epoch().seconds
    epochs = max(2, round(chosen.seconds / epoch_seconds))
    training = TRAINING.for_epochs(epochs)
    stores = {name: RunStore(scratch / name) for name in WAYS}
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
                ray.kill(actor)  # pyright: ignore[reportArgumentType] - Ray's two types of a handle

        ways = {"loop": loop, "pool": pool, "hacscale": lambda t: runner.run_tasks("sample", t)}
        for number in range(1 + chosen.rounds):
            seeds = range(number * trials, (number + 1) * trials)
            each = training if number else TRAINING  # the first round is there to import
            tasks = [replace(base, training=each, seed=seed) for seed in seeds]
            for name, way in ways.items():
                alone = name == "loop"
                share = tasks[: max(2, len(tasks) // workers)] if alone else tasks
                one = measure(way, share, stores[name], 1 if alone else workers)
                print(f"round {number} {name}: {one}", flush=True)
                if number:
                    found[name].append(one)

    def compared(key: str, how: Callable[[float, float], float], one: str, other: str) -> Spread:
        pairs = zip(found[one], found[other], strict=True)
        return spread([how(a[key], b[key]) for a, b in pairs])

    results = {
        "trials_of_a_round": trials,
        "rounds": chosen.rounds,
        "workers": workers,
        "epochs": epochs,
        "rows_lost": 0,  # a round that loses one ends the benchmark
        **{
            name: {key: spread([one[key] for one in rounds]) for key in rounds[0]}
            for name, rounds in found.items()
        },
        "overhead_seconds": {
            name: compared("beyond_epochs_seconds", sub, name, "loop")
            for name in ("pool", "hacscale")
        },
        "parallel_efficiency": {
            name: compared("trial_seconds", truediv, "loop", name) for name in ("pool", "hacscale")
        },
        "pool_over_hacscale": compared("trial_seconds", truediv, "pool", "hacscale"),
    }
    write_results("overhead", results, chosen.out)
    write_block("cluster.md", "overhead", _table(results), chosen.out)


def _table(found: dict[str, Any]) -> str:
    """Medians over the rounds, with the least and the most, in Markdown."""
    lines = [
        "| way | epochs, s | beyond them, s | overhead, s | start, s | efficiency |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in WAYS:
        one = found[name]
        cells = [one["training_seconds"], one["beyond_epochs_seconds"]]
        cells += [found["overhead_seconds"].get(name), one["start_seconds"]]
        cells += [found["parallel_efficiency"].get(name)]
        lines.append(f"| {LABELS[name]} | {' | '.join(map(_spread, cells))} |")
    rounds, trials = found["rounds"], found["trials_of_a_round"]
    return (
        "\n".join(lines)
        + f"\n\n{rounds} rounds of {trials} trainings of {found['epochs']} epochs each, "
        f"{found['workers']} workers; medians (least to most) of the rounds. No row was lost. A "
        f"trial of the pool takes {_spread(found['pool_over_hacscale'])} times as long as one of "
        f"HACScale. {machine()}"
    )


def _spread(of: Spread | None) -> str:
    return "–" if of is None else f"{of['median']:.2f} ({of['min']:.2f} to {of['max']:.2f})"


if __name__ == "__main__":
    run(main)
