"""``hacscale report``: the results of a finished run, written again."""

import argparse
from pathlib import Path

from rich.console import Console

from engine.commands.options import Commands, add_run, run_directory
from engine.errors import UserError
from engine.storage import open_folder


def add(commands: Commands) -> None:
    """Adds the command."""
    report = commands.add_parser("report", help="write the report of a finished run again")
    add_run(report)
    report.add_argument("--figures", type=Path, metavar="DIR", help="write the figures there too")
    report.set_defaults(command=_report)


def _report(arguments: argparse.Namespace, console: Console) -> None:
    location = run_directory(arguments)
    from cluster.driver import read_run, write_results
    from engine.figures import write_figures
    from engine.summary import render_summary

    record = read_run(location)
    try:
        write_results(record, location)
        if arguments.figures:
            write_figures(record, arguments.figures)
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from error
    console.print(render_summary(record))
    console.print(f"report: {open_folder(location).path('report.html')}", soft_wrap=True)
