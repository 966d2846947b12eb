"""How commands that drive a run are stopped in order."""

import shlex
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console

from engine.store import RunStore


@contextmanager
def orderly_stop(location: str, console: Console, command: str = "resume") -> Generator[None]:
    """Ctrl-C, SIGTERM and SIGUSR1 stop the run, say how to go on with it, and exit with 130.

    Args:
        location: of the run.
        console: where that is said.
        command: of hacscale, with its options, that goes on.
    """
    # A job of Ray begins with SIGINT blocked, what a script starts with & with SIGINT ignored.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stop in (signal.SIGTERM, signal.SIGUSR1):
        # Whoever handles Ctrl-C at that moment handles these: Tune while it runs trials.
        signal.signal(stop, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    except KeyboardInterrupt:
        if RunStore(location, read_only=True).folder.read("run.json") is None:
            console.print("stopped before the run began; repeat the command to begin it")
            sys.exit(130)
        again = f"hacscale {command} {shlex.quote(location)}"
        console.print(f"stopped; nothing is lost. Go on with:\n  {again}", soft_wrap=True)
        sys.exit(130)
