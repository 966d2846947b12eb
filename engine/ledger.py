"""The finished trainings of a run: one file each at first, and Parquet files of many later.

    TASK.json            one row, written by the worker that trained it
    part-DIGEST.parquet  many rows, moved there by the driver: id, row, and a digest of both

A part is written, for good, before the files of its rows are removed. Whoever dies in between
leaves rows that are there twice, which does no harm.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

from engine.codec import STRICT, canonical, decode, digest
from engine.errors import UserError
from engine.folder import Folder
from engine.rows import Row

log = logging.getLogger("hacscale")

MANY = 128
"""So many rows in files of their own are worth a part. Of 10,000 rows, a driver that goes on then
asks an object store for some 200 files at the most, about the fewest that any such number gives."""

SEEN_SECONDS = 60.0
"""A file that was written on another machine is seen by then: the default of NFS."""

_LISTINGS = 5
_COLUMNS = ("id", "digest", "row")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A file of one row; the digest tells a row that was changed from one that was written."""

    __pydantic_config__ = STRICT

    digest: str
    row: Row


class Ledger:
    """The rows of a run by task id. What was read once is remembered and not read again.

    Many processes may add rows. Only the driver, which holds the run's lock, compacts them or
    takes rows away.

    Args:
        folder: of the ledger.
        read_only: whether a damaged file stays where it is; its rows count as missing in any case.
    """

    def __init__(self, folder: Folder, read_only: bool = False) -> None:
        self.folder = folder
        self.read_only = read_only
        self._rows: dict[str, Row] = {}
        # Of the parts: thousands, of which few are ever asked for.
        self._texts: dict[str, str] = {}
        self._loose: set[str] = set()
        self._parts: set[str] = set()
        self._opened = False

    def find(self, task_id: str) -> Row | None:
        """Returns the row of a task, None if it is not finished."""
        if not self._opened:
            self.refresh()
        row = self.seen(task_id)
        if row is None:
            self._accept(task_id, self.folder.read(f"{task_id}.json"))
        return self._rows.get(task_id)

    def await_row(self, task_id: str) -> Row | None:
        """Returns the row that another machine has just written, None if it is not seen in time.

        A network file system may say for a while that a file is not there that was asked for before
        it was (nfs(5), lookupcache).
        """
        until = time.monotonic() + SEEN_SECONDS
        while (row := self.find(task_id)) is None and time.monotonic() < until:
            time.sleep(1.0)
        return row

    def seen(self, task_id: str) -> Row | None:
        """Returns the row of a task as far as this process has read it, which takes no time."""
        if not self._opened:
            self.refresh()
        text = self._texts.pop(task_id, None)
        if text is not None:
            try:
                self._rows[task_id] = decode(Row, text, f"the row of {task_id}")
            except UserError as error:
                # Whole, but of another version of the program: as if it were missing.
                log.warning("%s; its task is to be done again", error)
        return self._rows.get(task_id)

    def ids(self) -> set[str]:
        """The tasks of all rows."""
        self.refresh()
        return self._known

    @property
    def _known(self) -> set[str]:
        return self._rows.keys() | self._texts.keys()

    def add(self, row: Row) -> None:
        """Adds a finished row. A row that is there stands: the same task gives the same row."""
        name = f"{row.task.id}.json"
        if not self.folder.exists(name):
            self.folder.write(name, canonical(_Entry(digest=digest(row), row=row)))

    def rows(self) -> Iterator[Row]:
        """All rows."""
        for task_id in sorted(self.ids()):
            row = self.seen(task_id)
            if row is not None:
                yield row

    def refresh(self) -> None:
        """Reads what has come since the last time."""
        self._opened = True
        for _ in range(_LISTINGS):
            names = [entry.name for entry in self.folder.entries() if not entry.is_folder]
            self._read_parts(name for name in names if name.endswith(".parquet"))
            ids = [name.removesuffix(".json") for name in names if name.endswith(".json")]
            known = self._known
            fresh = [f"{i}.json" for i in ids if i not in known and not i.startswith(".")]
            found = self.folder.read_all(fresh)
            for name, data in found.items():
                self._accept(name.removesuffix(".json"), data)
            # A row that is gone since it was listed is in a part that was not there yet.
            if None not in found.values():
                return

    def compact(self, at_least: int = MANY) -> None:
        """Moves the rows that lie in files of their own into a part, if they are many."""
        if len(self._loose) < at_least:
            return
        ids = sorted(self._loose)
        self._parts.add(self._write_part(ids))
        self.folder.delete(*(f"{task_id}.json" for task_id in ids))
        self._loose.clear()

    def discard(self, ids: Iterable[str]) -> None:
        """Takes rows away, so that their tasks are to be done."""
        self.refresh()
        for task_id in ids:
            self._rows.pop(task_id, None)
            self._texts.pop(task_id, None)
            self._loose.discard(task_id)
            self.folder.delete(f"{task_id}.json")
        if self._parts:
            new = {self._write_part(sorted(self._known))}
            self.folder.delete(*(self._parts - new), *(f"{i}.json" for i in self._loose))
            self._parts = new
            self._loose.clear()

    def _write_part(self, ids: list[str]) -> str:
        import pyarrow
        from pyarrow import parquet

        rows = [self._texts.get(i) or canonical(self._rows[i]).decode() for i in ids]
        digests = [_seal(task_id, row) for task_id, row in zip(ids, rows, strict=True)]
        buffer = BytesIO()
        table = pyarrow.table(dict(zip(_COLUMNS, (ids, digests, rows), strict=True)))
        parquet.write_table(table, buffer)
        name = f"part-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.parquet"
        self.folder.write(name, buffer.getvalue())
        return name

    def _read_parts(self, names: Iterable[str]) -> None:
        for name, data in self.folder.read_all(n for n in names if n not in self._parts).items():
            if data is None:
                continue
            try:
                good, bad = _rows_of(data)
                why = f"{bad} of its rows are not those that were written"
            except UserError as error:
                good, bad, why = {}, 1, str(error)
            self._texts |= {i: text for i, text in good.items() if i not in self._rows}
            self._parts.add(name)
            if bad and not self.read_only:
                if good:
                    self._loose |= good.keys()
                    self.compact(at_least=1)
                self.folder.set_aside(why, name)
                self._parts.discard(name)

    def _accept(self, task_id: str, data: bytes | None) -> None:
        if data is None:
            return
        name = f"{task_id}.json"
        try:
            entry = decode(_Entry, data, name)
            if digest(entry.row) != entry.digest:
                raise UserError("the row is not the one that was written")
            if entry.row.task.id != task_id:
                raise UserError("it holds another row")
        except UserError as error:
            if not self.read_only:
                self.folder.set_aside(str(error), name)
            return
        self._rows[task_id] = entry.row
        self._loose.add(task_id)


def _rows_of(data: bytes) -> tuple[dict[str, str], int]:
    """Returns the rows of a part as they were written, and how many are damaged.

    Raises:
        UserError: it is no part.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(pyarrow.BufferReader(data), columns=list(_COLUMNS))
        ids, digests, rows = (table[column].to_pylist() for column in _COLUMNS)
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(" ".join(str(error).split())[:200]) from None
    good = {
        task_id: text
        for task_id, expected, text in zip(ids, digests, rows, strict=True)
        if _seal(task_id, text) == expected
    }
    return good, len(ids) - len(good)


def _seal(task_id: str, row: str) -> str:
    return hashlib.sha256(f"{task_id} {row}".encode()).hexdigest()[:16]
