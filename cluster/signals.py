"""Signals while Ray is at work, which takes them for itself and does not give them back."""

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_TOLD = threading.Event()


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


def told_to_stop() -> bool:
    """Whether a signal to stop has arrived since `announced` was entered, whoever handled it.

    Tune only notes it, and looks at that for the last time before it has ended its workers.
    """
    return _TOLD.is_set()


@contextmanager
def announced(announce: Callable[[], None]) -> Generator[None]:
    """Calls ``announce`` once, in a thread, when the first signal to stop arrives.

    Whoever handles the signal then, and whether the main thread comes to it: a signal to the whole
    process group ends the processes of Ray as well, and those may take this one with them. Only
    the main thread may enter.
    """
    _TOLD.clear()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        while number := os.read(reader, 1):  # ends with the last writer
            if number[0] in _SIGNALS:
                _TOLD.set()
                announce()
                return

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        os.close(reader)
