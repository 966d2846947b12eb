"""Whatever dies, fails or is damaged: resumed, a run ends the same, and trains nothing twice.

The search is the real one over made-up trainings (see `quick_run`), so that it can die at every
single write. `benchmarks/faults.py` does the like to real trainings on a Ray cluster.
"""

import errno
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from object_store import ENVIRONMENT, ObjectStore, object_store
from quick_run import PART, drive, epochs_trained, quick_recipe, without_ray

import engine.local_folder
from engine.errors import UserError
from engine.folder import Folder
from engine.local_folder import LocalFolder
from engine.remote_folder import RemoteFolder
from engine.store import RunStore

pytestmark = [pytest.mark.faults, pytest.mark.slow]

RECIPE = quick_recipe()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that nothing happened to, and what came of it."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    result = drive(directory, RECIPE)
    assert set(epochs_trained(RunStore(directory)).values()) == {1}
    return directory, result


def finished(store: RunStore) -> set[str]:
    return {row.task.id for row in RunStore(store.location, read_only=True).ledger.rows()}


def check_epochs(store: RunStore, whole: Path, deaths: int) -> None:
    """Every epoch was trained, and each death repeated one at the most."""
    counts, expected = epochs_trained(store), epochs_trained(RunStore(whole))
    assert counts.keys() == expected.keys()
    assert sum(counts.values()) - len(counts) <= deaths


# Death ----------------------------------------------------------------------------------------


@contextmanager
def dying_at(operation: int, die: Callable[[], None], half_way: bool) -> Generator[None]:
    """Calls ``die`` in the n-th write or removal: when it is done, or before it is."""
    count = 0

    def dangerous(action: Callable[..., None]) -> Callable[..., None]:
        def act(*arguments: Any) -> None:
            nonlocal count
            count += 1
            if count >= operation and half_way:
                die()
            action(*arguments)
            if count >= operation:
                die()

        return act

    with (
        mock.patch.object(engine.local_folder, "_replace", dangerous(engine.local_folder._replace)),
        mock.patch.object(LocalFolder, "delete", dangerous(LocalFolder.delete)),
        mock.patch.object(RemoteFolder, "write", dangerous(RemoteFolder.write)),
        mock.patch.object(RemoteFolder, "delete", dangerous(RemoteFolder.delete)),
    ):
        yield


def killed_at(operation: int, half_way: bool, directory: Path) -> bool:
    """Drives the run in a process that kills itself; returns whether it came to its end before."""
    child = os.fork()
    if not child:
        try:
            with dying_at(operation, lambda: os.kill(os.getpid(), signal.SIGKILL), half_way):
                drive(directory, RECIPE)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == 0


def test_a_driver_that_is_killed_at_every_write_ends_the_same(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """SIGKILL after the fourth write of a driver or before its fifth.

    Its first is run.json, and a stage takes two: sooner, no driver would get anywhere.
    """
    store, deaths = RunStore(tmp_path / "run"), 0
    while True:
        done, before = finished(store), epochs_trained(store)
        ended = killed_at(5 if deaths % 2 else 4, bool(deaths % 2), tmp_path / "run")
        again = epochs_trained(store) - before
        assert not done & {task for task, _ in again}, "a finished training was trained again"
        if ended:
            break
        deaths += 1
    assert deaths >= 12
    assert drive(tmp_path / "run", RECIPE) == whole[1]
    check_epochs(store, whole[0], deaths)


class Died(BaseException):
    """Ends a driver in this process; it can do nothing any more."""


def die() -> None:
    raise Died


def test_a_driver_that_dies_over_an_object_store_ends_the_same(
    whole: tuple[Path, dict[str, Any]], server: ObjectStore, cache: Path
) -> None:
    location, deaths = server.uri(uuid.uuid4().hex), 0
    while True:
        try:
            with dying_at(9 + deaths % 3, die, half_way=bool(deaths % 2)):
                drive(location, RECIPE)
            break
        except Died:
            deaths += 1
            let_claims_expire(RunStore(location).folder)
    assert deaths >= 4
    assert drive(location, RECIPE) == whole[1]
    check_epochs(RunStore(location), whole[0], deaths)
    assert_no_secrets(RunStore(location).folder, cache)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as started:
        yield started


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def let_claims_expire(folder: Folder) -> None:
    """The process that made them lives on here, so nobody can take them for dead."""
    claims = folder / "lock"
    claims.delete(*(f"{name}.json" for name in claims.files(".json")))


def assert_no_secrets(folder: Folder, scratch: Path) -> None:
    kept = [path.read_bytes() for path in scratch.rglob("*") if path.is_file()]
    below = [folder, *(folder / entry.name for entry in folder.entries() if entry.is_folder)]
    for each in below:
        names = [entry.name for entry in each.entries() if not entry.is_folder]
        kept += [data for data in each.read_all(names).values() if data]
    assert len(kept) > 20
    for secret in (ENVIRONMENT["AWS_ACCESS_KEY_ID"], ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]):
        assert not any(secret.encode() in data for data in kept)


# Storage that fails ---------------------------------------------------------------------------


def test_a_full_disk_at_any_moment_is_one_line_and_loses_nothing(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    def fill() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    full = 0
    while True:
        try:
            with dying_at(5, fill, half_way=True):
                drive(tmp_path / "run", RECIPE)
            break
        except UserError as error:
            assert "no space left" in str(error)
            full += 1
        except OSError:  # a removal, which takes no space; as if the driver died in it
            full += 1
    assert full >= 10
    assert drive(tmp_path / "run", RECIPE) == whole[1]
    check_epochs(RunStore(tmp_path / "run"), whole[0], full)


# Damage ---------------------------------------------------------------------------------------

DAMAGES: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: b"",
    lambda data: data[: len(data) // 2],
    lambda data: b"\x80\x04\x95garbage\xff" * 9,
)
NEED_ROWS = ("baseline-*", "alpha-*", "sample-*", "train-*")


def test_any_damaged_file_is_done_again_and_no_more(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    source, result = whole
    files = [
        path.relative_to(source)
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.name != ".lock" and path.parent.name != "logs"
    ]
    assert len(files) >= 24
    for number, file in enumerate(files):
        run = tmp_path / str(number) / "run"
        shutil.copytree(source, run)
        if file.parts[0] in ("ledger", "studies"):  # and what was made of them is lost
            for pattern in NEED_ROWS:
                for stage in run.glob(pattern):
                    shutil.rmtree(stage)
        path = run / file
        path.write_bytes(DAMAGES[number % len(DAMAGES)](path.read_bytes()))
        before = epochs_trained(RunStore(run))
        assert drive(run, RECIPE) == result, file
        trained = {task for task, _ in epochs_trained(RunStore(run)) - before}
        match file.parts[0]:
            case "ledger":
                assert 1 <= len(trained) <= PART, file
            case "weights":
                assert trained <= {file.stem}, file
            case _:
                assert not trained, file


def test_what_stands_in_a_stage_cannot_lead_out_of_the_run(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Even an output with the right digest names no file elsewhere."""
    from hashlib import sha256

    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    (output,) = run.glob("train-*/output.json")
    old = output.read_bytes()
    evil = old.replace(b'"weights/', b'"../../weights/')
    assert evil != old
    output.write_bytes(evil)
    manifest = output.with_name("manifest.json")
    digests = (sha256(data).hexdigest().encode() for data in (old, evil))
    manifest.write_bytes(manifest.read_bytes().replace(*digests))
    with pytest.raises(UserError, match="is not the name of a file in a run"):
        drive(run, RECIPE)


# Two drivers ----------------------------------------------------------------------------------


def test_a_second_driver_is_refused_and_the_first_ends_the_same(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with RunStore(run).lock(), pytest.raises(UserError, match="another process drives"):
        drive(run, RECIPE)
    assert drive(run, RECIPE) == whole[1]


def test_the_runs_of_a_place_are_listed_with_their_state(
    whole: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engine.cli import main

    monkeypatch.setenv("COLUMNS", "200")
    for name in ("finished", "halted", "newer"):
        shutil.copytree(whole[0], tmp_path / name)
    for stage in (tmp_path / "halted").glob("fit-*"):
        shutil.rmtree(stage)
    (tmp_path / "newer" / "run.json").write_text('{"format": 99}')
    with without_ray(), RunStore(tmp_path / "finished").lock():
        main(["runs", "--runs-dir", str(tmp_path)])
        lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("finished") and " running " in line]
    assert [line for line in lines if line.startswith("halted") and "interrupted (fit)" in line]
    assert [line for line in lines if line.startswith("newer") and "newer hacscale" in line]
    assert lines[-1] == f"  hacscale resume {tmp_path / 'halted'}"
    main(["runs", "--runs-dir", str(tmp_path)])
    (line,) = (s for s in capsys.readouterr().out.splitlines() if s.startswith("finished"))
    assert line.split()[1:4] == ["complete", "10", "0"]
