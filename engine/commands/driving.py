"""How commands that drive a run are stopped in order."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

from rich.console import Console

from engine.errors import StorageError
from engine.store import RunStore

_KEPT = ("address", "max_gpu_hours", "max_cpu_hours")


@contextmanager
def orderly_stop(
    location: str, console: Console, arguments: argparse.Namespace, command: str = "resume"
) -> Generator[None]:
    """Ctrl-C, SIGTERM and SIGUSR1 stop the run, say how to go on with it, and exit with 130.

    Args:
        location: of the run.
        console: where that is said, at once.
        arguments: those of `_KEPT` are given to the command that goes on.
        command: of hacscale, with its other options, that goes on.
    """
    from cluster.client import CALLED_BY
    from cluster.signals import announced

    def say() -> None:
        console.print("stopping")  # at once: storage that is away is waited for below
        with suppress(StorageError):
            if RunStore(location, read_only=True).folder.read("run.json") is None:
                console.print("the run has not begun; repeat the command to begin it")
                return
        given = {option: getattr(arguments, option, None) for option in _KEPT}
        given["address"] = os.environ.get(CALLED_BY, given["address"])  # of who reads this
        kept = [
            f"--{option.replace('_', '-')} {shlex.quote(str(value))}"
            for option, value in given.items()
            if value is not None
        ]
        again = " ".join(("hacscale", command, shlex.quote(location), *kept))
        console.print(f"nothing is lost; go on with:\n  {again}", soft_wrap=True)

    # A job of Ray begins with SIGINT blocked, what a script starts with & with SIGINT ignored.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stop in (signal.SIGTERM, signal.SIGUSR1):
        # Whoever handles Ctrl-C at that moment handles these: Tune while it runs trials.
        signal.signal(stop, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with announced(say):
            yield
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
