"""Whatever dies, fails or is damaged: resumed, a run ends the same, and trains nothing twice.

The search is the real one over made-up trainings (see `quick_run`), so that it can die at every
single write. `benchmarks/faults.py` does the like to real trainings on a Ray cluster.
"""

import errno
import os
import re
import shutil
import signal
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moments import Moments, Once, only_at, told
from object_store import ENVIRONMENT, ObjectStore, object_store
from quick_run import PART, drive, epochs_trained, quick_recipe, without_ray

from cluster.driver import read_run
from engine.errors import UserError
from engine.export import export_run
from engine.folder import Folder
from engine.recipe import override
from engine.store import RunStore

pytestmark = [pytest.mark.faults, pytest.mark.slow]

STAGES = (
    *("data", "baseline", "profile", "alpha", "sample", "fit", "allocate"),
    *("propose-uniform-alpha", "propose-inverse-width", "propose-response"),
    "propose",  # what they lack, measured together
    *("choose", "train", "measure"),
)

RECIPE = quick_recipe()

Whole = tuple[Path, dict[str, Any]]
"""A run that nothing happened to, and what came of it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that nothing happened to, and what came of it."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    result = drive(directory, RECIPE)
    assert set(epochs_trained(RunStore(directory)).values()) == {1}
    return directory, result


def finished(store: RunStore) -> set[str]:
    return {row.task.id for row in RunStore(store.location, read_only=True).ledger.rows()}


def temporaries(run: Path) -> list[Path]:
    return list(run.rglob(".*.tmp"))


def check_ends_the_same(location: Path | str, whole: Whole, deaths: int) -> None:
    """Once more to the end: the same result, little work repeated, nothing left behind."""
    assert drive(location, RECIPE) == whole[1]
    store = RunStore(location)
    check_epochs(store, whole[0], deaths)
    below = [store.folder, *(store.folder / e.name for e in store.folder.entries() if e.is_folder)]
    assert not [e for each in below for e in each.entries() if e.name.endswith(".damaged")]
    assert not store.checkpoints.entries()
    assert not temporaries(store.scratch)


def check_epochs(store: RunStore, whole: Path, deaths: int) -> None:
    """Every epoch was trained, and each death repeated one at the most."""
    counts, expected = epochs_trained(store), epochs_trained(RunStore(whole))
    assert counts.keys() == expected.keys()
    assert sum(counts.values()) - len(counts) <= deaths


# Death ----------------------------------------------------------------------------------------


def exit_code(drive_in_child: Callable[[], object]) -> int:
    """Of a child that begins with all that this process has imported."""
    child = os.fork()
    if not child:
        try:
            drive_in_child()
            os._exit(0)
        except UserError as error:
            print(error, flush=True)
            os._exit(2)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(moment: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_driver_that_is_killed_at_every_moment_ends_the_same(
    whole: Whole, tmp_path: Path
) -> None:
    """SIGKILL in and after every kind of write and removal of every stage, in one run."""
    run, moments = tmp_path / "run", Moments(tmp_path / "moments", die)
    store, deaths = RunStore(run), 0

    def drive_on() -> None:
        with told(moments):
            drive(run, RECIPE)

    while True:
        done, before = finished(store), epochs_trained(store)
        code = exit_code(drive_on)
        again = epochs_trained(store) - before
        assert not done & {task for task, _ in again}, "a finished training was trained again"
        if code == 0:
            break
        assert code == -signal.SIGKILL
        deaths += 1
    assert deaths == len(moments.seen) == len(set(moments.seen)) >= 20
    assert {moment.partition(":")[0] for moment in moments.seen} == set(STAGES)
    check_ends_the_same(run, whole, deaths)


class Died(BaseException):
    """Ends a driver in this process."""


def test_a_driver_that_dies_over_an_object_store_ends_the_same(
    whole: Whole, server: ObjectStore, cache: Path, tmp_path: Path
) -> None:
    """In this process, which the server is in; so claims are of a living one, and are taken away.

    Every fifth kind of moment: a run takes longer there.
    """
    location, deaths, dead = server.uri(uuid.uuid4().hex), 0, False

    def die(moment: str) -> None:
        nonlocal dead
        if len(moments.seen) % 5 == 0:
            dead = True
            raise Died

    moments = Moments(tmp_path / "moments", die)

    def tell(moment: str) -> None:
        if dead:  # the dead do nothing
            raise Died
        moments(moment)

    while True:
        dead = False
        try:
            with told(tell):
                drive(location, RECIPE)
            break
        except Died:
            deaths += 1
            let_claims_expire(RunStore(location).folder)
    assert deaths == len(moments.seen) // 5 >= 8
    check_ends_the_same(location, whole, deaths)
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
    whole: Whole, tmp_path: Path
) -> None:
    run, full, is_full = tmp_path / "run", 0, False

    def fill(moment: str) -> None:
        nonlocal is_full
        is_full = True

    moments = Moments(tmp_path / "moments", fill)

    def tell(moment: str) -> None:
        if " write " in moment and moment.endswith("under way"):
            moments(moment)
            if is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    while True:
        is_full = False
        try:
            with told(tell):
                drive(run, RECIPE)
            break
        except UserError as error:
            assert re.fullmatch("no space left for .*; free some, then resume.*", str(error))
            full += 1
            assert not temporaries(run)
    assert full == len(moments.seen) >= 20
    check_ends_the_same(run, whole, full)


# Damage ---------------------------------------------------------------------------------------

DAMAGES: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: b"",
    lambda data: data[: len(data) // 2],
    lambda data: b"\x80\x04\x95garbage\xff" * 9,
)
NEED_ROWS = ("baseline-*", "alpha-*", "sample-*", "choose-*", "train-*")


def test_any_damaged_file_is_done_again_and_no_more(whole: Whole, tmp_path: Path) -> None:
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


def test_what_stands_in_a_stage_cannot_lead_out_of_the_run(whole: Whole, tmp_path: Path) -> None:
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
        export_run(read_run(run), run, tmp_path / "out")


def test_a_training_with_a_damaged_checkpoint_begins_again_alone(
    whole: Whole, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with (
        told(only_at("sample: write checkpoints/*.pt, done", stop)),
        pytest.raises(KeyboardInterrupt),
    ):
        drive(run, RECIPE)
    (checkpoint,) = (run / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-20])
    check_ends_the_same(run, whole, 1)
    twice = [task for task, count in epochs_trained(RunStore(run)).items() if count > 1]
    assert twice == [(checkpoint.stem, 1)]


def stop() -> None:
    raise KeyboardInterrupt


def test_a_run_goes_on_with_other_resources(whole: Whole, tmp_path: Path) -> None:
    other = override(
        RECIPE, ["cluster.cpus_per_trial=2", "cluster.final_workers=1", "cluster.retries=0"]
    )
    with (
        told(only_at("sample: write checkpoints/*.pt, done", stop)),
        pytest.raises(KeyboardInterrupt),
    ):
        drive(tmp_path / "run", RECIPE)
    result = drive(tmp_path / "run", other)
    assert result.pop("recipe_key") != whole[1]["recipe_key"]
    assert result.items() <= whole[1].items()
    check_epochs(RunStore(tmp_path / "run"), whole[0], 0)


# Two drivers ----------------------------------------------------------------------------------


def test_a_second_driver_is_refused_and_the_first_ends_the_same(
    whole: Whole, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def start_another() -> None:
        assert exit_code(lambda: drive(run, RECIPE)) == 2

    starting = Once(start_another)
    with told(only_at("sample: write checkpoints/*.pt, done", starting)):
        assert drive(run, RECIPE) == whole[1]
    refused = capfd.readouterr().out.splitlines()
    assert refused and starting.called
    assert all("another process drives the run" in line for line in refused)
    check_epochs(RunStore(run), whole[0], 0)


def test_the_runs_of_a_place_are_listed_with_their_state(
    whole: Whole,
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
        with pytest.raises(SystemExit, match="2"):  # the others are shown all the same
            main(["runs", "--runs-dir", str(tmp_path)])
        shown = capsys.readouterr()
    lines = shown.out.splitlines()
    (said,) = shown.err.splitlines()
    assert f"{tmp_path / 'newer'} was written by a newer hacscale (format 99" in said
    shutil.copytree(tmp_path / "newer", tmp_path / "newest")
    with pytest.raises(SystemExit, match="2"):
        main(["runs", "--runs-dir", str(tmp_path)])
    said = capsys.readouterr().err
    assert said.startswith("hacscale: 2 runs cannot be read: newer, newest; `hacscale status RUN`")
    shutil.rmtree(tmp_path / "newer")
    shutil.rmtree(tmp_path / "newest")
    assert [line for line in lines if line.startswith("finished") and " running " in line]
    assert [line for line in lines if line.startswith("halted") and "interrupted (fit)" in line]
    assert [line for line in lines if line.startswith("newer") and "cannot be read" in line]
    assert lines[-1] == f"  hacscale resume {tmp_path / 'halted'}"
    main(["runs", "--runs-dir", str(tmp_path)])
    (line,) = (s for s in capsys.readouterr().out.splitlines() if s.startswith("finished"))
    assert line.split()[1:4] == ["complete", "13", "0"]
