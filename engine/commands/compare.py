"""``hacscale compare``: a run's result beside other ways to scale its network."""

import argparse
from dataclasses import dataclass

from rich.console import Console

from engine.commands.driving import orderly_stop
from engine.commands.options import (
    Commands,
    add_address,
    add_runs_dir,
    find_recipe,
    names_recipe,
    run_directory,
)
from engine.commands.search import add_max_hours, add_retry, max_hours
from engine.errors import UserError
from engine.recipe import Recipe
from engine.storage import open_folder

_MOST_SEEDS = 100


def add(commands: Commands) -> None:
    """Adds the command."""
    compare = commands.add_parser("compare", help="the result beside other ways to scale")
    compare.add_argument(
        "run", metavar="RUN|RECIPE", help="a run; or a recipe, which is searched first"
    )
    add_runs_dir(compare)
    compare.add_argument(
        "--methods", default="all", metavar="A,B,…", help="which; default: all of them"
    )
    compare.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="trainings of each; default: 3"
    )
    add_retry(compare)
    add_max_hours(compare)
    add_address(compare)
    compare.set_defaults(command=_compare)


@dataclass(frozen=True, slots=True)
class _Missing:
    """A search that is to be done before there is anything to compare."""

    recipe: Recipe
    name: str


def _run_or_recipe(arguments: argparse.Namespace) -> tuple[str, _Missing | None]:
    """Where the run is, and its search if there is none. A run goes before a recipe of its name."""
    try:
        return run_directory(arguments), None
    except UserError:
        if not names_recipe(arguments.run):
            raise
    recipe, name = find_recipe(arguments.run)
    return (open_folder(arguments.runs_dir) / name).location, _Missing(recipe, name)


def _compare(arguments: argparse.Namespace, console: Console) -> None:
    if not 1 <= arguments.seeds <= _MOST_SEEDS:
        raise UserError(f"--seeds must lie in 1 to {_MOST_SEEDS}, not {arguments.seeds}")
    location, missing = _run_or_recipe(arguments)
    from cluster.compare import compare_run
    from cluster.driver import run_search
    from engine.comparison_view import WRITTEN, render_comparison
    from engine.peers.methods import chosen

    methods, hours, retry = chosen(arguments.methods), max_hours(arguments), arguments.retry_failed
    again = f"compare --methods {arguments.methods} --seeds {arguments.seeds}"
    with orderly_stop(location, console, arguments, again):
        if missing is not None:
            run_search(missing.recipe, location, missing.name, arguments.address, console, hours)
        done = compare_run(
            location, methods, arguments.seeds, arguments.address, console, hours, retry
        )
    console.print(render_comparison(done))
    folder = open_folder(location)
    for name in WRITTEN:
        console.print(folder.path(name), soft_wrap=True)
