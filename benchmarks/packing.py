"""Networks per hour with 1, 2, 4 and 8 sampled networks on a GPU, against one at a time.

    python benchmarks/packing.py [--networks 32] [--set KEY=VALUE …]

Needs a GPU, and ends with one line where there is none. The networks are those that a recipe
samples. They are trained anew for every packing, start-up included; beside it stands how many the
calibration of ``gpus_per_trial: auto`` would pack.
Writes docs/results/packing.json.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from record import options, run, write_results
from rich.console import Console

from cluster.packing import measure_packing, share_of, size
from cluster.progress import Progress
from cluster.session import session
from cluster.trials import TrialRunner
from engine.errors import UserError
from engine.graph import load_graph
from engine.recipe import Cluster, override
from engine.recipes import RECIPES
from engine.rows import TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from searchers.widths import sampled_spec
from trainables.data import load_data

PACKINGS = (1, 2, 4, 8)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--networks", type=int, default=32)
    parser.add_argument("--recipe", default="cifar10-vgg11-tight-small")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError("this measures GPUs, and PyTorch finds none here; run it where one is")
    recipe = override(RECIPES[chosen.recipe](), chosen.set)
    data = load_data(recipe.data)
    graph = load_graph(
        ModelRef(name=recipe.model, classes=data.classes, channels=data.channels),
        recipe.data.resolution,
    )
    base = graph.spec(recipe.data.resolution, recipe.width)
    tasks = [
        TrainingTask(
            spec=sampled_spec(graph, base, recipe.sample, recipe.seed, index),
            training=recipe.sample.training,
            data=data.digest,
            seed=recipe.seed,
            importance=True,
        )
        for index in range(chosen.networks)
    ]
    scratch = Path(tempfile.mkdtemp())
    found: dict[str, Any] = {}
    with session(None, scratch / "logs") as current, Progress(Console()) as progress:
        current.start()
        shared = ray.put(data)
        gpus = ray.cluster_resources()["GPU"]
        packed, occupancy = measure_packing(max(tasks, key=size), shared, 1)
        for networks in PACKINGS:
            runner = TrialRunner(
                store=RunStore(scratch / str(networks)),
                data=shared,
                resources=Cluster(gpus_per_trial=share_of(networks)),
                progress=progress,
            )
            began = time.perf_counter()
            runner.run_tasks("sample", tasks)
            seconds = time.perf_counter() - began
            rows = [runner.store.ledger.find(task.id) for task in tasks]
            found[str(networks)] = {
                "seconds": seconds,
                "networks_per_hour": 3600 * len(tasks) / seconds,
                "failed": sum(row is None or row.status != "done" for row in rows),
                "packing_at_the_end": int(1 / runner.share),
            }
    alone = found["1"]["networks_per_hour"]
    write_results(
        "packing",
        {
            "gpu": torch.cuda.get_device_name(),
            "gpus": gpus,
            "networks": len(tasks),
            "used_gib": occupancy.used_bytes / 2**30,
            "total_gib": occupancy.total_bytes / 2**30,
            "utilisation": occupancy.utilisation,
            "auto_packs": packed,
            "by_packing": found,
            "speed_up": {k: row["networks_per_hour"] / alone for k, row in found.items()},
        },
        chosen.out,
    )


if __name__ == "__main__":
    run(main)
