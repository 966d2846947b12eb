"""``hacscale export``: the result of a run for use without this program."""

import argparse
from pathlib import Path

from rich.console import Console

from engine.commands.options import Commands, add_run, run_directory
from engine.errors import UserError
from engine.local_folder import LocalFolder
from engine.storage import open_folder


def add(commands: Commands) -> None:
    """Adds the command."""
    export = commands.add_parser("export", help="write the result for use without this program")
    add_run(export)
    export.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/export")
    export.set_defaults(command=_export)


def _export(arguments: argparse.Namespace, console: Console) -> None:
    location = run_directory(arguments)
    from cluster.driver import read_run
    from engine.export import export_run

    folder = open_folder(location)
    if arguments.out is not None:
        out = arguments.out
    elif isinstance(folder, LocalFolder):
        out = folder.directory / "export"
    else:
        raise UserError(f"an export is written to a local disk, not to {location}; give --out")
    exported = export_run(read_run(location), location, out)
    for name, check in exported.checks.items():
        console.print(f"{name}: logits off by {check.largest_difference:.1g} at most")
    console.print(f"export: {out.resolve()}", soft_wrap=True)
