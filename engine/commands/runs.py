"""``hacscale runs``: the runs that are kept in a place, and how to go on with each."""

import argparse
import shlex
from datetime import datetime

from rich.console import Console
from rich.table import Table

from engine.commands.options import Commands, add_runs_dir, known_runs
from engine.errors import Unfinished, UserError
from engine.storage import open_folder
from engine.store import RunStore


def add(commands: Commands) -> None:
    """Adds the command."""
    runs = commands.add_parser("runs", help="list the runs and how to go on with each")
    add_runs_dir(runs)
    runs.set_defaults(command=_runs)


def _runs(arguments: argparse.Namespace, console: Console) -> None:
    folder = open_folder(arguments.runs_dir)
    found = known_runs(folder)
    if not found:
        raise UserError(f"there are no runs in {arguments.runs_dir}; `hacscale run` begins one")
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state", "done", "failed", "last activity"):
        justify = "right" if column in ("done", "failed") else "left"
        table.add_column(column, justify=justify, overflow="fold")
    commands: list[str] = []
    unreadable: dict[str, str] = {}
    for run in found:
        store = RunStore(run.location, read_only=True)
        try:
            state = _state(store)
            statuses = [row.status for row in store.ledger.rows()]
            last = datetime.fromtimestamp(store.last_activity()).strftime("%Y-%m-%d %H:%M")
        except UserError as error:
            unreadable[run.name] = str(error)
            table.add_row(run.name, "cannot be read", "", "", "")
            continue
        counts = str(statuses.count("done")), str(statuses.count("failed"))
        table.add_row(run.name, state, *counts, last)
        if state.startswith("interrupted"):
            failed = " --retry-failed" if "failed" in statuses else ""
            commands.append(f"hacscale resume {shlex.quote(run.location)}{failed}")
    console.print(table)
    if commands:
        console.print("go on with:", *commands, sep="\n  ", soft_wrap=True)
    if len(unreadable) == 1:
        raise UserError(*unreadable.values())
    if unreadable:
        raise UserError(
            f"{len(unreadable)} runs cannot be read: {', '.join(unreadable)}; "
            "`hacscale status RUN` says why of each"
        )


def _state(store: RunStore) -> str:
    """Returns the state of a run.

    Raises:
        UserError: it cannot be read, as one that a newer version has written.
    """
    from cluster.driver import read_run

    driver = store.driver()
    try:
        store.info()
        read_run(store.location)
    except Unfinished as error:
        if driver:
            return f"running ({error.stage})"
        return f"interrupted ({error.stage})"
    return "running" if driver else "complete"
