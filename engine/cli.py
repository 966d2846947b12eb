"""The command ``hacscale``."""

import argparse
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Never

from rich.console import Console
from rich.table import Table

from engine.errors import Unfinished, UserError, nearest
from engine.provenance import package_version
from engine.recipe import Recipe, load_recipe, override
from engine.recipes import RECIPES
from engine.store import RunStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STAGES = (
    "data", "baseline", "profile", "alpha", "sample", "fit", "allocate", "train", "measure",
)  # fmt: skip
_FORGIVING = ("alpha", "sample")
"""Stages that may be complete although some of their trainings failed."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> Never:
        raise UserError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line.

    It exits with 2 for a user's error, with 130 when it is interrupted, and with 1 when nobody
    reads its output any more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may not know α
    # User code in the working directory is found, but hides none of this program's packages.
    sys.path += [str(Path(__file__).parents[1]), ""]
    try:
        try:
            arguments = _parser().parse_args(argv)
            arguments.command(arguments, Console(markup=False, emoji=False))
        finally:
            sys.stdout.flush()
    except UserError as error:
        print("hacscale:", *str(error).splitlines(), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `hacscale … | head`
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hacscale", description="Scale a network to what a device allows.")
    parser.add_argument(
        "--version", action="version", version=f"hacscale {package_version('hacscale')}"
    )
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
    _add_runs_dir(run)
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

    export = commands.add_parser("export", help="write the result for use without this program")
    _add_run(export)
    export.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/export")
    export.set_defaults(command=_export)

    allocate = commands.add_parser("allocate", help="widths for other limits; trains nothing")
    _add_run(allocate)
    _add_limits(allocate)
    allocate.set_defaults(command=_allocate)

    check = commands.add_parser("check", help="whether a network can be scaled, and how")
    check.add_argument("model", help="vgg11, resnet18, package.module:factory, …")
    check.add_argument("--input", default="3x224x224", metavar="CxHxW", help="default: 3x224x224")
    check.add_argument("--classes", type=int, default=1000, metavar="N", help="default: 1000")
    for option in ("--include", "--exclude"):
        check.add_argument(
            option, action="append", default=[], metavar="PATTERN", help="of width groups: 'stem.*'"
        )
    check.add_argument(
        "--adaptive-pool",
        action="store_true",
        help="keep linear layers the same at every resolution",
    )
    check.set_defaults(command=_check)

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
    parser.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="D", help="default: runs"
    )


def _add_driving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="A", help="of a Ray cluster: auto, HOST:PORT")
    parser.add_argument(
        "--retry-failed", action="store_true", help="train again what failed before"
    )


# Commands ------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace, console: Console) -> None:
    recipe, default_name = _find_recipe(arguments.recipe)
    recipe = _with_limits(override(recipe, arguments.set), arguments)
    name = default_name if arguments.name is None else arguments.name
    if not _NAME.fullmatch(name):
        raise UserError(
            "the name of a run has at most 100 letters, digits, '.', '_' and '-' and begins with "
            f"a letter or digit; {name!r} does not: give another --name"
        )
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
        store = RunStore(directory)
        with store.lock():
            store.forget_failures(_FORGIVING)
    try:
        record = run_search(recipe, directory, recipe_name, arguments.address, console)
    except KeyboardInterrupt:
        command = f"hacscale resume {shlex.quote(str(directory))}"
        console.print(f"stopped; nothing is lost. Go on with:\n  {command}", soft_wrap=True)
        sys.exit(130)
    console.print(render_summary(record))
    console.print(f"report: {(directory / 'report.html').resolve()}", soft_wrap=True)


def _status(arguments: argparse.Namespace, console: Console) -> None:
    directory = _directory(arguments)
    store = RunStore(directory, read_only=True)
    info = store.info()
    from cluster.driver import read_run

    try:
        read_run(directory)
        complete = len(_STAGES)
    except Unfinished as error:
        # A stage of an older recipe is not found by this one, so the order is all that is needed.
        complete = _STAGES.index(error.stage)
    table = Table(title=f"{info.name} ({info.recipe_name})", title_justify="left")
    table.add_column("stage")
    table.add_column("state")
    for number, stage in enumerate(_STAGES):
        table.add_row(stage, "complete" if number < complete else "to do")
    console.print(table)
    rows = list(store.ledger.rows())
    count = {state: sum(r.status == state for r in rows) for state in ("done", "stopped", "failed")}
    count["begun"] = sum(1 for _ in store.checkpoints.glob("*.pt"))
    console.print("trainings:", ", ".join(f"{n} {state}" for state, n in count.items()))
    for row in rows:
        if row.status == "failed":
            console.print(f"failed {row.task.id}: {row.error}", style="yellow")


def _report(arguments: argparse.Namespace, console: Console) -> None:
    directory = _directory(arguments)
    from cluster.driver import read_run, write_results
    from engine.figures import write_figures
    from engine.summary import render_summary

    record = read_run(directory)
    try:
        write_results(record, directory)
        if arguments.figures:
            write_figures(record, arguments.figures)
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from error
    console.print(render_summary(record))
    console.print(f"report: {(directory / 'report.html').resolve()}", soft_wrap=True)


def _export(arguments: argparse.Namespace, console: Console) -> None:
    directory = _directory(arguments)
    from cluster.driver import read_run
    from engine.export import export_run

    out = directory / "export" if arguments.out is None else arguments.out
    exported = export_run(read_run(directory), directory, out)
    for name, check in exported.checks.items():
        console.print(f"{name}: logits off by {check.largest_difference:.1g} at most")
    console.print(f"export: {out.resolve()}", soft_wrap=True)


def _allocate(arguments: argparse.Namespace, console: Console) -> None:
    directory = _directory(arguments)
    recipe = _with_limits(RunStore(directory, read_only=True).info().recipe, arguments)
    from cluster.driver import reallocate

    baseline, allocation = reallocate(directory, recipe.limits)
    table = Table(title="widths (predicted, not trained)", title_justify="left")
    table.add_column("group")
    for column in ("base", "scaled"):
        table.add_column(column, justify="right")
    for group, width in baseline.width_of.items():
        table.add_row(group, str(width), str(allocation.widths[group]))
    console.print(table)
    console.print(allocation.stop_reason)


def _check(arguments: argparse.Namespace, console: Console) -> None:
    from engine.check import check_network, model_ref
    from engine.check_view import render_check

    ref, resolution = model_ref(
        arguments.model,
        arguments.input,
        arguments.classes,
        include=arguments.include,
        exclude=arguments.exclude,
        adaptive_pool=arguments.adaptive_pool,
    )
    check = check_network(ref, resolution)
    console.print(render_check(check))
    if not check.passed:
        sys.exit(1)


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
    if path.is_file():
        raise UserError(f"a recipe file ends in .yaml, {reference!r} does not; rename it")
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
    candidates = (Path(arguments.run), arguments.runs_dir / arguments.run)
    try:
        for directory in candidates:
            if (directory / "run.json").is_file():
                return directory
    except OSError as error:
        raise UserError(f"cannot look for a run at {error.filename}: {error.strerror}") from None
    known = [path.parent.name for path in arguments.runs_dir.glob("*/run.json")]
    hint = nearest(arguments.run, known) if known else "; `hacscale run` begins one"
    raise UserError(f"there is no run {arguments.run!r} in {arguments.runs_dir}{hint}")
