"""``hacscale export``: the result of a run for use without this program."""

import argparse
from pathlib import Path

from rich.console import Console

from engine.commands.options import Commands, add_run, run_directory


def add(commands: Commands) -> None:
    """Adds the command."""
    export = commands.add_parser("export", help="write the result for use without this program")
    add_run(export)
    export.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/export")
    export.set_defaults(command=_export)


def _export(arguments: argparse.Namespace, console: Console) -> None:
    directory = run_directory(arguments)
    from cluster.driver import read_run
    from engine.export import export_run

    out = directory / "export" if arguments.out is None else arguments.out
    exported = export_run(read_run(directory), directory, out)
    for name, check in exported.checks.items():
        console.print(f"{name}: logits off by {check.largest_difference:.1g} at most")
    console.print(f"export: {out.resolve()}", soft_wrap=True)
