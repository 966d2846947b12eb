"""``hacscale doctor``: whether a machine or a cluster is fit for a search."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from engine.commands.options import Commands, add_address, add_runs_dir
from engine.storage import open_folder

if TYPE_CHECKING:
    from cluster.doctor import Check

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def add(commands: Commands) -> None:
    """Adds the command."""
    doctor = commands.add_parser("doctor", help="whether a machine or a cluster is fit")
    add_address(doctor)
    add_runs_dir(doctor)
    doctor.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace, console: Console) -> None:
    from cluster.doctor import judge_cluster, judge_here, judge_machine
    from cluster.machine import this_machine
    from cluster.nodes import inspect_nodes
    from cluster.session import session

    runs_dir = open_folder(arguments.runs_dir).location
    here = this_machine(runs_dir)
    checks = [*judge_here(here)]
    if arguments.address is None:
        checks += judge_machine(here)
    else:
        with TemporaryDirectory() as logs, session(arguments.address, Path(logs)):
            checks += judge_cluster(inspect_nodes(runs_dir), here, runs_dir)
    if show_checks(checks, console):
        sys.exit(1)


def show_checks(checks: "Sequence[Check]", console: Console) -> bool:
    """Prints checks, and returns whether one has failed."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "where", "what", "found", "remedy"):
        table.add_column(column, overflow="fold")
    for check in checks:
        row = (check.where or "here", check.what, check.found, check.remedy)
        table.add_row(check.state, *row, style=_STYLES[check.state])
    if checks:
        console.print(table)
    return any(check.state == "fail" for check in checks)
