"""One driver at a time in a store without locks: claims that are renewed, and expire.

    lock/OWNER.json     who claims the run; its time of writing is the last sign of life

A driver writes its claim, then lists all of them. It holds the run if every other claim is dead.
Stores like S3 and GCS list what was written before, so of two drivers that claim at the same time
at least one sees the other; it takes its claim back and refuses. (Both may: then neither runs.)
A conditional write would do with one object, but pyarrow has none: S3 ignores the header as it
passes it on.

A claim is dead when the process is gone, if it ran on this machine, or when it was not renewed
for `EXPIRY_S`. Times are those of the store, so clocks of machines need not agree. A driver that
could not renew for so long, or whose claim somebody has removed, as from a machine that was
suspended, looks again who is there, and stops if another has taken over. Until it notices, both
work, and do no harm but double work: what a run keeps is the same whoever writes it.
"""

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.codec import STRICT, decode, pretty
from engine.errors import StorageError, UserError
from engine.folder import Folder

HEARTBEAT_S = 15.0
EXPIRY_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """Attributes:
    machine: this boot of this kernel, and this space of process numbers; "" if unknown.
    """

    __pydantic_config__ = STRICT

    host: str
    machine: str
    pid: int

    @property
    def is_gone(self) -> bool:
        """Whether it was made on this machine by a process that is no more."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


@contextmanager
def lease(folder: Folder) -> Generator[None]:
    """Holds a run for one driver, as long as the context lasts.

    Args:
        folder: of the claims.

    Raises:
        UserError: another driver holds it, or has taken over while the store did not answer.
    """
    name = f"{uuid.uuid4().hex}.json"
    claim = pretty(_Claim(host=socket.gethostname(), machine=_machine(), pid=os.getpid()))
    folder.write(name, claim)
    try:
        holder = _other(folder, name)
        if holder is not None:
            raise UserError(
                f"another process drives the run at {folder.location} ({holder}); wait for it, "
                "stop it, or give another --name (a driver that died on another machine lets go "
                f"after {EXPIRY_S:.0f} s)"
            )
        with _Heart(folder, name, claim):
            yield
    except StorageError:
        raise  # what cannot be reached now cannot be removed either, and expires
    except BaseException:
        folder.delete(name)
        raise
    folder.delete(name)


def driver_of(folder: Folder) -> str | None:
    """Returns who holds a run, as far as claims and the clock of this machine tell."""
    return _other(folder, own=None)


class _Heart(threading.Thread):
    """Renews a claim, and interrupts the driver if somebody else holds the run."""

    def __init__(self, folder: Folder, name: str, claim: bytes) -> None:
        super().__init__(name="lease", daemon=True)
        self._folder, self._name, self._claim = folder, name, claim
        self._stopped = threading.Event()
        self.lost_to: str | None = None

    def __enter__(self) -> None:
        self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._stopped.set()
        self.join(HEARTBEAT_S)
        if self.lost_to and isinstance(error, KeyboardInterrupt):
            raise UserError(
                f"{self.lost_to} has taken over the run at {self._folder.location}, since the "
                "storage could not be reached for too long; nothing is lost"
            ) from None

    def run(self) -> None:
        renewed = time.monotonic()
        while not self._stopped.wait(HEARTBEAT_S):
            began = time.monotonic()  # which stands still while a machine is suspended
            try:
                removed = not self._folder.exists(self._name)
                self._folder.write(self._name, self._claim)
                if removed or began - renewed > EXPIRY_S - HEARTBEAT_S:
                    self.lost_to = _other(self._folder, self._name)
            except StorageError:
                continue  # the driver meets the same trouble, and says so
            if self.lost_to:
                os.kill(os.getpid(), signal.SIGINT)
                return
            renewed = began


def _other(folder: Folder, own: str | None) -> str | None:
    """Returns who else holds the run; claims that are dead are removed if we have one."""
    entries = {entry.name: entry for entry in folder.entries() if entry.name.endswith(".json")}
    # Ours was written just now: that is the time of the store.
    now = entries[own].modified if own in entries else time.time()
    for name, entry in entries.items():
        data = None if name == own else folder.read(name)
        if data is None:
            continue
        try:
            claim = decode(_Claim, data, name)
        except UserError:
            claim = _Claim(host="unknown host", machine="", pid=0)
        if claim.is_gone or now - entry.modified > EXPIRY_S:
            if own is not None:
                folder.delete(name)
        else:
            return f"process {claim.pid} on {claim.host}"
    return None


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
