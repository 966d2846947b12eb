"""The command ``hacscale``."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Never

from rich.console import Console

from engine.commands import (
    allocate,
    check,
    cluster,
    compare,
    doctor,
    export,
    fidelity,
    plan,
    profile,
    recipes,
    report,
    run,
    runs,
    sample,
    status,
    submit,
)
from engine.errors import UserError
from engine.provenance import package_version

_COMMANDS = (
    *(run, sample, compare, fidelity, submit, profile, plan, doctor, cluster, runs, status),
    *(report, export, allocate, check, recipes),
)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> Never:
        raise UserError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line.

    It exits with 2 for a user's error, with 130 when it is interrupted, and with 1 when nobody
    reads its output any more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may not know α
    # User code in the working directory is found, but hides none of this program's packages.
    sys.path += [str(Path(__file__).parents[1]), ""]
    try:
        try:
            arguments = _parser().parse_args(argv)
            arguments.command(arguments, Console(markup=False, emoji=False))
        finally:
            sys.stdout.flush()
    except UserError as error:
        print("hacscale:", *str(error).splitlines(), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("hacscale: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `hacscale … | head`
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hacscale", description="Scale a network to what a device allows.")
    parser.add_argument(
        "--version", action="version", version=f"hacscale {package_version('hacscale')}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for module in _COMMANDS:
        module.add(commands)
    return parser
