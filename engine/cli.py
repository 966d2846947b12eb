"""The command ``hacscale``."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Never

from rich.console import Console
from rich.table import Table

from engine.errors import UserError, nearest
from engine.recipe import Recipe, load_recipe, override
from engine.recipes import RECIPES
from engine.store import RunStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> Never:
        raise UserError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line. Exit code 2 for a user's error, 130 for an interruption."""
    console = Console()
    # User code in the working directory is found, as with `python -m`.
    sys.path.insert(0, os.getcwd())
    try:
        arguments = _parser().parse_args(argv)
        arguments.command(arguments, console)
    except UserError as error:
        print(f"hacscale: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `hacscale … | head`
        sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hacscale", description="Scale a network to what a device allows.")
    parser.add_argument("--version", action="version", version=f"hacscale {version('hacscale')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser("run", help="run a search, or go on with it")
    run.add_argument("recipe", metavar="RECIPE|FILE.yaml", help="see `hacscale recipes`")
    _add_limits(run)
    run.add_argument("--name", help="of the run; default: the recipe's")
    run.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="recipe fields, for example train.epochs=20",
    )
    _add_driving(run)
    run.set_defaults(command=_run)

    resume = commands.add_parser("resume", help="go on with a run")
    _add_run(resume)
    _add_driving(resume)
    resume.set_defaults(command=_resume)

    status = commands.add_parser("status", help="what a run has done")
    _add_run(status)
    status.set_defaults(command=_status)

    report = commands.add_parser("report", help="write the report of a finished run again")
    _add_run(report)
    report.add_argument("--figures", type=Path, metavar="DIR", help="write the figures there too")
    report.set_defaults(command=_report)

    allocate = commands.add_parser("allocate", help="widths for other limits; trains nothing")
    _add_run(allocate)
    _add_limits(allocate)
    allocate.set_defaults(command=_allocate)

    recipes = commands.add_parser("recipes", help="list the named recipes")
    recipes.set_defaults(command=_recipes)
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    latency = parser.add_mutually_exclusive_group()
    latency.add_argument("--latency", metavar="1.065x", help="limit as a ratio to the baseline")
    latency.add_argument("--latency-ms", metavar="X", help="limit in ms")
    parser.add_argument("--params", metavar="1.33x|N", help="limit as a ratio or a count")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="name of a run, or its directory")
    _add_runs_dir(parser)


def _add_runs_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="D")


def _add_driving(parser: argparse.ArgumentParser) -> None:
    if parser.prog.endswith("run"):
        _add_runs_dir(parser)
    parser.add_argument("--address", metavar="A", help="of a Ray cluster: auto, HOST:PORT")
    parser.add_argument(
        "--retry-failed", action="store_true", help="train again what failed before"
    )


# Commands ------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace, console: Console) -> None:
    recipe, default_name = _find_recipe(arguments.recipe)
    recipe = _with_limits(override(recipe, arguments.set), arguments)
    name = arguments.name or default_name
    if not _NAME.fullmatch(name):
        raise UserError(f"--name takes letters, digits, '.', '_' and '-', not {name!r}")
    _drive(recipe, arguments.runs_dir / name, default_name, arguments, console)


def _resume(arguments: argparse.Namespace, console: Console) -> None:
    directory = _directory(arguments)
    info = RunStore(directory).info()
    _drive(info.recipe, directory, info.recipe_name, arguments, console)


def _drive(
    recipe: Recipe,
    directory: Path,
    recipe_name: str,
    arguments: argparse.Namespace,
    console: Console,
) -> None:
    from cluster.driver import run_search
    from engine.summary import render_summary

    for stop in (signal.SIGTERM, signal.SIGUSR1):
        # Whoever handles Ctrl-C at that moment handles these: Tune while it runs trials.
        signal.signal(stop, lambda *_: signal.raise_signal(signal.SIGINT))
    if arguments.retry_failed:
        RunStore(directory).ledger.forget_failures()
    try:
        record = run_search(recipe, directory, recipe_name, arguments.address, console)
    except KeyboardInterrupt:
        console.print(
            f"stopped; nothing is lost. Go on with:\n  hacscale resume {directory}", soft_wrap=True
        )
        sys.exit(130)
    console.print(render_summary(record))
    console.print(f"report: {(directory / 'report.html').resolve()}", soft_wrap=True)


def _status(arguments: argparse.Namespace, console: Console) -> None:
    store = RunStore(_directory(arguments))
    info = store.info()
    rows = list(store.ledger.rows())
    complete = store.committed_stages()
    table = Table(title=f"{info.name} ({info.recipe_name})", title_justify="left")
    table.add_column("stage")
    table.add_column("state")
    for stage in (
        "data", "baseline", "profile", "alpha", "sample", "fit", "allocate", "train", "measure",
    ):  # fmt: skip
        table.add_row(stage, "complete" if stage in complete else "to do")
    console.print(table)
    count = {state: sum(r.status == state for r in rows) for state in ("done", "stopped", "failed")}
    console.print(", ".join(f"{n} trainings {state}" for state, n in count.items()))
    for row in rows:
        if row.status == "failed":
            console.print(f"failed {row.task.id}: {row.error}", style="yellow", markup=False)


def _report(arguments: argparse.Namespace, console: Console) -> None:
    from cluster.driver import read_run, write_results
    from engine.report import write_figures
    from engine.summary import render_summary

    directory = _directory(arguments)
    record = read_run(directory)
    write_results(record, directory)
    if arguments.figures:
        write_figures(record, arguments.figures)
    console.print(render_summary(record))
    console.print(f"report: {(directory / 'report.html').resolve()}", soft_wrap=True)


def _allocate(arguments: argparse.Namespace, console: Console) -> None:
    from cluster.driver import reallocate

    directory = _directory(arguments)
    recipe = _with_limits(RunStore(directory).info().recipe, arguments)
    baseline, allocation = reallocate(directory, recipe.limits)
    table = Table(title="widths (predicted, not trained)", title_justify="left")
    table.add_column("group")
    for column in ("base", "scaled"):
        table.add_column(column, justify="right")
    for group, width in baseline.width_of.items():
        table.add_row(group, str(width), str(allocation.widths[group]))
    console.print(table)
    console.print(allocation.stop_reason, markup=False)


def _recipes(arguments: argparse.Namespace, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe")
    table.add_column("what it is")
    for name, recipe in RECIPES.items():
        table.add_row(name, (recipe.__doc__ or "").splitlines()[0])
    console.print(table)


# Help ----------------------------------------------------------------------------------------


def _find_recipe(reference: str) -> tuple[Recipe, str]:
    """Returns a recipe and the name that a run of it gets."""
    if reference in RECIPES:
        return RECIPES[reference](), reference
    path = Path(reference)
    if path.suffix in (".yaml", ".yml"):
        return load_recipe(path), path.stem
    raise UserError(f"unknown recipe {reference!r}{nearest(reference, RECIPES)}")


def _with_limits(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    latency = arguments.latency
    if arguments.latency_ms is not None:
        latency = f"{arguments.latency_ms}ms"
    try:
        limits = replace(
            recipe.limits,
            latency=recipe.limits.latency if latency is None else latency,
            params=recipe.limits.params if arguments.params is None else arguments.params,
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    return replace(recipe, limits=limits)


def _directory(arguments: argparse.Namespace) -> Path:
    direct = Path(arguments.run)
    if (direct / "run.json").exists():
        return direct
    named = arguments.runs_dir / arguments.run
    if not (named / "run.json").exists():
        known = [path.parent.name for path in arguments.runs_dir.glob("*/run.json")]
        hint = nearest(arguments.run, known) if known else ""
        raise UserError(f"there is no run {arguments.run!r} in {arguments.runs_dir}{hint}")
    return named
