"""The words of the command line."""

import argparse
from typing import Never

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


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of ``hacscale``, with all commands."""
    parser = _Parser(prog="hacscale", description="Scale a network to what a device allows.")
    parser.add_argument(
        "--version", action="version", version=f"hacscale {package_version('hacscale')}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for module in _COMMANDS:
        module.add(commands)
    return parser
