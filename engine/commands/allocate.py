"""``hacscale allocate``: networks for other limits from what a run has measured."""

import argparse
import csv
import io
from collections.abc import Generator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.budgets import Answer, Budgets, read_budgets
from engine.commands.options import Commands, add_limits, add_run, given_limits, run_directory
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
        "--csv", type=Path, metavar="FILE", help="write them there too, with all widths"
    )
    allocate.set_defaults(command=_allocate)


def _allocate(arguments: argparse.Namespace, console: Console) -> None:
    location = run_directory(arguments)
    recipe = RunStore(location, read_only=True).info().recipe
    budgets = read_budgets(open_folder(location))
    limits = given_limits(recipe.limits, arguments)
    refusals: list[str] = []
    if not arguments.frontier:
        answers = list(_answers(budgets, limits, refusals))
    elif arguments.latency or arguments.latency_ms:
        raise UserError("--frontier tries every latency; leave out --latency and --latency-ms")
    else:
        answers = budgets.frontier(limits[0])
    if answers:
        _show(budgets, answers, arguments, console)
    if refusals:
        raise UserError("; ".join(refusals))


def _answers(
    budgets: Budgets, limits: Sequence[Limits], refusals: list[str]
) -> Generator[Answer, None, None]:
    """Answers the limits that leave room, and adds to ``refusals`` why others do not."""
    for one in limits:
        try:
            yield budgets.answer(one)
        except UserError as error:
            refusals.append(str(error))


def _show(
    budgets: Budgets, answers: list[Answer], arguments: argparse.Namespace, console: Console
) -> None:
    console.print(_usage_table(answers))
    if not arguments.frontier:
        console.print(_width_table(budgets, answers))
        for answer in answers:
            console.print(answer.allocation.stop_reason)
    if arguments.csv is not None:
        write_atomic(arguments.csv, _csv(answers).encode())


def _usage_table(answers: list[Answer]) -> Table:
    table = Table(title="predicted, not trained", title_justify="left")
    columns = ("limit ms", "ms", "px", "MACs", "parameters", "memory", "importance added")
    for column in columns:
        table.add_column(column, justify="right")
    for answer in answers:
        allocation = answer.allocation
        table.add_row(
            f"{allocation.limit.latency_ms:.4g}",
            f"{allocation.usage.latency_ms:.4g}",
            str(answer.spec.resolution),
            count(answer.macs),
            count(allocation.usage.params),
            f"{count(answer.memory_bytes)}B",
            f"{answer.importance:.3g}",
        )
    return table


def _width_table(budgets: Budgets, answers: list[Answer]) -> Table:
    table = Table(title="widths", title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("base", justify="right")
    for answer in answers:
        table.add_column(f"{answer.allocation.limit.latency_ms:.4g} ms", justify="right")
    for group, width in budgets.base.widths:
        widths = (str(answer.spec.width_of[group]) for answer in answers)
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
    for answer in answers:
        limit, usage = answer.allocation.limit, answer.allocation.usage
        writer.writerow(
            [
                *(limit.latency_ms, limit.params, limit.memory_bytes),
                *(usage.latency_ms, usage.params, answer.memory_bytes, answer.macs),
                *(answer.spec.resolution, answer.importance, *answer.spec.width_of.values()),
            ]
        )
    return text.getvalue()
