"""``hacscale allocate``: networks for other limits from what a run has measured."""

import argparse
import csv
import io
from collections.abc import Generator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.answers import METHODS, Answer, answer, frontier
from engine.budgets import Budgets, read_budgets
from engine.commands.options import (
    Commands,
    add_limits,
    add_run,
    check_writable,
    given_limits,
    run_directory,
)
from engine.display import count
from engine.errors import UserError
from engine.limits import Limits
from engine.local_folder import write_atomic
from engine.storage import open_folder
from engine.store import RunStore


def add(commands: Commands) -> None:
    """Adds the command."""
    allocate = commands.add_parser("allocate", help="widths for other limits; trains nothing")
    add_run(allocate)
    add_limits(allocate, several=True)
    allocate.add_argument(
        "--frontier",
        action="store_true",
        help="networks for every latency, within the limits of parameters and memory",
    )
    allocate.add_argument(
        "--method",
        choices=METHODS,
        help="what decides the widths; without it what made the answer of the run",
    )
    allocate.add_argument(
        "--csv", type=Path, metavar="FILE", help="write them there too, with all widths"
    )
    allocate.set_defaults(command=_allocate)


def _allocate(arguments: argparse.Namespace, console: Console) -> None:
    location = run_directory(arguments)
    if arguments.csv is not None:
        check_writable(arguments.csv, "--csv")
    recipe = RunStore(location, read_only=True).info().recipe
    budgets = read_budgets(open_folder(location), recipe)
    limits = given_limits(recipe.limits, arguments)
    method = arguments.method or budgets.method
    refusals: list[str] = []
    if not arguments.frontier:
        answers = list(_answers(budgets, limits, method, refusals))
    elif arguments.latency or arguments.latency_ms:
        raise UserError("--frontier tries every latency; leave out --latency and --latency-ms")
    else:
        answers = frontier(budgets, limits[0], method)
    if answers:
        _show(budgets, answers, method, arguments, console)
    if refusals:
        raise UserError("; ".join(dict.fromkeys(refusals)))


def _answers(
    budgets: Budgets, limits: Sequence[Limits], method: str, refusals: list[str]
) -> Generator[Answer, None, None]:
    """Answers the limits that leave room, and adds to ``refusals`` why others do not."""
    for one in limits:
        try:
            yield answer(budgets, one, method)
        except UserError as error:
            refusals.append(str(error))


def _show(
    budgets: Budgets,
    answers: list[Answer],
    method: str,
    arguments: argparse.Namespace,
    console: Console,
) -> None:
    console.print(_usage_table(answers, method))
    if not arguments.frontier:
        console.print(_width_table(budgets, answers))
        for one in answers:
            console.print(one.allocation.stop_reason)
    if arguments.csv is not None:
        write_atomic(arguments.csv, _csv(answers).encode())


def _usage_table(answers: list[Answer], method: str) -> Table:
    title = f"widths by {method}; predicted, not trained"
    table = Table(title=title, title_justify="left")
    columns = ("limit ms", "ms", "px", "MACs", "parameters", "memory", "importance added")
    for column in columns:
        table.add_column(column, justify="right")
    for one in answers:
        allocation = one.allocation
        table.add_row(
            f"{allocation.limit.latency_ms:.4g}",
            f"{allocation.usage.latency_ms:.4g}",
            str(one.spec.resolution),
            count(one.macs),
            count(allocation.usage.params),
            f"{count(one.memory_bytes)}B",
            f"{one.importance:.3g}",
        )
    return table


def _width_table(budgets: Budgets, answers: list[Answer]) -> Table:
    table = Table(title="widths", title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("base", justify="right")
    for one in answers:
        table.add_column(f"{one.allocation.limit.latency_ms:.4g} ms", justify="right")
    for group, width in budgets.base.widths:
        widths = (str(one.spec.width_of[group]) for one in answers)
        table.add_row(Text(group), str(width), *widths)
    return table


def _csv(answers: list[Answer]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    groups = list(answers[0].spec.width_of)
    writer.writerow(
        [
            *("latency_limit_ms", "params_limit", "memory_limit_bytes"),
            *("predicted_latency_ms", "params", "memory_bytes", "macs", "resolution"),
            *("importance_added", *groups),
        ]
    )
    for one in answers:
        limit, usage = one.allocation.limit, one.allocation.usage
        writer.writerow(
            [
                *(limit.latency_ms, limit.params, limit.memory_bytes),
                *(usage.latency_ms, usage.params, one.memory_bytes, one.macs),
                *(one.spec.resolution, one.importance, *one.spec.width_of.values()),
            ]
        )
    return text.getvalue()
