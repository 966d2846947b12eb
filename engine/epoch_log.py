"""What was trained, epoch by epoch, as the workers of a run note it."""

import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("hacscale")


@dataclass(frozen=True, slots=True)
class NotedEpoch:
    """One finished epoch of a training.

    Attributes:
        process: id of the worker's, on its machine.
        task: that was trained.
        number: of the epoch, from 1.
    """

    process: int
    task: str
    number: int


class EpochLog:
    """The file ``logs/epochs.log`` of a run.

    It shows what work was done and whether any was done twice. Nothing depends on it, so that a
    place where nothing can be written ends no training.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, task: str, number: int) -> None:
        """Adds a finished epoch."""
        line = f"{time.time():.3f} {socket.gethostname()} {os.getpid()} {task} {number}\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(line)
        except OSError as error:
            log.debug("an epoch of %s is not noted: %s", task, error)

    def read(self) -> list[NotedEpoch]:
        """Returns all epochs in the order of their ends; a line that is torn is none."""
        try:
            lines = self._path.read_text(errors="replace").splitlines()
        except OSError:  # not begun, or of a file system that is away for a while
            return []
        words = (line.split() for line in lines)
        return [
            NotedEpoch(process=int(w[2]), task=w[3], number=int(w[4]))
            for w in words
            if len(w) == 5 and w[2].isdecimal() and w[4].isdecimal()
        ]

    def numbers(self, task: str) -> list[int]:
        """Returns the epochs of one training, in the order of their ends."""
        return [epoch.number for epoch in self.read() if epoch.task == task]
