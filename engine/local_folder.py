"""A folder on a local disk or a network file system."""

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import StorageError
from engine.folder import Entry, Folder, checked, patiently

_TEMPORARY = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PASSING = (
    errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN,
)  # fmt: skip
"""Errors of network file systems that are over when the network is back."""


class LocalFolder(Folder):
    """A folder of files that are written under another name, made to last, and renamed.

    Attributes:
        directory: its absolute path.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.location = str(directory)
        self.name = directory.name
        self.parent = str(directory.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFolder, (self.directory,)

    def __truediv__(self, name: str) -> "LocalFolder":
        return LocalFolder(self.directory / checked(name))

    def path(self, name: str) -> str:
        return str(self.directory / checked(name))

    def read(self, name: str) -> bytes | None:
        path = self.directory / checked(name)
        try:
            return patiently(path.read_bytes, _is_passing)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(
                f"cannot read {path}: {error.strerror or error}; mend that first"
            ) from None

    def write(self, name: str, data: bytes) -> None:
        write_atomic(self.directory / checked(name), data)

    def exists(self, name: str) -> bool:
        path = self.directory / checked(name)
        try:
            return patiently(path.is_file, _is_passing)
        except OSError as error:
            raise StorageError(f"cannot look for {path}: {error.strerror or error}") from None

    def entries(self) -> list[Entry]:
        def scan() -> list[Entry]:
            found: list[Entry] = []
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # since removed
                        found.append(
                            Entry(
                                name=entry.name,
                                is_folder=entry.is_dir(),
                                modified=entry.stat().st_mtime,
                            )
                        )
            return sorted(found, key=lambda entry: entry.name)

        try:
            return patiently(scan, _is_passing)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StorageError(
                f"cannot read {self.directory}: {error.strerror or error}; mend that first"
            ) from None

    def delete(self, *names: str) -> None:
        for name in names:
            path = self.directory / checked(name)
            try:
                patiently(lambda path=path: path.unlink(missing_ok=True), _is_passing)
            except OSError as error:
                raise storage_error(error, path) from error

    def rename(self, old: str, new: str) -> bool:
        path, target = self.directory / checked(old), self.directory / checked(new)
        try:
            patiently(lambda: path.replace(target), _is_passing)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, path) from error
        return True

    def remove_temporaries(self) -> None:
        """Removes what writers left that were killed, here and in the folders below."""
        for pattern in (f".*{_TEMPORARY}", f"*/.*{_TEMPORARY}"):
            for path in self.directory.glob(pattern):
                with suppress(OSError):
                    path.unlink()


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a local file that is whole or absent, whatever happens meanwhile.

    Raises:
        StorageError: no space, or no permission.
    """
    try:
        patiently(lambda: _replace(path, data), _is_passing)
    except OSError as error:
        raise storage_error(error, path) from error


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_names(path.parent)


def _sync_names(directory: Path) -> None:
    """Makes a renaming last over a power failure, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def storage_error(error: OSError, path: Path) -> StorageError:
    """Returns the one line for a local file that cannot be written."""
    if error.errno in _FULL:
        return StorageError(f"no space left for {path}; free some, then resume: nothing is lost")
    reason = error.strerror or error
    return StorageError(
        f"cannot write {path}: {reason}; give another path, which is --runs-dir for runs"
    )


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _PASSING
