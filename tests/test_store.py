"""The run directory: whole files or none, nothing trusted, one driver at a time."""

import errno
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.ledger
from engine.codec import STRICT, canonical, pretty
from engine.errors import Unfinished, UserError
from engine.ledger import Ledger
from engine.limits import Limits
from engine.local_folder import write_atomic
from engine.provenance import run_info
from engine.recipe import Recipe
from engine.rows import Epoch, Row, TrainingTask
from engine.spec import ModelRef, NetworkSpec
from engine.storage import open_folder
from engine.store import FORMAT, RunStore
from engine.training import FAST

RECIPE = Recipe(limits=Limits(latency="2x", params="1.33x"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    __pydantic_config__ = STRICT

    number: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    __pydantic_config__ = STRICT

    text: str


OUTPUT = Output(number=0.125, names=("a", "b"))


def row(seed: int = 0, status: str = "done", accuracy: float = 0.5625) -> Row:
    spec = NetworkSpec(
        model=ModelRef(name="vgg11", classes=10), resolution=32, widths=(("a", 8), ("b", 16))
    )
    epoch = Epoch(train_loss=1.5, val_loss=1e-05, val_accuracy=accuracy, seconds=12.0)
    return Row(
        task=TrainingTask(spec=spec, training=FAST, data="d" * 16, seed=seed, importance=True),
        status=status,
        history=(epoch, epoch),
        importance={"a": 3.5e-08, "b": 1.0},
        error="the loss is not finite" if status == "failed" else None,
    )


def files(directory: Path) -> dict[str, bytes]:
    """Everything in a directory but the lock."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


# Whole or absent ------------------------------------------------------------------------------


def fail_in(step: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    owner = os if step == "fsync" else Path
    monkeypatch.setattr(owner, step, fail)


@pytest.mark.parametrize("step", ["mkdir", "open", "fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "fragment"),
    [
        (errno.ENOSPC, "no space left for"),
        (errno.EDQUOT, "no space left for"),
        (errno.EACCES, "Permission denied; give another path"),
        (errno.EROFS, "Read-only file system; give another path"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    step: str, code: int, fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        fail_in(step, code, patch)
        message = refusal(lambda: write_atomic(path, b"new"))
    assert fragment in message
    assert str(path) in message
    assert files(tmp_path) == {"x.json": b"old"}


def test_an_interrupted_write_leaves_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "x.json", b"new")
    assert files(tmp_path) == {}


def test_a_path_under_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "x.json", tmp_path / "file" / "a" / "b" / "x.json"):
        assert "cannot write" in refusal(lambda path=path: write_atomic(path, b"new"))


def test_what_a_killed_writer_left_is_ignored_and_cleared_by_the_next_driver(
    tmp_path: Path,
) -> None:
    store = RunStore(tmp_path)
    store.ledger.add(row(1))
    before = files(tmp_path)
    killed = python(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from engine.local_folder import write_atomic\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(Path(sys.argv[1]), b'half')\n",
        tmp_path / "ledger" / "abc.json",
    )
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    left = files(tmp_path).keys() - before.keys()
    assert len(left) == 1
    assert list(store.ledger.rows()) == [row(1)]
    assert store.ledger.find("abc") is None
    write_atomic(tmp_path / ".run.json.0.tmp", b"half")
    with store.lock():
        assert files(tmp_path) == before


def test_many_writers_of_one_file_leave_one_of_their_contents(tmp_path: Path) -> None:
    contents = [bytes([i]) * 100_000 for i in range(8)]
    path = tmp_path / "x"
    threads = [threading.Thread(target=write_atomic, args=(path, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(tmp_path)["x"] in contents
    assert len(files(tmp_path)) == 1


# The ledger -----------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_added(tmp_path: Path) -> None:
    ledger = Ledger(open_folder(tmp_path / "ledger"))
    assert list(ledger.rows()) == []
    rows = [row(1), row(2, "failed"), row(3, "stopped")]
    for one in rows:
        assert ledger.find(one.task.id) is None
        ledger.add(one)
        assert ledger.find(one.task.id) == one
    assert {one.task.seed: one for one in ledger.rows()} == {one.task.seed: one for one in rows}


def test_a_row_that_another_machine_wrote_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system, which may deny for a while that a file is there."""
    ledger, clock = Ledger(open_folder(tmp_path)), [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] == 5:
            Ledger(open_folder(tmp_path)).add(row())

    told = SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
    monkeypatch.setattr(engine.ledger, "time", told)
    assert ledger.find(row().task.id) is None
    assert ledger.await_row(row().task.id) == row()
    assert clock[0] == 5
    assert ledger.await_row(row(1).task.id) is None
    assert clock[0] == 5 + engine.ledger.SEEN_SECONDS


def test_a_row_that_is_there_stands(tmp_path: Path) -> None:
    ledger = Ledger(open_folder(tmp_path))
    ledger.add(row(accuracy=0.5))
    ledger.add(row(accuracy=0.75))
    assert ledger.find(row().task.id) == row(accuracy=0.5)


def _add(directory: Path, barrier) -> None:
    barrier.wait()
    for seed in range(20):
        Ledger(open_folder(directory)).add(row(seed))


def test_processes_that_add_the_same_rows_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    workers = [context.Process(target=_add, args=(tmp_path, barrier)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert sorted(one.task.seed for one in Ledger(open_folder(tmp_path)).rows()) == list(range(20))
    assert len(files(tmp_path)) == 20


damage = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 2000), st.just(b"")),
    st.tuples(st.just("overwrite"), st.integers(0, 2000), st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("insert"), st.integers(0, 2000), st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("append"), st.just(0), st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("replace"), st.just(0), st.binary(max_size=40)),
)


def damaged(data: bytes, how: tuple[str, int, bytes]) -> bytes:
    kind, at, junk = how
    at %= len(data)
    match kind:
        case "cut":
            return data[:at]
        case "overwrite":
            return data[:at] + junk + data[at + len(junk) :]
        case "insert":
            return data[:at] + junk + data[at:]
        case "append":
            return data + junk
    return junk


@given(damage)
def test_a_damaged_row_counts_as_missing_and_is_kept_aside(how: tuple[str, int, bytes]) -> None:
    with TemporaryDirectory() as folder:
        ledger, task_id = Ledger(open_folder(folder)), row().task.id
        ledger.add(row())
        path = Path(folder) / f"{task_id}.json"
        bad = damaged(path.read_bytes(), how)
        path.write_bytes(bad)

        reader = Ledger(open_folder(folder), read_only=True)
        found = reader.find(task_id)
        assert files(Path(folder)) == {path.name: bad}
        assert ledger.find(task_id) == found
        assert found in (None, row())  # one more blank, or E for e, is no damage
        if found is None:
            assert files(Path(folder)) == {f"{path.name}.damaged": bad}
            ledger.add(row())
            assert list(ledger.rows()) == [row()]


def test_a_changed_digit_is_damage(tmp_path: Path) -> None:
    ledger = Ledger(open_folder(tmp_path))
    ledger.add(row(accuracy=0.5625))
    path = tmp_path / f"{row().task.id}.json"
    path.write_bytes(path.read_bytes().replace(b"0.5625", b"0.9625"))
    assert ledger.find(row().task.id) is None


def test_a_row_of_a_part_that_another_version_wrote_counts_as_missing(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    ledger = Ledger(open_folder(tmp_path))
    for seed in (1, 2):
        ledger.add(row(seed))
    ledger.ids()
    newer = canonical(row(1)).replace(b'"status"', b'"field_of_tomorrow":1,"status"')
    monkeypatch.setattr("engine.ledger.canonical", lambda r: newer if r == row(1) else canonical(r))
    ledger.compact(at_least=1)
    fresh = Ledger(open_folder(tmp_path), read_only=True)
    with caplog.at_level(logging.WARNING):
        assert list(fresh.rows()) == [row(2)]
        assert fresh.find(row(1).task.id) is None
    assert "field_of_tomorrow" in caplog.text


def test_a_row_under_the_name_of_another_is_damage(tmp_path: Path, caplog) -> None:
    ledger = Ledger(open_folder(tmp_path))
    ledger.add(row(1))
    (tmp_path / f"{row(1).task.id}.json").rename(tmp_path / f"{row(2).task.id}.json")
    with caplog.at_level(logging.WARNING):
        assert list(ledger.rows()) == []
    assert "holds another row" in caplog.text
    assert list(files(tmp_path)) == [f"{row(2).task.id}.json.damaged"]


def test_files_that_are_no_rows_do_no_harm(tmp_path: Path) -> None:
    ledger = Ledger(open_folder(tmp_path))
    ledger.add(row())
    for name in ("notes.txt", ".hidden", "x.json.damaged", ".x.json.123.tmp"):
        (tmp_path / name).write_text("x")
    assert list(ledger.rows()) == [row()]
    (tmp_path / "folder.json").mkdir()
    assert list(Ledger(open_folder(tmp_path)).rows()) == [row()]


# Stages ---------------------------------------------------------------------------------------


class Counter:
    def __init__(self, output: object = OUTPUT) -> None:
        self.calls = 0
        self.output = output

    def __call__(self):
        self.calls += 1
        return self.output


def stage_files(store: RunStore) -> tuple[Path, Path]:
    (manifest,) = Path(store.location).glob("fit-*/manifest.json")
    return manifest, manifest.with_name("output.json")


def test_a_stage_runs_once_for_equal_uses(tmp_path: Path) -> None:
    run = Counter()
    for uses in ((1, "a"), [1, "a"]):
        assert RunStore(tmp_path).stage("fit", Output, uses, run) == OUTPUT
    assert run.calls == 1
    assert RunStore(tmp_path).is_committed("fit", (1, "a"))
    assert RunStore(tmp_path).committed_stages() == ["fit"]


uses = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)  # fmt: skip


@given(uses, uses)
def test_a_stage_runs_again_when_anything_it_uses_has_changed(a: object, b: object) -> None:
    with TemporaryDirectory() as folder:
        store, run = RunStore(Path(folder)), Counter()
        store.stage("fit", Output, a, run)
        store.stage("fit", Output, b, run)
        store.stage("other", Output, a, run)
        assert run.calls == 2 + (canonical(a) != canonical(b))


def test_a_key_depends_on_each_used_field_and_on_no_other(tmp_path: Path) -> None:
    task, recipe = row().task, RECIPE

    def is_known(recipe: Recipe, task: TrainingTask) -> bool:
        return RunStore(tmp_path).is_committed("fit", (task, recipe.alpha, recipe.seed))

    RunStore(tmp_path).stage("fit", Output, (task, recipe.alpha, recipe.seed), Counter())
    assert is_known(recipe, task)
    assert is_known(replace(recipe, cluster=replace(recipe.cluster, retries=9)), task)
    assert is_known(replace(recipe, alpha=replace(recipe.alpha, budget=4)), task)
    assert not is_known(replace(recipe, seed=1), task)
    assert not is_known(replace(recipe, alpha=replace(recipe.alpha, budget=2.5)), task)
    short = replace(recipe.alpha, training=recipe.alpha.training.for_epochs(7))
    assert not is_known(replace(recipe, alpha=short), task)
    for change in ({"seed": 1}, {"data": "e"}, {"importance": False}, {"test": True}):
        assert not is_known(recipe, replace(task, **change))
    assert not is_known(recipe, replace(task, spec=task.spec.at(40)))
    assert not is_known(recipe, replace(task, spec=task.spec.with_widths({"a": 9})))


@given(st.sampled_from(["manifest.json", "output.json"]), damage)
def test_a_damaged_stage_is_kept_aside_and_done_again(
    name: str, how: tuple[str, int, bytes]
) -> None:
    with TemporaryDirectory() as folder:
        store, run = RunStore(Path(folder)), Counter()
        store.stage("fit", Output, 1, run)
        path = stage_files(store)[0].with_name(name)
        bad = damaged(path.read_bytes(), how)
        path.write_bytes(bad)
        before = files(Path(folder))

        reader = RunStore(Path(folder), read_only=True)
        try:
            assert reader.stage("fit", Output, 1, Counter(None)) == OUTPUT
        except Unfinished as error:
            assert error.stage == "fit"
            expected = 2
        else:  # one more blank in the manifest is no damage
            expected = 1
        assert files(Path(folder)) == before

        assert store.stage("fit", Output, 1, run) == OUTPUT
        assert run.calls == expected
        if expected == 2:
            assert path.with_name(f"{name}.damaged").read_bytes() == bad
        assert reader.stage("fit", Output, 1, Counter(None)) == OUTPUT


@pytest.mark.parametrize(
    "damage_by",
    [
        lambda manifest, output: output.unlink(),
        lambda manifest, output: manifest.unlink(),
        lambda manifest, output: output.write_bytes(pretty(Output(number=9.0))),
        lambda manifest, output: shutil.rmtree(manifest.parent),
    ],
    ids=["no output", "no manifest", "another output", "nothing"],
)
def test_a_stage_of_which_a_file_is_lost_or_changed_is_done_again(damage_by, tmp_path) -> None:
    store, run = RunStore(tmp_path), Counter()
    store.stage("fit", Output, 1, run)
    damage_by(*stage_files(store))
    assert store.stage("fit", Output, 1, run) == OUTPUT
    assert run.calls == 2


def test_the_files_of_another_stage_are_not_taken_for_its_own(tmp_path: Path) -> None:
    store, run = RunStore(tmp_path), Counter()
    store.stage("fit", Output, 1, run)
    store.stage("train", Output, 1, Counter(Output(number=7.0)))
    (other,) = tmp_path.glob("train-*")
    manifest, _ = stage_files(store)
    shutil.copytree(other, manifest.parent, dirs_exist_ok=True)
    assert store.stage("fit", Output, 1, run) == OUTPUT
    assert run.calls == 2


def test_an_output_of_another_type_is_done_again(tmp_path: Path) -> None:
    """As when a version changes what a stage comes to."""
    store = RunStore(tmp_path)
    store.stage("fit", Output, 1, Counter())
    assert store.stage("fit", Other, 1, Counter(Other(text="x"))) == Other(text="x")


def test_a_stage_that_fails_is_not_complete(tmp_path: Path, monkeypatch) -> None:
    store = RunStore(tmp_path)

    def fail() -> Output:
        raise UserError("as it is")

    assert refusal(lambda: store.stage("fit", Output, 1, fail)) == "as it is"
    with monkeypatch.context() as patch:
        fail_in("fsync", errno.ENOSPC, patch)
        assert "no space left" in refusal(lambda: store.stage("fit", Output, 1, Counter()))
    assert not store.is_committed("fit", 1)
    assert files(tmp_path) == {}
    assert store.stage("fit", Output, 1, Counter()) == OUTPUT


def test_a_reader_does_not_run_stages(tmp_path: Path) -> None:
    reader, run = RunStore(tmp_path / "it is", read_only=True), Counter()
    with pytest.raises(Unfinished, match=r"the fit stage of .* is not complete") as caught:
        reader.stage("fit", Output, 1, run)
    assert f"`hacscale resume '{tmp_path / 'it is'}'` goes on" in str(caught.value)
    assert run.calls == 0
    assert files(tmp_path) == {}


def test_damaged_files_that_cannot_be_moved_are_one_line(tmp_path: Path, monkeypatch) -> None:
    store = RunStore(tmp_path)
    store.stage("fit", Output, 1, Counter())
    stage_files(store)[1].write_bytes(b"")
    fail_in("replace", errno.EACCES, monkeypatch)
    assert "cannot write" in refusal(lambda: store.stage("fit", Output, 1, Counter()))


# run.json -------------------------------------------------------------------------------------


def test_run_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    info = run_info("mine", "digits-vgg11", RECIPE)
    RunStore(tmp_path).write_info(info)
    assert RunStore(tmp_path).info() == info
    assert {"python", "hacscale", "torch", "ray"} <= info.versions.keys()


@settings(max_examples=40)
@given(damage)
def test_a_damaged_run_json_names_the_remedy_and_the_remedy_works(
    how: tuple[str, int, bytes],
) -> None:
    with TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "mine")
        info = run_info("mine", "digits-vgg11", RECIPE)
        store.write_info(info)
        path = Path(folder) / "mine" / "run.json"
        bad = damaged(path.read_bytes(), how)
        path.write_bytes(bad)
        try:
            store.info()
        except UserError as error:
            if "newer hacscale" in str(error):  # damage that reads like a higher format
                return
            assert f"`hacscale run RECIPE --name mine --runs-dir {folder}`" in str(error)
            assert "finished work is kept" in str(error)
            assert "\n" not in str(error)
            store.write_info(info)
            assert store.info() == info
            assert path.with_name("run.json.damaged").read_bytes() == bad


def test_a_newer_run_is_neither_read_nor_written_over(tmp_path: Path) -> None:
    store, info = RunStore(tmp_path), run_info("mine", "", RECIPE)
    newer = b'{"format": %d, "what": "nobody knows yet"}' % (FORMAT + 1)
    write_atomic(tmp_path / "run.json", newer)
    for action in (store.info, lambda: store.write_info(info)):
        assert f"newer hacscale (format {FORMAT + 1}, this one knows {FORMAT})" in refusal(action)
    assert (tmp_path / "run.json").read_bytes() == newer


def test_no_run_is_one_line(tmp_path: Path) -> None:
    assert "there is no run at" in refusal(RunStore(tmp_path).info)
    (tmp_path / "run.json").mkdir()
    assert "cannot read" in refusal(RunStore(tmp_path).info)


# One driver -----------------------------------------------------------------------------------

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from engine.store import RunStore\n"
    "with RunStore(Path(sys.argv[1])).lock():\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def test_one_driver_holds_a_run_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    holder = python(HOLD, tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match="another process drives the run"),
        RunStore(tmp_path).lock(),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with RunStore(tmp_path).lock():
        assert "another process" in refusal(lambda: RunStore(tmp_path).lock().__enter__())
    with RunStore(tmp_path).lock():
        pass


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), RunStore(tmp_path).lock():
            raise KeyboardInterrupt


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_directory_that_cannot_be_made_is_one_line(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in("mkdir", code, monkeypatch)
    with pytest.raises(UserError, match=r"no space left for|cannot write"):
        RunStore(tmp_path / "new").lock().__enter__()


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr("engine.store.FileLock.acquire", refuse)
    with pytest.raises(UserError, match="no flock here; give a --runs-dir on another file system"):
        RunStore(tmp_path).lock().__enter__()


# What may be tried again ----------------------------------------------------------------------


def test_forgotten_failures_open_the_stages_that_they_went_into(tmp_path: Path) -> None:
    store, run = RunStore(tmp_path), Counter()
    for one in (row(1), row(2, "failed"), row(3, "stopped")):
        store.ledger.add(one)
    for name in ("fit", "sample", "propose-netadapt"):
        store.stage(name, Output, 1, run)
    asked: list[tuple[str, Any, Set[str]]] = []

    def lacks(stage: str, output: Any, failed: Set[str]) -> bool:
        asked.append((stage, output, failed))
        return stage != "fit"

    store.forget_failures(lacks)
    assert {one.task.seed for one in store.ledger.rows()} == {1, 3}
    assert store.committed_stages() == ["fit"]
    assert sorted(stage for stage, *_ in asked) == ["fit", "propose-netadapt", "sample"]
    assert all(output and failed == {row(2).task.id} for _, output, failed in asked)
    store.stage("sample", Output, 1, run)
    store.forget_failures(lacks)  # nothing has failed since
    assert store.committed_stages() == ["fit", "sample"]
    assert run.calls == 4


def test_a_relative_directory_is_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = RunStore(Path("runs/a"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.checkpoints.write("x.pt", b"x")
    assert (tmp_path / "runs/a/checkpoints/x.pt").read_bytes() == b"x"
    for folder in (store, store.ledger.folder, store.weights, store.checkpoints):
        assert Path(folder.location).is_absolute()
    assert store.logs.is_absolute()


def test_checkpoints_of_finished_trainings_are_removed_and_of_no_others(tmp_path: Path) -> None:
    store, unfinished = RunStore(tmp_path), row(4).task.id
    rows = [row(1), row(2, "failed"), row(3, "stopped")]
    for one in rows:
        store.ledger.add(one)
        store.checkpoints.write(f"{one.task.id}.pt", b"x")
    store.checkpoints.write(f"{unfinished}.pt", b"x")
    store.remove_spent_checkpoints()
    assert set(store.checkpoints.files(".pt")) == {rows[1].task.id, unfinished}
