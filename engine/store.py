"""A run directory: the truth of a run. Whatever executes it only reads and adds.

    run.json                     recipe, versions, hardware
    ledger/TASK.json             one finished training
    STAGE-KEY/output.json        what a stage came to
    STAGE-KEY/manifest.json      written last: with it the stage is complete, and then immutable
    checkpoints/TASK.pt          the last epoch of a training that is not finished
    weights/TASK.safetensors     weights of the baseline and of the result
    logs/                        what Ray and the workers have to say

Every file is written under another name and renamed, so it is whole or absent. Readers trust
nothing: a file that is damaged all the same is put aside and its work done again.
"""

import errno
import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from engine.codec import STRICT, canonical, decode, digest, pretty
from engine.errors import UserError
from engine.recipe import Recipe
from engine.rows import Row

T = TypeVar("T")

FORMAT = 1
"""Version of the layout. A program refuses a directory with a higher one."""

log = logging.getLogger("hacscale")


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file that is whole or absent, and on the disk when this returns.

    Raises:
        UserError: no space, or no permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _storage_error(error, path) from error


def _storage_error(error: OSError, path: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"no space left for {path}; free some, then resume: nothing is lost")
    return UserError(f"cannot write {path}: {error.strerror}; give another --runs-dir")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _put_aside(path: Path, why: str) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    log.warning("%s is damaged (%s); kept as %s and done again", path, why, aside.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """``run.json``.

    Attributes:
        format: version of the directory's layout.
        versions: of this program and the libraries that matter.
        hardware: of the machine that drove the run last.
        git: revision of the working directory, empty outside of one.
    """

    __pydantic_config__ = STRICT

    format: int
    name: str
    recipe_name: str
    recipe: Recipe
    versions: dict[str, str]
    hardware: dict[str, str]
    git: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    __pydantic_config__ = STRICT

    stage: str
    key: str
    sha256: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """The finished trainings of a run, one file each, by task id."""

    directory: Path

    def find(self, task_id: str) -> Row | None:
        """Returns the row of a task, None if it is not finished."""
        path = self.directory / f"{task_id}.json"
        data = _read(path)
        if data is None:
            return None
        try:
            row = decode(Row, data, path.name)
        except UserError as error:
            _put_aside(path, str(error))
            return None
        if row.task.id != task_id:
            _put_aside(path, "it holds another row")
            return None
        return row

    def add(self, row: Row) -> None:
        """Adds a finished row. A row that is there stands: the same task gives the same row."""
        path = self.directory / f"{row.task.id}.json"
        if not path.exists():
            write_atomic(path, canonical(row))

    def rows(self) -> Iterator[Row]:
        """All rows."""
        for path in sorted(self.directory.glob("*.json")):
            row = self.find(path.stem)
            if row is not None:
                yield row

    def forget_failures(self) -> int:
        """Removes failed rows so that they are tried again, and returns how many there were."""
        failed = [row for row in self.rows() if row.status == "failed"]
        for row in failed:
            (self.directory / f"{row.task.id}.json").unlink()
        return len(failed)


class RunStore:
    """One run directory.

    Args:
        directory: of the run.
        read_only: whether a stage that is not complete is an error instead of work to do.
    """

    def __init__(self, directory: Path, read_only: bool = False) -> None:
        self.directory = directory
        self._read_only = read_only
        self.ledger = Ledger(directory / "ledger")
        self.checkpoints = directory / "checkpoints"
        self.weights = directory / "weights"
        self.logs = directory / "logs"

    def info(self) -> RunInfo:
        """Reads ``run.json``.

        Raises:
            UserError: no run there, a newer format, or a damaged file.
        """
        path = self.directory / "run.json"
        data = _read(path)
        if data is None:
            raise UserError(f"there is no run at {self.directory}; see `hacscale run --help`")
        newest = decode(_Format, data, str(path)).format
        if newest > FORMAT:
            raise UserError(
                f"{self.directory} was written by a newer hacscale (format {newest}, this one "
                f"knows {FORMAT}); update hacscale"
            )
        return decode(RunInfo, data, str(path))

    def write_info(self, info: RunInfo) -> None:
        """Writes ``run.json``."""
        write_atomic(self.directory / "run.json", pretty(info))

    @contextmanager
    def lock(self) -> Generator[None]:
        """Holds the run for one driver. The lock of a driver that died is free.

        Raises:
            UserError: another driver holds it, or the directory cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.directory / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another process drives the run {self.directory}; wait for it, stop it, or "
                "give another --name"
            ) from None
        except OSError as error:
            raise _storage_error(error, self.directory) from error
        try:
            yield
        finally:
            lock.release()

    def record_epoch(self, task_id: str, epoch: int) -> None:
        """Notes in ``logs/epochs.log`` that a worker has trained one epoch of a task.

        The file shows what work was done and whether any was done twice; nothing depends on it.
        """
        line = f"{time.time():.3f} {socket.gethostname()} {os.getpid()} {task_id} {epoch}\n"
        path = self.logs / "epochs.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(line)
        except OSError as error:
            raise _storage_error(error, path) from error

    def epochs_of(self, task_id: str) -> int:
        """Returns the last epoch of a task that was noted, 0 if there is none."""
        lines = (_read(self.logs / "epochs.log") or b"").decode(errors="replace").splitlines()
        epochs = [line.split()[-1] for line in lines if f" {task_id} " in line]
        return int(epochs[-1]) if epochs and epochs[-1].isdigit() else 0

    def stage(self, name: str, kind: type[T], uses: object, run: Callable[[], T]) -> T:
        """Returns what a stage came to, and runs it only if that is not known yet.

        Args:
            name: of the stage.
            kind: type of its output.
            uses: everything its output depends on; equal ``uses`` have equal outputs.
            run: computes the output.

        Raises:
            UserError: the store is read-only and the stage not complete.
        """
        directory = self.directory / f"{name}-{digest([name, uses])}"
        known = self._committed(directory, kind)
        if known is not None:
            return known
        if self._read_only:
            raise UserError(
                f"the {name} stage of {self.directory} is not complete; "
                f"`hacscale resume {self.directory}` goes on with it"
            )
        began = time.monotonic()
        output = run()
        data = pretty(output)
        write_atomic(directory / "output.json", data)
        manifest = _Manifest(
            stage=name,
            key=directory.name,
            sha256=hashlib.sha256(data).hexdigest(),
            seconds=time.monotonic() - began,
        )
        write_atomic(directory / "manifest.json", pretty(manifest))
        return output

    def is_committed(self, name: str, uses: object) -> bool:
        """Whether a stage is complete for these ``uses``."""
        return (self.directory / f"{name}-{digest([name, uses])}" / "manifest.json").exists()

    def committed_stages(self) -> list[str]:
        """Names of the stages that are complete, for some recipe."""
        found = self.directory.glob("*-*/manifest.json")
        return sorted({path.parent.name.rpartition("-")[0] for path in found})

    def _committed(self, directory: Path, kind: type[T]) -> T | None:
        path = directory / "manifest.json"
        data = _read(path)
        if data is None:
            return None
        output = _read(directory / "output.json") or b""
        try:
            manifest = decode(_Manifest, data, path.name)
            if manifest.sha256 != hashlib.sha256(output).hexdigest():
                raise UserError("output.json is not the one that was committed")
            return decode(kind, output, "output.json")
        except UserError as error:
            _put_aside(path, str(error))
            return None


@dataclass(frozen=True, slots=True)
class _Format:
    """The one field of ``run.json`` that every version can read."""

    format: int
