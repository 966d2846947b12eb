"""Options that several commands share, and what they stand for."""

import argparse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from errno import EINVAL
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeAlias

from engine.errors import UserError, nearest
from engine.folder import Folder
from engine.limits import Limits
from engine.recipe import Recipe, load_recipe
from engine.recipes import RECIPES
from engine.storage import open_folder

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]
"""Where a command is added."""


def add_limits(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the limits; ``several`` takes more than one of latency."""
    latency = parser.add_mutually_exclusive_group()
    nargs = "+" if several else None
    latency.add_argument(
        "--latency", metavar="1.065x", help="limit as a ratio to the baseline", nargs=nargs
    )
    latency.add_argument("--latency-ms", metavar="X", help="limit in ms", nargs=nargs)
    parser.add_argument("--params", metavar="1.33x|N", help="limit as a ratio or a count")
    parser.add_argument(
        "--memory", metavar="1.5x|12MB", help="limit of weights and activations together"
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the name of a run."""
    parser.add_argument("run", metavar="RUN", help="name of a run, or where it is")
    add_runs_dir(parser)


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    """Adds the directory of the runs."""
    parser.add_argument(
        "--runs-dir",
        type=_directory,
        default="runs",
        metavar="D",
        help="a directory, or s3://…; default: runs",
    )


def _directory(text: str) -> str:
    if not text:  # as a variable of a script that is not set
        raise argparse.ArgumentTypeError("it is empty; give a directory or a URI, as s3://…")
    return text


def add_address(parser: argparse.ArgumentParser, *, client: bool = False) -> None:
    """Adds the address of a Ray cluster.

    Args:
        client: whether the command can also be sent through Ray Client.
    """
    forms = "auto, HOST:PORT" + (", ray://HOST:PORT" if client else "")
    parser.add_argument(
        "--address",
        metavar="A",
        help=f"of a Ray cluster: {forms}; without it this machine alone",
    )


def names_recipe(reference: str) -> bool:
    """Whether an argument is the name or the file of a recipe."""
    return reference in RECIPES or Path(reference).suffix in (".yaml", ".yml")


def find_recipe(reference: str, limits: Mapping[str, str] | None = None) -> tuple[Recipe, str]:
    """Returns a recipe and the name that a run of it gets.

    Args:
        reference: its name or its file.
        limits: that stand in for those of a file, which may leave them out.
    """
    if reference in RECIPES:
        return RECIPES[reference](), reference
    path = Path(reference)
    if path.suffix in (".yaml", ".yml"):
        return load_recipe(path, limits), path.stem
    if path.is_file():
        raise UserError(f"a recipe file ends in .yaml, {reference!r} does not; rename it")
    raise UserError(f"unknown recipe {reference!r}{nearest(reference, RECIPES)}")


def stated_limits(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns the limits that the options of `add_limits` give."""
    latency = next(iter(_latencies(arguments)), None)
    stated = {"latency": latency, "params": arguments.params, "memory": arguments.memory}
    return {name: limit for name, limit in stated.items() if limit is not None}


def with_limits(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """Returns the recipe with the limits that the options give."""
    (limits,) = given_limits(recipe.limits, arguments)
    return replace(recipe, limits=limits)


def given_limits(limits: Limits, arguments: argparse.Namespace) -> list[Limits]:
    """Returns ``limits`` with those that the options give, once for every latency given."""
    try:
        return [
            Limits(
                latency=latency,
                params=limits.params if arguments.params is None else arguments.params,
                memory=limits.memory if arguments.memory is None else arguments.memory,
            )
            for latency in _latencies(arguments) or [limits.latency]
        ]
    except ValueError as error:
        raise UserError(str(error)) from None


def _latencies(arguments: argparse.Namespace) -> list[str]:
    return _listed(arguments.latency) + [f"{ms}ms" for ms in _listed(arguments.latency_ms)]


def _listed(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def known_runs(runs: Folder) -> list[Folder]:
    """Returns the runs in a place, which may hold other things too."""
    found: list[Folder] = []
    for entry in runs.entries():
        # What has no name of a run is none, and what may not be looked into is somebody else's.
        with suppress(UserError):
            if entry.is_folder and (run := runs / entry.name).exists("run.json"):
                found.append(run)
    return found


def run_directory(arguments: argparse.Namespace) -> str:
    """Returns the directory of the run that the arguments name, or its URI.

    Raises:
        UserError: there is no such run.
    """
    runs = open_folder(arguments.runs_dir)
    candidates = [open_folder(arguments.run)]
    with suppress(UserError):  # a path that leads elsewhere is no name
        candidates.append(runs / arguments.run)
    for folder in candidates:
        if folder.exists("run.json"):
            return folder.location
    known = [folder.name for folder in known_runs(runs)]
    hint = nearest(arguments.run, known) if known else "; `hacscale run` begins one"
    raise UserError(f"there is no run {arguments.run!r} in {arguments.runs_dir}{hint}")


def check_writable(path: Path, option: str) -> None:
    """Checks that a file can be written that an option names, before anything is done for it.

    A file is replaced by one that is made beside it.

    Raises:
        UserError: it cannot.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(EINVAL, "it is there and no file")
        with TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; give another file by {option}"
        ) from None
