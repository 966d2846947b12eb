"""``hacscale fidelity``: whether short trainings order networks as longer ones do."""

import argparse
import re

from rich.console import Console
from rich.table import Table

from engine.commands.driving import orderly_stop
from engine.commands.options import Commands, add_address, add_run, run_directory
from engine.commands.search import add_retry
from engine.errors import UserError
from engine.storage import open_folder

_FEWEST, _MOST = 3, 100
_RUNGS = re.compile(r"[1-9]\d{0,4}(,[1-9]\d{0,4})+")


def add(commands: Commands) -> None:
    """Adds the command."""
    fidelity = commands.add_parser(
        "fidelity", help="whether short trainings order networks as longer ones do"
    )
    add_run(fidelity)
    fidelity.add_argument(
        "--networks", type=int, default=8, metavar="N", help="sampled networks; default: 8"
    )
    fidelity.add_argument("--rungs", metavar="E,E,…", help="epochs to train for, as in 8,30,300")
    add_retry(fidelity)
    add_address(fidelity)
    fidelity.set_defaults(command=_fidelity)


def _fidelity(arguments: argparse.Namespace, console: Console) -> None:
    if not _FEWEST <= arguments.networks <= _MOST:
        raise UserError(f"--networks must lie in {_FEWEST} to {_MOST}, not {arguments.networks}")
    given = arguments.rungs or ""
    rungs = sorted({int(e) for e in given.split(",")}) if _RUNGS.fullmatch(given) else []
    if arguments.rungs is not None and len(rungs) < 2:
        raise UserError(
            "--rungs takes two or more different numbers of epochs, as in 8,30,300, not "
            f"{arguments.rungs!r}"
        )
    location = run_directory(arguments)
    from cluster.fidelity import climb
    from engine.fidelity import FILE, accuracies_of, sentences

    again = f"fidelity --networks {arguments.networks}"
    again += f" --rungs {arguments.rungs}" if rungs else ""
    with orderly_stop(location, console, arguments, again):
        ladder = climb(
            location,
            arguments.networks,
            rungs,
            arguments.address,
            console,
            arguments.retry_failed,
        )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("network")
    for rung in ladder.rungs:
        table.add_column(f"{rung.epochs} epochs", justify="right")
    for number in range(len(ladder.networks)):
        table.add_row(str(number + 1), *accuracies_of(ladder, number))
    table.add_row("seconds", *(f"{rung.seconds:.0f}" for rung in ladder.rungs))
    console.print(table)
    for sentence in sentences(ladder):
        console.print(sentence)
    console.print(open_folder(location).path(FILE), soft_wrap=True)
