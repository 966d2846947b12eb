"""``hacscale run`` and ``resume``: a search, or the rest of one."""

import argparse
import re

from rich.console import Console

from engine.commands.driving import add_address, orderly_stop
from engine.commands.options import (
    Commands,
    add_limits,
    add_run,
    add_runs_dir,
    find_recipe,
    run_directory,
    with_limits,
)
from engine.errors import UserError
from engine.recipe import Recipe, override
from engine.storage import open_folder
from engine.store import RunStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FORGIVING = ("alpha", "sample")
"""Stages that may be complete although some of their trainings failed."""


def add(commands: Commands) -> None:
    """Adds the commands."""
    run = commands.add_parser("run", help="run a search, or go on with it")
    run.add_argument("recipe", metavar="RECIPE|FILE.yaml", help="see `hacscale recipes`")
    add_limits(run)
    run.add_argument("--name", help="of the run; default: the recipe's")
    run.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="recipe fields, for example train.epochs=20",
    )
    add_runs_dir(run)
    _add_driving(run)
    run.set_defaults(command=_run)

    resume = commands.add_parser("resume", help="go on with a run")
    add_run(resume)
    _add_driving(resume)
    resume.set_defaults(command=_resume)


def _add_driving(parser: argparse.ArgumentParser) -> None:
    add_address(parser)
    parser.add_argument(
        "--retry-failed", action="store_true", help="train again what failed before"
    )


def _run(arguments: argparse.Namespace, console: Console) -> None:
    recipe, default_name = find_recipe(arguments.recipe)
    recipe = with_limits(override(recipe, arguments.set), arguments)
    name = default_name if arguments.name is None else arguments.name
    if not _NAME.fullmatch(name):
        raise UserError(
            "the name of a run has at most 100 letters, digits, '.', '_' and '-' and begins with "
            f"a letter or digit; {name!r} does not: give another --name"
        )
    location = (open_folder(arguments.runs_dir) / name).location
    _drive(recipe, location, default_name, arguments, console)


def _resume(arguments: argparse.Namespace, console: Console) -> None:
    location = run_directory(arguments)
    info = RunStore(location).info()
    _drive(info.recipe, location, info.recipe_name, arguments, console)


def _drive(
    recipe: Recipe,
    location: str,
    recipe_name: str,
    arguments: argparse.Namespace,
    console: Console,
) -> None:
    from cluster.driver import run_search
    from engine.summary import render_summary

    if arguments.retry_failed:
        store = RunStore(location)
        with store.lock():
            store.forget_failures(_FORGIVING)
    with orderly_stop(location, console):
        record = run_search(recipe, location, recipe_name, arguments.address, console)
    console.print(render_summary(record))
    console.print(f"report: {open_folder(location).path('report.html')}", soft_wrap=True)
