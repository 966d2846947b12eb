"""The same promises on a local disk and in an object store that really answers."""

import logging
import os
import pickle  # noqa: TID251 - as Ray does on the way to workers
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from object_store import ENVIRONMENT, ObjectStore, object_store
from test_store import OUTPUT, Counter, Output, python, refusal, row

from engine import folder as folder_module
from engine import lease as lease_module
from engine.errors import StorageError, UserError
from engine.folder import Folder
from engine.ledger import Ledger
from engine.local_folder import LocalFolder
from engine.provenance import run_info
from engine.storage import open_folder
from engine.store import RunStore


@pytest.fixture(scope="module")
def server() -> Generator[ObjectStore]:
    with object_store() as started:
        yield started


@pytest.fixture(params=["local", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a run that is not there yet."""
    if request.param == "local":
        return str(tmp_path / "run")
    return request.getfixturevalue("server").uri(f"mine/{uuid.uuid4().hex}/run")


@pytest.fixture
def folder(location: str) -> Folder:
    return open_folder(location)


def names(folder: Folder) -> list[str]:
    return [entry.name for entry in folder.entries() if not entry.name.startswith(".")]


# Folders --------------------------------------------------------------------------------------


def test_files_are_written_read_listed_renamed_and_removed(folder: Folder) -> None:
    assert (folder.read("a"), folder.exists("a"), names(folder)) == (None, False, [])
    contents = {"a": b"", "b": b"\0\xff" * 100_000, "b.json": b"{}", "in/side.json": b"x"}
    for name, data in contents.items():
        folder.write(name, data)
    assert folder.read_all(contents) == contents
    assert names(folder) == ["a", "b", "b.json", "in"]
    assert [entry.is_folder for entry in folder.entries() if entry.name == "in"] == [True]
    assert all(abs(e.modified - time.time()) < 60 for e in folder.entries() if not e.is_folder)
    assert (folder / "in").files(".json") == ["side"]
    assert (folder / "in").read("side.json") == b"x"
    folder.write("a", b"new")
    assert folder.read("a") == b"new"
    assert folder.rename("a", "c")
    assert not folder.rename("a", "d")
    assert (folder.read("a"), folder.read("c")) == (None, b"new")
    folder.delete("a", "b", "c", "in/side.json")
    assert folder.read("b") is None
    assert folder.files(".json") == ["b"]


def test_a_folder_is_known_by_its_location(folder: Folder) -> None:
    folder.write("in/x", b"1")
    below = folder / "in"
    for same in (open_folder(below.location), pickle.loads(pickle.dumps(below))):
        assert same.read("x") == b"1"
        assert same.name == "in"
        assert same.parent == folder.location
    assert folder.path("in").startswith(folder.location.partition("?")[0])


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", ".", "a//b", "a\\b", "a b"])
def test_no_name_leads_out_of_a_folder(name: str, folder: Folder) -> None:
    for action in (
        lambda: folder.read(name),
        lambda: folder.write(name, b""),
        lambda: folder.delete(name),
        lambda: folder.rename("a", name),
        lambda: folder / name,
    ):
        assert "is not the name of a file in a run" in refusal(action)


def test_a_file_uri_is_a_local_path(tmp_path: Path) -> None:
    found = open_folder(f"file://{tmp_path}/my%20runs")
    assert isinstance(found, LocalFolder)
    assert found.directory == tmp_path / "my runs"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://key:secret@bucket/runs", "credentials do not belong into s3://bucket/runs; leave"),
        ("ftp://host/runs", "cannot use ftp://host"),
        ("s3://bucket/runs?nonsense=1", "Unexpected query parameter"),
        ("s3://", "s3:// names no bucket; give s3://BUCKET/PATH"),
        ("gs:///runs", "names no bucket; give gs://BUCKET/PATH"),
        ("s3://[bucket]/runs", "s3://[bucket]/runs is no URI"),
    ],
)
def test_a_uri_that_cannot_be_used_is_one_line(uri: str, message: str) -> None:
    assert message in refusal(lambda: open_folder(uri).read("x"))


def test_what_lasts_is_said_at_once(server: ObjectStore) -> None:
    missing = open_folder(server.uri("x").replace("s3://runs", "s3://nobody-has-made-this"))
    began = time.monotonic()
    assert "cannot write s3://nobody-has-made-this/x/a" in refusal(lambda: missing.write("a", b""))
    assert time.monotonic() - began < 30


# A store that is away -------------------------------------------------------------------------


def test_a_store_that_is_away_for_a_while_is_waited_for(server: ObjectStore) -> None:
    folder = open_folder(server.uri(uuid.uuid4().hex))
    folder.write("before", b"1")
    server.stop()
    back = threading.Timer(2.0, server.start)
    back.start()
    folder.write("after", b"2")
    back.join()
    assert folder.read_all(["before", "after"]) == {"before": b"1", "after": b"2"}


def test_patience_ends_with_one_line(server: ObjectStore, monkeypatch) -> None:
    folder = open_folder(server.uri(uuid.uuid4().hex))
    monkeypatch.setattr(folder_module, "PATIENCE_S", 0.0)
    server.stop()
    try:
        with pytest.raises(StorageError, match="mend that, then resume: nothing is lost"):
            folder.write("x", b"")
    finally:
        server.start()


@pytest.mark.parametrize(
    ("step", "call", "expected"),
    [
        ("read_bytes", lambda folder: folder.read("x"), b"1"),
        ("unlink", lambda folder: folder.delete("x"), None),
        ("replace", lambda folder: folder.rename("x", "y"), True),
    ],
)
def test_a_network_file_system_that_comes_back_is_waited_for(
    step: str, call, expected: object, tmp_path: Path, monkeypatch, caplog
) -> None:
    real, left = getattr(Path, step), [116, 110]  # ESTALE, ETIMEDOUT

    def fail(path: Path, *arguments, **options):
        if left:
            raise OSError(left.pop(), "as NFS says it")
        return real(path, *arguments, **options)

    folder = open_folder(tmp_path)
    folder.write("x", b"1")
    monkeypatch.setattr(Path, step, fail)
    with caplog.at_level(logging.WARNING, "hacscale"):
        assert call(folder) == expected
    assert folder.exists("x") == (step == "read_bytes")
    assert caplog.text.count("the storage does not answer, trying on") == 1


# The ledger -----------------------------------------------------------------------------------

ROWS = [row(seed, status) for seed, status in enumerate(("done", "failed", "stopped", "done"))]


def ledger_of(folder: Folder) -> Ledger:
    ledger = Ledger(folder)
    for one in ROWS:
        ledger.add(one)
    return ledger


def by_id(ledger: Ledger) -> dict[str, object]:
    return {one.task.id: one for one in ledger.rows()}


EXPECTED = {one.task.id: one for one in ROWS}


def test_rows_are_the_same_one_by_one_and_compacted(folder: Folder) -> None:
    ledger = ledger_of(folder)
    assert by_id(ledger) == EXPECTED
    ledger.compact(at_least=len(ROWS) + 1)
    assert len(folder.files(".json")) == len(ROWS)
    ledger.compact(at_least=len(ROWS))
    assert (folder.files(".json"), len(folder.files(".parquet"))) == ([], 1)
    for reader in (ledger, Ledger(folder), Ledger(folder, read_only=True)):
        assert by_id(reader) == EXPECTED
        assert reader.find(ROWS[1].task.id) == ROWS[1]
        assert reader.find("0" * 16) is None


def test_rows_that_come_after_a_part_are_found_beside_it(folder: Folder) -> None:
    ledger = ledger_of(folder)
    ledger.refresh()
    ledger.compact(at_least=1)
    Ledger(folder).add(row(9))
    assert ledger.seen(row(9).task.id) is None
    assert ledger.find(row(9).task.id) == ledger.seen(row(9).task.id) == row(9)
    assert by_id(Ledger(folder)) == EXPECTED | {row(9).task.id: row(9)}
    ledger.compact(at_least=1)
    assert len(folder.files(".parquet")) == 2
    assert by_id(Ledger(folder)) == EXPECTED | {row(9).task.id: row(9)}


@pytest.mark.parametrize("survivors", range(len(ROWS) + 1))
def test_a_driver_that_dies_while_it_compacts_loses_nothing(survivors: int, folder: Folder) -> None:
    """After the part is there, and before any, some or all of the files of its rows are gone."""
    ledger = ledger_of(folder)
    ledger.refresh()
    files = {f"{one.task.id}.json": folder.read(f"{one.task.id}.json") for one in ROWS}
    ledger.compact(at_least=1)
    for name in list(files)[:survivors]:
        folder.write(name, files[name] or b"")
    again = Ledger(folder)
    assert by_id(again) == EXPECTED
    again.compact(at_least=1)
    assert by_id(Ledger(folder)) == EXPECTED


def test_a_row_that_is_moved_while_it_is_looked_for_is_found(folder: Folder, monkeypatch) -> None:
    driver, reader = ledger_of(folder), Ledger(folder, read_only=True)
    driver.refresh()
    entries = reader.folder.entries

    def list_then_move():
        found = entries()
        driver.compact(at_least=1)
        return found

    monkeypatch.setattr(reader.folder, "entries", list_then_move)
    assert by_id(reader) == EXPECTED


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"\x80\x04N.",
        None,
    ],
    ids=["empty", "half", "cut", "pickle", "changed"],
)
def test_a_damaged_part_is_kept_aside_and_its_rows_are_missing(
    damage: Callable[[bytes], bytes] | None, folder: Folder
) -> None:
    import pyarrow
    from pyarrow import parquet

    ledger = ledger_of(folder)
    ledger.refresh()
    ledger.compact(at_least=1)
    (name,) = (f"{part}.parquet" for part in folder.files(".parquet"))
    whole = folder.read(name) or b""
    if damage is not None:
        bad, left = damage(whole), {}
    else:  # all rows but the first are other rows
        table = parquet.read_table(pyarrow.BufferReader(whole))
        texts = [text.replace("0.5625", "0.9625") for text in table["row"].to_pylist()]
        texts[0] = table["row"][0].as_py()
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(table.set_column(2, "row", [texts]), sink)
        bad = sink.getvalue().to_pybytes()
        left = {table["id"][0].as_py(): EXPECTED[table["id"][0].as_py()]}
    folder.write(name, bad)
    assert by_id(Ledger(folder, read_only=True)) == left
    assert folder.read(name) == bad
    assert by_id(Ledger(folder)) == left
    assert folder.read(f"{name}.damaged") == bad
    assert by_id(Ledger(folder)) == left
    ledger_of(folder)
    assert by_id(Ledger(folder)) == EXPECTED


def test_failures_are_forgotten_in_parts_too(location: str) -> None:
    store, run = RunStore(location), Counter()
    ledger_of(store.folder / "ledger")
    store.ledger.refresh()
    store.ledger.compact(at_least=1)
    store.ledger.add(row(9, "failed"))
    store.stage("sample", Output, 1, run)
    RunStore(location).forget_failures(lambda stage, output, failed: stage == "sample")
    left = RunStore(location)
    assert {one.status for one in left.ledger.rows()} == {"done", "stopped"}
    assert len(list(left.ledger.rows())) == len(ROWS) - 1
    assert not left.is_committed("sample", 1)


# The run --------------------------------------------------------------------------------------


def test_a_run_is_the_same_wherever_it_is_kept(location: str) -> None:
    from test_store import RECIPE

    store, run = RunStore(location), Counter()
    info = run_info("run", "r", RECIPE)
    store.write_info(info)
    assert store.info() == info
    for again in (store, pickle.loads(pickle.dumps(store)), RunStore(location, read_only=True)):
        assert again.stage("fit", Output, (1, "a"), run) == OUTPUT
    assert run.calls == 1
    assert store.committed_stages() == ["fit"]
    (stage,) = (entry.name for entry in store.folder.entries() if entry.name.startswith("fit-"))
    store.folder.write(f"{stage}/output.json", b"garbage")
    assert store.stage("fit", Output, (1, "a"), run) == OUTPUT
    assert run.calls == 2
    assert store.folder.read(f"{stage}/output.json.damaged") == b"garbage"


# One driver -----------------------------------------------------------------------------------

HOLD = (
    "import sys, time\n"
    "from engine.store import RunStore\n"
    "with RunStore(sys.argv[1]).lock():\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def test_one_driver_holds_a_run_and_a_killed_one_lets_go(location: str) -> None:
    holder = python(HOLD, location)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    store = RunStore(location)
    message = refusal(store.lock().__enter__)
    assert re.match(r"another process drives the run .*wait for it, stop it, or give an", message)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with store.lock():
        assert "another process drives" in refusal(RunStore(location).lock().__enter__)
    with store.lock():
        pass


def test_of_drivers_that_start_together_one_runs_at_most(server: ObjectStore) -> None:
    location = server.uri(uuid.uuid4().hex)
    together, held, refused = threading.Barrier(4), [], []

    def drive() -> None:
        together.wait()
        try:
            with RunStore(location).lock():
                held.append(1)
                together.wait()
        except UserError:
            refused.append(1)
            together.wait()

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held) <= 1, len(held) + len(refused)) == (True, 4)
    with RunStore(location).lock():
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(lease_module, "EXPIRY_S", 3.0)


def strange_claim(host: str = "elsewhere") -> bytes:
    return b'{"host": "%s", "machine": "another boot", "pid": 1}' % host.encode()


def test_a_claim_of_another_machine_holds_until_it_expires(server, quick) -> None:
    stores = [RunStore(server.uri(uuid.uuid4().hex)) for _ in range(2)]
    for store, claim, who in zip(
        stores,
        (strange_claim(), b"\x80\x04N."),
        ("process 1 on elsewhere", "on unknown host"),
        strict=True,
    ):
        store.folder.write("lock/x.json", claim)
        assert who in refusal(store.lock().__enter__)
    time.sleep(4.1)
    for store in stores:
        with store.lock():
            assert len(names(store.folder / "lock")) == 1
        assert names(store.folder / "lock") == []


def test_a_driver_keeps_its_run_beyond_the_expiry(server, quick) -> None:
    location = server.uri(uuid.uuid4().hex)
    with RunStore(location).lock():
        time.sleep(4.5)
        assert "another process drives" in refusal(RunStore(location).lock().__enter__)


@pytest.mark.parametrize(
    ("heartbeat", "expiry"),
    [
        (2.0, 3.0),  # the storage did not answer for long enough to be taken over
        (0.3, 3600.0),  # the machine was suspended: its clock stood still, but its claim is gone
    ],
)
def test_a_driver_that_was_taken_over_stops(
    heartbeat: float, expiry: float, server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", heartbeat)
    monkeypatch.setattr(lease_module, "EXPIRY_S", expiry)
    store = RunStore(server.uri(uuid.uuid4().hex))

    def drive() -> None:
        with store.lock():
            (own,) = names(store.folder / "lock")
            store.folder.write("lock/x.json", strange_claim("the other"))
            store.folder.delete(f"lock/{own}")
            time.sleep(20)

    assert "process 1 on the other has taken over" in refusal(drive)
    assert names(store.folder / "lock") == ["x.json"]


# Secrets --------------------------------------------------------------------------------------


def test_no_secret_of_the_environment_is_kept_in_a_run_or_travels(server, tmp_path) -> None:
    from test_store import RECIPE

    location = server.uri(uuid.uuid4().hex)
    store = RunStore(location)
    with store.lock():
        store.write_info(run_info("run", "r", RECIPE))
        claims = (store.folder / "lock").read_all(names(store.folder / "lock"))
    kept = [pickle.dumps(store), location.encode(), *claims.values(), store.folder.read("run.json")]
    secret = ENVIRONMENT["AWS_SECRET_ACCESS_KEY"].encode()
    assert all(data and secret not in data for data in kept)


def test_a_worker_without_credentials_is_told(server: ObjectStore, tmp_path: Path) -> None:
    from test_store import RECIPE

    location = server.uri(uuid.uuid4().hex)
    RunStore(location).write_info(run_info("run", "r", RECIPE))
    code = "import sys; from engine.store import RunStore; RunStore(sys.argv[1]).info()"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code, location],
        capture_output=True, text=True, check=False, env=environment, timeout=120,
    )  # fmt: skip
    assert "cannot read s3://" in found.stderr and "there is no run" not in found.stderr
