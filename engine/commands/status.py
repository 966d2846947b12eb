"""``hacscale status``: what a run has done."""

import argparse
import shlex

from rich.console import Console
from rich.table import Table

from engine.commands.options import Commands, add_run, run_directory
from engine.commands.submit import add_job_server, show_job
from engine.errors import Unfinished
from engine.store import RunStore

STAGES = (
    "data", "baseline", "profile", "alpha", "sample", "fit", "allocate", "choose", "train",
    "measure",
)  # fmt: skip


def add(commands: Commands) -> None:
    """Adds the command."""
    status = commands.add_parser("status", help="what a run or a job has done")
    add_run(status)
    add_job_server(status, required=False)
    status.set_defaults(command=_status)


def _status(arguments: argparse.Namespace, console: Console) -> None:
    if arguments.address is not None:
        show_job(arguments.run, arguments.address, console)
        return
    location = run_directory(arguments)
    store = RunStore(location, read_only=True)
    info = store.info()
    from cluster.driver import read_run

    try:
        read_run(location)
        complete = len(STAGES)
    except Unfinished as error:
        # A stage of an older recipe is not found by this one, so the order is all that is needed.
        complete = STAGES.index(error.stage)
    table = Table(title=f"{info.name} ({info.recipe_name})", title_justify="left")
    table.add_column("stage")
    table.add_column("state")
    for number, stage in enumerate(STAGES):
        table.add_row(stage, "complete" if number < complete else "to do")
    console.print(table)
    rows = list(store.ledger.rows())
    count = {state: sum(r.status == state for r in rows) for state in ("done", "stopped", "failed")}
    count["begun"] = len(store.checkpoints.files(".pt"))
    console.print("trainings:", ", ".join(f"{n} {state}" for state, n in count.items()))
    for row in rows:
        if row.status == "failed":
            console.print(f"failed {row.task.id}: {row.error}", style="yellow")
    if count["failed"]:
        again = f"hacscale resume {shlex.quote(location)} --retry-failed"
        console.print(f"what has failed is tried again by\n  {again}", soft_wrap=True)
