"""What it is worth that a training keeps the memory that a step frees, on this machine.

    python benchmarks/freed_memory.py [--rounds 5] [--resolutions 32 64 96]

Trains VGG-11 at ⅛ width on handwritten digits for some steps of 128 images on one core, each time
in a process of its own: as trainings of the program do (`trainables.device.use_cpus`), and as the C
library does by itself. Both take turns. Writes docs/results/freed-memory.json and the table in
docs/cluster.md.
"""

import multiprocessing
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from operator import truediv
from typing import Any

import torch
from record import machine, options, run, spread, write_block, write_results

from engine.graph import load_graph
from engine.recipe import Data
from engine.rows import TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from engine.training import Training
from trainables.data import load_data
from trainables.device import use_cpus
from trainables.loop import NetworkTraining
from trainables.tensors import TensorData

WIDTH, BATCH = 1 / 8, 128
WARM, TIMED = 2, 8
"""Steps of a process."""

Step = tuple[float, float]
"""Seconds of a core that a step takes, and pages that it asks the system for."""


def step(resolution: int, kept: bool) -> Step:
    """Trains in this process, which is a new one."""
    if kept:
        use_cpus(1)
    else:
        torch.set_num_threads(1)
    data = load_data(Data())
    graph = load_graph(ModelRef(name="vgg11", classes=data.classes), resolution)
    task = TrainingTask(
        spec=graph.spec(resolution, WIDTH),
        training=Training(epochs=1, batch_size=BATCH, lr=0.05, augment="shift"),
        data=data.digest,
        seed=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        tensors = TensorData.on(data, torch.device("cpu"))
        training = NetworkTraining(task, tensors, RunStore(folder))
        training.rehearse(WARM)
        before = resource.getrusage(resource.RUSAGE_SELF)
        training.rehearse(TIMED)
        after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return (user + system) / TIMED, (after.ru_minflt - before.ru_minflt) / TIMED


def measured(resolution: int, kept: bool) -> Step:
    """The same in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(step, resolution, kept).result()


def compared(resolution: int, rounds: int) -> dict[str, Any]:
    pairs = [(measured(resolution, False), measured(resolution, True)) for _ in range(rounds)]
    ways = [
        {"seconds": [seconds for seconds, _ in way], "pages": [pages for _, pages in way]}
        for way in zip(*pairs, strict=True)
    ]
    returned, kept = ways
    found = {
        "resolution": resolution,
        "returned": {name: spread(values) for name, values in returned.items()},
        "kept": {name: spread(values) for name, values in kept.items()},
        "ratio": spread(list(map(truediv, kept["seconds"], returned["seconds"]))),
    }
    print(row(found), flush=True)
    return found


def row(found: dict[str, Any]) -> str:
    ways, ratio = (found["returned"], found["kept"]), found["ratio"]
    seconds = " | ".join(f"{1000 * way['seconds']['median']:.0f} ms" for way in ways)
    pages = " | ".join(f"{way['pages']['median']:,.0f}" for way in ways)
    share = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
    return f"| {found['resolution']} px | {seconds} | {share} | {pages} |"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[32, 64, 96])
    chosen = parser.parse_args()
    found = [compared(resolution, chosen.rounds) for resolution in chosen.resolutions]
    write_results("freed-memory", {"width": WIDTH, "batch": BATCH, "rows": found}, chosen.out)
    lines = [
        "| | a step, memory returned | kept | ratio | pages asked for, returned | kept |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *map(row, found),
        "",
        f"VGG-11 at ⅛ width, {BATCH} images a step, CPU time of one core, medians of "
        f"{chosen.rounds} processes of each kind that took turns (least and most). {machine()}",
    ]
    write_block("cluster.md", "freed-memory", "\n".join(lines), chosen.out)


if __name__ == "__main__":
    run(main)
