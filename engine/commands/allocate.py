"""``hacscale allocate``: widths for other limits from what a run has measured."""

import argparse

from rich.console import Console
from rich.table import Table

from engine.commands.options import Commands, add_limits, add_run, run_directory, with_limits
from engine.store import RunStore


def add(commands: Commands) -> None:
    """Adds the command."""
    allocate = commands.add_parser("allocate", help="widths for other limits; trains nothing")
    add_run(allocate)
    add_limits(allocate)
    allocate.set_defaults(command=_allocate)


def _allocate(arguments: argparse.Namespace, console: Console) -> None:
    location = run_directory(arguments)
    recipe = with_limits(RunStore(location, read_only=True).info().recipe, arguments)
    from cluster.driver import reallocate

    baseline, allocation = reallocate(location, recipe.limits)
    table = Table(title="widths (predicted, not trained)", title_justify="left")
    table.add_column("group")
    for column in ("base", "scaled"):
        table.add_column(column, justify="right")
    for group, width in baseline.width_of.items():
        table.add_row(group, str(width), str(allocation.widths[group]))
    console.print(table)
    console.print(allocation.stop_reason)
