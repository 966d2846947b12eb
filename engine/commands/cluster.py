"""``hacscale cluster init``: a file that starts a cluster with a search on it."""

import argparse
from pathlib import Path

from rich.console import Console

from engine.commands.options import Commands, find_recipe
from engine.errors import UserError

_FILES = {
    "kuberay": "rayjob.yaml",
    "ray-up": "cluster.yaml",
    "ray-up-onprem": "cluster.yaml",
    "slurm": "search.sh",
}


def add(commands: Commands) -> None:
    """Adds the command."""
    cluster = commands.add_parser("cluster", help="write a file that starts a cluster")
    cluster.add_argument("action", choices=("init",), help="write the file")
    cluster.add_argument("kind", choices=tuple(_FILES), help="where the cluster is to be")
    cluster.add_argument("--out", type=Path, metavar="FILE", help="default: by kind")
    cluster.add_argument("--name", default="search", help="of the run; default: search")
    cluster.add_argument("--recipe", default="digits-vgg11", metavar="RECIPE|FILE.yaml")
    cluster.add_argument("--workers", type=int, default=2, metavar="N", help="default: 2")
    cluster.add_argument("--cpus-per-worker", type=int, default=8, metavar="C", help="default: 8")
    cluster.add_argument("--gpus-per-worker", type=int, default=0, metavar="G", help="default: 0")
    cluster.add_argument(
        "--image", default="hacscale:latest", metavar="I", help="default: hacscale:latest"
    )
    cluster.set_defaults(command=_init)


def _init(arguments: argparse.Namespace, console: Console) -> None:
    from cluster.launch import Launch, write_launch

    if Path(arguments.recipe).suffix not in (".yaml", ".yml"):
        # A file need not be on this machine, a name is known here.
        recipe, name = find_recipe(arguments.recipe)
        if arguments.gpus_per_worker > 0 and not recipe.cluster.uses_gpus:
            raise UserError(
                f"--gpus-per-worker {arguments.gpus_per_worker}: the recipe {name} uses no GPU; "
                "give --recipe with one that does (cluster.gpus_per_trial), or no GPUs"
            )
    launch = Launch(
        name=arguments.name,
        recipe=arguments.recipe,
        workers=arguments.workers,
        cpus=arguments.cpus_per_worker,
        gpus=arguments.gpus_per_worker,
        image=arguments.image,
    )
    out = Path(_FILES[arguments.kind]) if arguments.out is None else arguments.out
    write_launch(arguments.kind, launch, out)
    console.print(f"{out}: see its first lines for how to use it", soft_wrap=True)
