"""A run: the truth of it. Whatever executes it only reads and adds.

    run.json                     recipe, versions, hardware
    ledger/…                     the finished trainings; see `engine.ledger`
    STAGE-KEY/output.json        what a stage came to
    STAGE-KEY/manifest.json      written last: with it the stage is complete, and then immutable
    checkpoints/TASK.pt          the last epoch of a training that is not finished
    weights/TASK.safetensors     weights of the baseline, the result, and what others start from
    result.json, report.html     what the run has found; export/ has its network
    budgets.json                 what answers for other limits
    comparison.*, comparison/, fidelity.json     what those commands have found
    measured/NETWORK.json        what rivals measured
    measure/                     plans for a device elsewhere, and what it measured
    lock/, .lock                 of the driver
    *.damaged                    see below
    logs/, studies/              scratch: what Ray and the workers have to say, Optuna's journal

A run is kept in a folder on a file system or in an object store; see `engine.storage`. Every file
is whole or absent. Readers trust nothing: a file that is damaged all the same is put aside and its
work done again. Scratch is never read for a result; it stays on a local disk.
"""

import hashlib
import json
import os
import shlex
import time
from collections.abc import Callable, Generator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from engine.codec import STRICT, decode, digest, pretty
from engine.epoch_log import EpochLog
from engine.errors import Unfinished, UserError
from engine.lease import driver_of, lease
from engine.ledger import Ledger
from engine.local_folder import LocalFolder, storage_error
from engine.recipe import Recipe
from engine.storage import open_folder

T = TypeVar("T")

_LOCK = ".lock"

FORMAT = 2
"""Version of the layout. A program refuses a directory with a higher one."""


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


class RunStore:
    """One run. It travels to workers as its location.

    Args:
        location: directory of the run, or its URI.
        read_only: whether a stage that is not complete is an error instead of work to do.

    Attributes:
        folder: of the run.
        scratch: local directory for what need not last: the run's own if it is local.

    Raises:
        UserError: the URI cannot be used.
    """

    def __init__(self, location: Path | str, read_only: bool = False) -> None:
        self.folder = folder = open_folder(location)
        self.read_only = read_only
        self.ledger = Ledger(folder / "ledger", read_only)
        self.checkpoints = folder / "checkpoints"
        self.weights = folder / "weights"
        local = isinstance(folder, LocalFolder)
        self.scratch = folder.directory if local else _scratch(folder.location)
        self.logs = self.scratch / "logs"
        self.epochs = EpochLog(self.logs / "epochs.log")

    def __reduce__(self) -> tuple[Any, ...]:
        return RunStore, (self.location, self.read_only)

    @property
    def location(self) -> str:
        """Absolute path or URI."""
        return self.folder.location

    def info(self) -> RunInfo:
        """Reads ``run.json``.

        Raises:
            UserError: no run there, a newer format, or a damaged file.
        """
        data = self.folder.read("run.json")
        if data is None:
            raise UserError(f"there is no run at {self.location}; see `hacscale run --help`")
        self._refuse_newer(data)
        try:
            return decode(RunInfo, data, self.folder.path("run.json"))
        except UserError as error:
            raise UserError(
                f"{error}; repeat `hacscale run RECIPE --name {self.folder.name} --runs-dir "
                f"{shlex.quote(self.folder.parent)}`: finished work is kept"
            ) from None

    def check_format(self) -> None:
        """Raises a UserError if a newer version has written here."""
        data = self.folder.read("run.json")
        if data is not None:
            self._refuse_newer(data)

    def write_info(self, info: RunInfo) -> None:
        """Writes ``run.json``.

        Raises:
            UserError: a newer version has written there, or it cannot be written.
        """
        data = self.folder.read("run.json")
        if data is not None:
            self._refuse_newer(data)
            try:
                decode(RunInfo, data, "run.json")
            except UserError as error:
                self.folder.set_aside(str(error), "run.json")
        self.folder.write("run.json", pretty(info))

    def _refuse_newer(self, data: bytes) -> None:
        try:
            found = decode(_Format, data, "run.json").format
        except UserError:  # damaged, and so of no version
            return
        if found > FORMAT:
            raise UserError(
                f"{self.location} was written by a newer hacscale (format {found}, this one "
                f"knows {FORMAT}); update hacscale"
            )

    @contextmanager
    def lock(self) -> Generator[None]:
        """Holds the run for one driver. The lock of a driver that died is free.

        On a file system it is the kernel's lock, which ends with the process; over NFS it holds
        for all machines, as far as the server has locks. In an object store it is a `lease`.

        Raises:
            UserError: another driver holds it, or the run cannot be written.
        """
        if isinstance(self.folder, LocalFolder):
            with _locked(self.folder.directory):
                self.folder.remove_temporaries()
                yield
        else:
            with lease(self.folder / "lock"):
                yield

    def driver(self) -> str | None:
        """Returns who drives the run at the moment, None if nobody does."""
        if not isinstance(self.folder, LocalFolder):
            return driver_of(self.folder / "lock")
        path = self.folder.directory / _LOCK
        try:
            if path.exists():
                with FileLock(path, timeout=0):
                    pass
        except Timeout:
            return "a process"
        except (OSError, NotImplementedError):  # not ours to write to, or without locks
            return None
        return None

    def last_activity(self) -> float:
        """Returns when the run last kept something, in seconds since 1970."""
        folders = (self.folder, self.ledger.folder, self.checkpoints)
        entries = [entry for folder in folders for entry in folder.entries()]
        return max((e.modified for e in entries if not e.name.startswith(".")), default=0.0)

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
        stage = _stage_name(name, uses)
        known = self._committed(stage, kind)
        if known is not None:
            return known
        if self.read_only:
            raise Unfinished(
                f"the {name} stage of {self.location} is not complete; "
                f"`hacscale resume {shlex.quote(self.location)}` goes on with it",
                stage=name,
            )
        began = time.monotonic()
        output = run()
        data = pretty(output)
        self.folder.write(f"{stage}/output.json", data)
        manifest = _Manifest(
            stage=name,
            key=stage,
            sha256=hashlib.sha256(data).hexdigest(),
            seconds=time.monotonic() - began,
        )
        self.folder.write(f"{stage}/manifest.json", pretty(manifest))
        return output

    def is_committed(self, name: str, uses: object) -> bool:
        """Whether a stage is complete for these ``uses``."""
        return self.folder.exists(f"{_stage_name(name, uses)}/manifest.json")

    def forget(self, name: str, uses: object) -> None:
        """Opens a stage again: what it came to is no longer there."""
        self.folder.delete(f"{_stage_name(name, uses)}/manifest.json")

    def forget_failures(self, lacks: Callable[[str, Any, Set[str]], bool]) -> None:
        """Removes failed rows, so that they are tried again.

        Args:
            lacks: whether a stage, told its name, its output as JSON and the failed rows, came to
                less because of them. Such stages are open again; all others stand.
        """
        failed = {row.task.id for row in self.ledger.rows() if row.status == "failed"}
        if failed:
            opened = [
                stage
                for stage in self._committed_keys()
                if (output := self._tree(f"{stage}/output.json")) is not None
                and lacks(stage.rpartition("-")[0], output, failed)
            ]
            self.folder.delete(*(f"{stage}/manifest.json" for stage in opened))
            self.ledger.discard(failed)

    def _tree(self, name: str) -> Any:
        """A file as JSON; None where it is lost or damaged, which the stage's next reader mends."""
        with suppress(ValueError):
            return json.loads(self.folder.read(name) or b"")
        return None

    def remove_spent_checkpoints(self) -> None:
        """Removes what a driver left that died between a row and the end of its checkpoint.

        A failed row keeps its checkpoint, from which it may be tried again.
        """
        for task_id in self.checkpoints.files(".pt"):
            row = self.ledger.find(task_id)
            if row is not None and row.status != "failed":
                self.checkpoints.delete(f"{task_id}.pt")

    def committed_stages(self) -> list[str]:
        """Names of the stages that are complete, for some recipe."""
        return sorted({stage.rpartition("-")[0] for stage in self._committed_keys()})

    def _committed_keys(self) -> list[str]:
        """Names with their keys of the stages that are complete."""
        found = [entry.name for entry in self.folder.entries() if entry.is_folder]
        return [
            stage
            for stage in found
            if "-" in stage and self.folder.exists(f"{stage}/manifest.json")
        ]

    def _committed(self, stage: str, kind: type[T]) -> T | None:
        names = f"{stage}/manifest.json", f"{stage}/output.json"
        data, output = (self.folder.read(name) for name in names)
        if data is None:
            return None
        try:
            manifest = decode(_Manifest, data, "manifest.json")
            if manifest.key != stage:
                raise UserError("manifest.json is that of another stage")
            if output is None or manifest.sha256 != hashlib.sha256(output).hexdigest():
                raise UserError("output.json is not the one that was committed")
            return decode(kind, output, "output.json")
        except UserError as error:
            if not self.read_only:
                self.folder.set_aside(str(error), *names)
            return None


def _stage_name(name: str, uses: object) -> str:
    return f"{name}-{digest([FORMAT, name, uses])}"


def _scratch(location: str) -> Path:
    """The place on this machine for the scratch of a run that is kept elsewhere."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hacscale" / digest(location)


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / _LOCK)
        # A moment, because whoever asks for the driver holds the lock meanwhile.
        lock.acquire(timeout=1)
    except Timeout:
        raise UserError(
            f"another process drives the run {directory}; wait for it, stop it, or "
            "give another --name"
        ) from None
    except NotImplementedError as error:
        raise UserError(
            f"cannot lock {directory}: {error}; give a --runs-dir on another file system"
        ) from error
    except OSError as error:
        raise storage_error(error, directory) from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class _Format:
    """The one field of ``run.json`` that every version can read."""

    format: int
