"""What commands share that drive a run: where, and how they are stopped in order."""

import argparse
import shlex
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console


def add_address(parser: argparse.ArgumentParser) -> None:
    """Adds the address of a cluster."""
    parser.add_argument("--address", metavar="A", help="of a Ray cluster: auto, HOST:PORT")


@contextmanager
def orderly_stop(location: str, console: Console) -> Generator[None]:
    """Ctrl-C, SIGTERM and SIGUSR1 stop the run, say how to go on with it, and exit with 130."""
    for stop in (signal.SIGTERM, signal.SIGUSR1):
        # Whoever handles Ctrl-C at that moment handles these: Tune while it runs trials.
        signal.signal(stop, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    except KeyboardInterrupt:
        command = f"hacscale resume {shlex.quote(location)}"
        console.print(f"stopped; nothing is lost. Go on with:\n  {command}", soft_wrap=True)
        sys.exit(130)
