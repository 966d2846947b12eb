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
import shlex
import socket
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from engine.codec import STRICT, canonical, decode, digest, pretty
from engine.errors import Unfinished, UserError
from engine.recipe import Recipe
from engine.rows import Row

T = TypeVar("T")

FORMAT = 1
"""Version of the layout. A program refuses a directory with a higher one."""

log = logging.getLogger("hacscale")

_TEMPORARY = ".tmp"


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file that is whole or absent, whatever happens meanwhile.

    Raises:
        UserError: no space, or no permission.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _storage_error(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _storage_error(error: OSError, path: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"no space left for {path}; free some, then resume: nothing is lost")
    return UserError(f"cannot write {path}: {error.strerror or error}; give another --runs-dir")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; mend that first") from None


def _put_aside(why: str, *paths: Path) -> None:
    """Renames the files of one thing that is damaged, as far as they are there."""
    for path in paths:
        try:
            path.replace(path.with_name(f"{path.name}.damaged"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _storage_error(error, path) from error
    log.warning("%s is damaged (%s): kept as *.damaged, and done again", paths[0], why)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A file of the ledger; the digest tells a row that was changed from one that was written."""

    __pydantic_config__ = STRICT

    digest: str
    row: Row


@dataclass(frozen=True, slots=True)
class Ledger:
    """The finished trainings of a run, one file each, by task id.

    Attributes:
        read_only: whether a damaged row stays where it is; it counts as missing in any case.
    """

    directory: Path
    read_only: bool = False

    def find(self, task_id: str) -> Row | None:
        """Returns the row of a task, None if it is not finished."""
        path = self.directory / f"{task_id}.json"
        data = _read(path)
        if data is None:
            return None
        try:
            entry = decode(_Entry, data, path.name)
            if digest(entry.row) != entry.digest:
                raise UserError("the row is not the one that was written")
            if entry.row.task.id != task_id:
                raise UserError("it holds another row")
        except UserError as error:
            if not self.read_only:
                _put_aside(str(error), path)
            return None
        return entry.row

    def add(self, row: Row) -> None:
        """Adds a finished row. A row that is there stands: the same task gives the same row."""
        path = self.directory / f"{row.task.id}.json"
        if not path.exists():
            write_atomic(path, canonical(_Entry(digest=digest(row), row=row)))

    def rows(self) -> Iterator[Row]:
        """All rows."""
        for path in sorted(self.directory.glob("*.json")):
            row = self.find(path.stem)
            if row is not None:
                yield row


class RunStore:
    """One run directory.

    Args:
        directory: of the run.
        read_only: whether a stage that is not complete is an error instead of work to do.
    """

    def __init__(self, directory: Path, read_only: bool = False) -> None:
        # Absolute, because Ray Train's workers have working directories of their own.
        self.directory = directory = directory.absolute()
        self.read_only = read_only
        self.ledger = Ledger(directory / "ledger", read_only)
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
        self._refuse_newer(data)
        try:
            return decode(RunInfo, data, str(path))
        except UserError as error:
            raise UserError(
                f"{error}; repeat `hacscale run RECIPE --name {self.directory.name} --runs-dir "
                f"{shlex.quote(str(self.directory.parent))}`: finished work is kept"
            ) from None

    def write_info(self, info: RunInfo) -> None:
        """Writes ``run.json``.

        Raises:
            UserError: a newer version has written there, or it cannot be written.
        """
        path = self.directory / "run.json"
        data = _read(path)
        if data is not None:
            self._refuse_newer(data)
            try:
                decode(RunInfo, data, path.name)
            except UserError as error:
                _put_aside(str(error), path)
        write_atomic(path, pretty(info))

    def _refuse_newer(self, data: bytes) -> None:
        try:
            found = decode(_Format, data, "run.json").format
        except UserError:  # damaged, and so of no version
            return
        if found > FORMAT:
            raise UserError(
                f"{self.directory} was written by a newer hacscale (format {found}, this one "
                f"knows {FORMAT}); update hacscale"
            )

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
        except NotImplementedError as error:
            raise UserError(
                f"cannot lock {self.directory}: {error}; give a --runs-dir on another file system"
            ) from error
        except OSError as error:
            raise _storage_error(error, self.directory) from error
        try:
            self._remove_temporaries()
            yield
        finally:
            lock.release()

    def _remove_temporaries(self) -> None:
        """Removes what writers left that were killed."""
        for pattern in (f".*{_TEMPORARY}", f"*/.*{_TEMPORARY}"):
            for path in self.directory.glob(pattern):
                with suppress(OSError):
                    path.unlink()

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
            Unfinished: the store is read-only and the stage not complete.
            UserError: the output cannot be written.
        """
        directory = self._stage_directory(name, uses)
        known = self._committed(directory, kind)
        if known is not None:
            return known
        if self.read_only:
            raise Unfinished(
                f"the {name} stage of {self.directory} is not complete; "
                f"`hacscale resume {shlex.quote(str(self.directory))}` goes on with it",
                stage=name,
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
        return (self._stage_directory(name, uses) / "manifest.json").exists()

    def _stage_directory(self, name: str, uses: object) -> Path:
        return self.directory / f"{name}-{digest([FORMAT, name, uses])}"

    def forget_failures(self, stages: Iterable[str]) -> None:
        """Removes failed rows, so that they are tried again.

        Args:
            stages: those that are complete in spite of failed rows; they are open again.
        """
        failed = [row for row in self.ledger.rows() if row.status == "failed"]
        opened = [
            path for name in stages for path in self.directory.glob(f"{name}-*/manifest.json")
        ]
        try:
            for path in opened if failed else ():
                path.unlink(missing_ok=True)
            for row in failed:
                (self.ledger.directory / f"{row.task.id}.json").unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(error, self.directory) from error

    def committed_stages(self) -> list[str]:
        """Names of the stages that are complete, for some recipe."""
        found = self.directory.glob("*-*/manifest.json")
        return sorted({path.parent.name.rpartition("-")[0] for path in found})

    def _committed(self, directory: Path, kind: type[T]) -> T | None:
        paths = [directory / "manifest.json", directory / "output.json"]
        data, output = map(_read, paths)
        if data is None:
            return None
        try:
            manifest = decode(_Manifest, data, "manifest.json")
            if manifest.key != directory.name:
                raise UserError("manifest.json is that of another stage")
            if output is None or manifest.sha256 != hashlib.sha256(output).hexdigest():
                raise UserError("output.json is not the one that was committed")
            return decode(kind, output, "output.json")
        except UserError as error:
            if not self.read_only:
                _put_aside(str(error), *paths)
            return None


@dataclass(frozen=True, slots=True)
class _Format:
    """The one field of ``run.json`` that every version can read."""

    format: int
