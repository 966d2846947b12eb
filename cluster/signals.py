"""Signals while Ray is at work, which takes them for itself and does not give them back."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def signals_kept() -> Generator[None]:
    """Puts the handlers back at the end. Only a process's main thread has any.

    Raises:
        KeyboardInterrupt: in place of the SystemExit of Ray's own handler of SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
