"""10,000 trivial trials on 1,000 made-up GPUs, and a search by simulated time.

    python benchmarks/scale.py [--trials 10000] [--actors 4] [--run DIRECTORY]

The trials are real Tune trials on our own path, whose actors write a row and do nothing else. As
many actors are alive as the machine's memory has room for (``--actors``), because each is a process
that has imported PyTorch: what is measured is the driver and the ledger, not 1,000 processes. The
simulated search takes its durations from the rows of a finished run with ``--run``; else they are
assumed: 60 s ± 30 % a short training, an hour each final one.
Writes docs/results/scale.json.
"""

import random
import resource
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster as RayCluster
from record import machine, options, run, spread, write_block, write_results
from rich.console import Console
from simulated_search import GPUS, Workload, simulated

from cluster.progress import Progress
from cluster.session import session
from cluster.trials import TrialRunner
from engine.codec import canonical, decode
from engine.graph import load_graph
from engine.recipe import Cluster, Data
from engine.rows import Epoch, Row, TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from engine.training import FAST
from trainables.data import load_data
from trainables.trial import TrainingTrial

MADE_UP_GPUS = 1000
EPOCH = Epoch(train_loss=1.0, val_loss=1.0, val_accuracy=0.5, seconds=0.0)
REPORT = {"done": True, "status": "done", "epoch": 1}


class TrivialTrial(TrainingTrial):
    """A trial without a training."""

    def setup(self, config: dict[str, Any], *, store: RunStore, **_: Any) -> None:
        self._store = store
        self._task = decode(TrainingTask, canonical(config["task"]), "the task of a trial")

    def step(self) -> dict[str, Any]:
        importance = {group: 1e-6 for group, _ in self._task.spec.widths}
        row = Row(task=self._task, status="done", history=(EPOCH,), importance=importance)
        self._store.ledger.add(row)
        return REPORT | asdict(EPOCH)


class CountingProgress(Progress):
    """Notes the driver's memory as rows come in."""

    def __init__(self, console: Console, every: int) -> None:
        super().__init__(console)
        self.notes: list[dict[str, float]] = []
        self._every, self._rows, self._start = every, 0, time.perf_counter()

    def trial_ended(self, trial_id: str, row: Row) -> None:
        super().trial_ended(trial_id, row)
        self._rows += 1
        if self._rows % self._every == 0:
            seconds = time.perf_counter() - self._start
            note = {"rows": self._rows, "seconds": seconds, "driver_mib": driver_mib()}
            self.notes.append(note)


def driver_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def run_trials(trials: int, actors: int) -> dict[str, Any]:
    directory = Path(tempfile.mkdtemp())
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    base = TrainingTask(spec=graph.spec(32, 1 / 16), training=FAST, data="none", seed=0)
    tasks = [replace(base, seed=seed) for seed in range(trials)]
    store = RunStore(directory)
    head = {"num_cpus": actors, "num_gpus": MADE_UP_GPUS, "include_dashboard": False}
    nodes = RayCluster(initialize_head=True, head_node_args=head)
    with (
        CountingProgress(Console(), max(1, trials // 20)) as progress,
        session(nodes.address, store.logs),
    ):
        runner = TrialRunner(
            store=store,
            data=ray.put(load_data(Data())),
            resources=Cluster(gpus_per_trial=1.0),
            progress=progress,
            trainable=TrivialTrial,
        )
        began = time.perf_counter()
        runner.run_tasks("sample", tasks)
        seconds = time.perf_counter() - began
        resumed: list[float] = []
        for _ in range(3):
            runner.store = RunStore(directory)
            again = time.perf_counter()
            runner.run_tasks("sample", tasks)
            resumed.append(time.perf_counter() - again)
    nodes.shutdown()
    lost = sum(store.ledger.find(task.id) is None for task in tasks)
    return {
        "trials": trials,
        "actors": actors,
        "gpus": MADE_UP_GPUS,
        "seconds": seconds,
        "trials_per_second": trials / seconds,
        "rows_lost": lost,
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "growth": progress.notes,
        "resume_seconds": spread(resumed),
    }


def simulate(run: Path | None) -> dict[str, Any]:
    if run is None:
        rng = random.Random(0)
        short = [60 * rng.uniform(0.7, 1.3) for _ in range(64)]
        final, origin = 3600.0, "assumed"
    else:
        store = RunStore(run, read_only=True)
        recipe = store.info().recipe
        short, finals = [], []
        for row in store.ledger.rows():
            seconds = sum(epoch.seconds for epoch in row.history)
            plain = row.task.start is None and row.task.shrink is None
            if row.task.sync_workers:
                each = recipe.cluster.cpus_per_trial
                finals.append(seconds * (row.cpus or each) / each)
            elif plain and row.task.training in (recipe.alpha.training, recipe.sample.training):
                short.append(seconds)
        final, origin = max(finals), f"rows of the run {run.name}"
    workload = Workload(
        batches=(16,) * 4,
        samples=1024,
        alpha_seconds=tuple(short),
        sample_seconds=tuple(short),
        final_seconds=final,
    )
    found: dict[str, Any] = {
        "durations": origin,
        "training_seconds": spread(short),
        "alpha_trainings": sum(workload.batches),
        "samples": workload.samples,
        "final_seconds": final,
        "hours": {},
    }
    for gpus in GPUS:
        draws = [simulated(workload, gpus, seed) for seed in range(20)]
        found["hours"][gpus] = {
            part: spread([draw[part] / 3600 for draw in draws]) for part in draws[0]
        }
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--run", type=Path, help="directory of a finished run")
    chosen = parser.parse_args()
    searches = simulate(chosen.run)
    found = {"trials": run_trials(chosen.trials, chosen.actors), "simulated": searches}
    write_results("scale", found, chosen.out)
    write_block("cluster.md", "scale", _text(found), chosen.out)


def _text(found: dict[str, Any]) -> str:
    """What was measured and what was simulated, in Markdown."""
    seconds = found["simulated"]["training_seconds"]
    trials, searches = found["trials"], found["simulated"]
    first, *_, last = trials["growth"]
    resume = trials["resume_seconds"]
    lines = [
        f"{trials['trials']:,} trials without a training on {trials['gpus']:,} made-up GPUs with "
        f"{trials['actors']} processes: {trials['trials_per_second']:.0f} trials a second, "
        f"{trials['rows_lost']} rows lost.",
        f"The driver's memory grows from {first['driver_mib']:.0f} MiB at {first['rows']:,} rows "
        f"to {last['driver_mib']:.0f} MiB at {last['rows']:,}.",
        f"To go on with all rows takes {resume['median']:.1f} s (n = {resume['n']}, at most "
        f"{resume['max']:.1f}). {machine()}",
        "",
        "| GPUs | α search, h | sampling, h | final trainings, h | all, h |",
        "| --- | --- | --- | --- | --- |",
    ]
    for gpus, parts in searches["hours"].items():
        hours = (parts[part]["median"] for part in ("alpha", "sample", "final", "all"))
        lines.append(f"| {gpus} | " + " | ".join(f"{hour:.2f}" for hour in hours) + " |")
    lines += [
        "",
        f"Simulated: {searches['alpha_trainings']} trainings for α and {searches['samples']:,} "
        f"sampled networks, of {seconds['mean']:.0f} s in the mean "
        f"(median {seconds['median']:.0f}, "
        f"at most {seconds['max']:.0f}; n = {seconds['n']}), and final trainings of "
        f"{searches['final_seconds']:.0f} s on one worker, as the {searches['durations']} took; "
        "medians of 20 draws. A GPU is a slot for one training. Assumed: a final training on n "
        "GPUs, "
        "at most 8, is n^0.9 times as fast, 10 s to start a stage, 0.15 s for a trial. Profile, "
        "allocation and choice are left out.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
