"""A folder of a run: what all kinds of storage have in common."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from engine.errors import UserError

T = TypeVar("T")

log = logging.getLogger("hacscale")

PATIENCE_S = 120.0
"""For so long what a store does not answer is asked again."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing in a folder.

    Attributes:
        modified: seconds since 1970, by the clock of the store.
    """

    name: str
    is_folder: bool
    modified: float


class Folder(ABC):
    """A folder whose files are whole or absent, whatever happens to those who write them.

    Names of files are relative, and may have folders before them; those are made when needed.

    Attributes:
        location: absolute path or URI; `engine.storage.open_folder` of it gives the same folder.
        name: the last part of its path.
        parent: location of the folder that it is in.
    """

    location: str
    name: str
    parent: str

    def __repr__(self) -> str:
        return self.location

    @abstractmethod
    def __truediv__(self, name: str) -> "Folder":
        """Returns the folder ``name`` in this one."""

    @abstractmethod
    def path(self, name: str) -> str:
        """Returns the path or URI of a file, for messages."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Returns what a file holds, None if there is none.

        Raises:
            StorageError: it cannot be read.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Writes a file, or replaces it, for good.

        Raises:
            StorageError: it cannot be written.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Returns what is in this folder, sorted; nothing if there is no such folder."""

    @abstractmethod
    def delete(self, *names: str) -> None:
        """Removes files, as far as they are there."""

    @abstractmethod
    def rename(self, old: str, new: str) -> bool:
        """Gives a file another name; returns whether it was there."""

    def read_all(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Reads many files."""
        return {name: self.read(name) for name in names}

    def files(self, suffix: str) -> list[str]:
        """Returns the names of the files that end in ``suffix``, without it."""
        return [
            entry.name.removesuffix(suffix)
            for entry in self.entries()
            if entry.name.endswith(suffix)
            and not entry.is_folder
            and not entry.name.startswith(".")
        ]

    def set_aside(self, why: str, *names: str) -> None:
        """Renames the files of one thing that is damaged, as far as they are there."""
        for name in names:
            self.rename(name, f"{name}.damaged")
        log.warning(
            "%s is damaged (%s): kept as *.damaged, and done again", self.path(names[0]), why
        )


def checked(name: str) -> str:
    """Returns ``name`` if it stays in the folder that it is a name in.

    Raises:
        UserError: it leads elsewhere.
    """
    for part in name.split("/"):
        if not _NAME.fullmatch(part) or part in (".", ".."):
            raise UserError(f"{name!r} is not the name of a file in a run")
    return name


def patiently(action: Callable[[], T], is_passing: Callable[[BaseException], bool]) -> T:
    """Does what may fail for a while; the last error is raised when patience has run out."""
    retrying = Retrying(
        retry=retry_if_exception(is_passing),
        stop=stop_after_delay(PATIENCE_S),
        wait=wait_random_exponential(multiplier=0.2, max=5.0),
        before_sleep=_warn,
        reraise=True,
    )
    return retrying(action)


def _warn(state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        log.warning("the storage does not answer, trying on: %s", state.outcome.exception())
