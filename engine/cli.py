"""The command ``hacscale``."""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError


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
            # Here, because the libraries take half a second, in which it may be interrupted too.
            from rich.console import Console

            from engine.commands.parser import make_parser

            arguments = make_parser().parse_args(argv)
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
        _leave_output()
        sys.exit(1)
    except OSError as error:
        if _can_write():
            raise
        _leave_output()
        print(
            f"hacscale: the output cannot be written: {error.strerror}; what is done is kept: mend "
            "that, then repeat the command",
            file=sys.stderr,
        )
        sys.exit(2)


def _can_write() -> bool:
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _leave_output() -> None:
    """Python flushes once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
