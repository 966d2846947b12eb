"""``hacscale run`` and ``resume``: a search, or the rest of one."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Never

from rich.console import Console

from engine.commands.driving import orderly_stop
from engine.commands.options import Commands, add_address, add_run, run_directory
from engine.commands.search import add_driving, add_search, asked_search, max_hours, remote_words
from engine.recipe import Recipe
from engine.storage import open_folder
from engine.store import RunStore


def add(commands: Commands) -> None:
    """Adds the commands."""
    run = commands.add_parser("run", help="run a search, or go on with it")
    add_search(run)
    add_address(run, client=True)
    run.set_defaults(command=_run)

    resume = commands.add_parser("resume", help="go on with a run")
    add_run(resume)
    add_driving(resume)
    add_address(resume, client=True)
    resume.set_defaults(command=_resume)


def _run(arguments: argparse.Namespace, console: Console) -> None:
    search = asked_search(arguments)
    if _is_far(arguments):
        _drive_far(arguments, search.remote_words(arguments), search.files)
    location = (open_folder(arguments.runs_dir) / search.name).location
    _drive(search.recipe, location, search.recipe_name, arguments, console)


def _resume(arguments: argparse.Namespace, console: Console) -> None:
    if _is_far(arguments):
        words = ["resume", arguments.run, *remote_words(arguments, arguments.run)]
        _drive_far(arguments, words, {})
    location = run_directory(arguments)
    info = RunStore(location).info()
    _drive(info.recipe, location, info.recipe_name, arguments, console)


def _is_far(arguments: argparse.Namespace) -> bool:
    return bool(arguments.address and arguments.address.startswith("ray://"))


def _drive_far(
    arguments: argparse.Namespace, words: Sequence[str], files: Mapping[str, bytes]
) -> Never:
    from cluster.client import drive

    sys.exit(drive(arguments.address, words, files))


def _drive(
    recipe: Recipe,
    location: str,
    recipe_name: str,
    arguments: argparse.Namespace,
    console: Console,
) -> None:
    from cluster.driver import run_search
    from engine.summary import render_summary

    hours = max_hours(arguments)
    with orderly_stop(location, console, arguments):
        record = run_search(
            recipe,
            location,
            recipe_name,
            arguments.address,
            console,
            hours,
            arguments.retry_failed,
        )
    console.print(render_summary(record))
    console.print(f"report: {open_folder(location).path('report.html')}", soft_wrap=True)
