"""``hacscale compare``: a run's result beside other ways to scale its network."""

import argparse

from rich.console import Console

from engine.commands.driving import orderly_stop
from engine.commands.options import Commands, add_run, run_directory
from engine.errors import UserError
from engine.storage import open_folder

_MOST_SEEDS = 100


def add(commands: Commands) -> None:
    """Adds the command."""
    compare = commands.add_parser("compare", help="the result beside other ways to scale")
    add_run(compare)
    compare.add_argument(
        "--methods", default="all", metavar="A,B,…", help="which; default: all of them"
    )
    compare.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="trainings of each; default: 3"
    )
    compare.add_argument("--address", metavar="A", help="of a Ray cluster: auto, HOST:PORT")
    compare.set_defaults(command=_compare)


def _compare(arguments: argparse.Namespace, console: Console) -> None:
    if not 1 <= arguments.seeds <= _MOST_SEEDS:
        raise UserError(f"--seeds must lie in 1 to {_MOST_SEEDS}, not {arguments.seeds}")
    location = run_directory(arguments)
    from cluster.compare import compare_run
    from engine.comparison_view import FIGURES, render_comparison
    from engine.peers.methods import chosen

    methods = chosen(arguments.methods)
    again = f"compare --methods {arguments.methods} --seeds {arguments.seeds}"
    with orderly_stop(location, console, again):
        done = compare_run(location, methods, arguments.seeds, arguments.address, console)
    console.print(render_comparison(done))
    folder = open_folder(location)
    for name in ("comparison.json", "comparison.csv", "comparison.html", FIGURES):
        console.print(folder.path(name), soft_wrap=True)
