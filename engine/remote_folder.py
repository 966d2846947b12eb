"""A folder in an object store, or any other that ``pyarrow.fs`` knows by URI."""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from engine.errors import StorageError, UserError
from engine.folder import Entry, Folder, checked, patiently

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

T = TypeVar("T")

_PARALLEL = 16
_LASTING = re.compile(
    "ACCESS_DENIED|NO_SUCH|INVALID|SIGNATURE|UNRECOGNIZED|HTTP status 4|PERMISSION_DENIED"
    "|UNAUTHENTICATED|NOT_FOUND"
)
"""Answers of object stores that are the same tomorrow."""


class RemoteFolder(Folder):
    """A folder whose files are objects: one that is put is put whole."""

    def __init__(self, uri: str) -> None:
        self._parts = parts = urlsplit(uri)
        if parts.password is not None:
            where = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
            raise UserError(
                f"credentials do not belong into {where}; leave them to the environment "
                "(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, …)"
            )
        self.location = uri
        above, _, self.name = parts.path.rstrip("/").rpartition("/")
        self.parent = urlunsplit(parts._replace(path=above))

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFolder, (self.location,)

    def __truediv__(self, name: str) -> "RemoteFolder":
        return RemoteFolder(self.path(name))

    def path(self, name: str) -> str:
        path = f"{self._parts.path.rstrip('/')}/{checked(name)}"
        return urlunsplit(self._parts._replace(path=path))

    def read(self, name: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                with self._system.open_input_file(self._key(name)) as file:
                    return file.read()
            except FileNotFoundError:
                return None

        return self._do("read", name, read)

    def write(self, name: str, data: bytes) -> None:
        def write() -> None:
            with self._system.open_output_stream(self._key(name), compression=None) as file:
                file.write(data)

        self._do("write", name, write)

    def exists(self, name: str) -> bool:
        def look() -> bool:
            return self._system.get_file_info(self._key(name)).is_file

        return self._do("read", name, look)

    def entries(self) -> list[Entry]:
        from pyarrow.fs import FileSelector, FileType

        def look() -> list[Entry]:
            selector = FileSelector(self._key(), allow_not_found=True)
            return [
                Entry(
                    name=info.base_name,
                    is_folder=info.type == FileType.Directory,
                    modified=info.mtime.timestamp() if info.mtime else 0.0,
                )
                for info in self._system.get_file_info(selector)
            ]

        return sorted(self._do("list", "", look), key=lambda entry: entry.name)

    def delete(self, *names: str) -> None:
        def delete(name: str) -> None:
            with suppress(FileNotFoundError):
                self._system.delete_file(self._key(name))

        _in_parallel(lambda name: self._do("remove", name, lambda: delete(name)), names)

    def rename(self, old: str, new: str) -> bool:
        source, target = self._key(old), self._key(new)

        def move() -> bool:
            # To copy nothing is an error like any other, and not FileNotFoundError.
            is_there = self._system.get_file_info(source).is_file
            if is_there:
                self._system.move(source, target)
            return is_there

        return self._do("rename", old, move)

    def read_all(self, names: Iterable[str]) -> dict[str, bytes | None]:
        wanted = list(names)
        return dict(zip(wanted, _in_parallel(self.read, wanted), strict=True))

    @property
    def _system(self) -> "FileSystem":
        return _connect(self._parts.scheme, self._parts.netloc, self._parts.query)[0]

    def _key(self, name: str | None = None) -> str:
        """The path of a file within the file system."""
        _, root = _connect(self._parts.scheme, self._parts.netloc, self._parts.query)
        path = root.rstrip("/") + unquote(self._parts.path).rstrip("/")
        return path if name is None else f"{path}/{checked(name)}"

    def _do(self, verb: str, name: str, action: Callable[[], T]) -> T:
        try:
            return patiently(action, _is_passing)
        except OSError as error:
            where = self.path(name) if name else self.location
            why = " ".join(str(error).split())[:300]
            raise StorageError(
                f"cannot {verb} {where}: {why}; mend that, then resume: nothing is lost"
            ) from error


@cache
def _connect(scheme: str, netloc: str, query: str) -> tuple["FileSystem", str]:
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    if scheme == "s3" and "allow_delayed_open" not in query:
        # A small file is one request instead of three.
        query = "&".join(filter(None, (query, "allow_delayed_open=true")))
    uri = urlunsplit((scheme, netloc, "/" if scheme == "hdfs" else "", query, ""))
    try:
        system, root = FileSystem.from_uri(uri)
    except (ArrowException, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"cannot use {uri}: {why}; give a path, s3://… or gs://…") from None
    return system, root


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError) or not isinstance(error, OSError):
        return False
    return _LASTING.search(str(error)) is None


def _in_parallel(action: Callable[[str], T], names: Iterable[str]) -> list[T]:
    with ThreadPoolExecutor(_PARALLEL) as pool:
        return list(pool.map(action, names))
