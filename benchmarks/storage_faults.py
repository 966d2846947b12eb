"""Scenarios of faults.py in which the place where a run is kept fails, or is held by another."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_bench import TRAINING_STAGES, Bench, together
from tiny_search import TinySearch

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "garbage": lambda data: b"\x80\x04\x95garbage\xff" * 9,
}


def disk(bench: Bench) -> dict[str, Any]:
    """A tmpfs that fills up, grows a little, and fills up again."""
    search = bench.search("disk")
    runs = Path(search.runs)
    runs.mkdir()
    full: list[int] = []
    size = 64
    _mount(runs, f"size={size}k")
    try:
        while True:
            code = search.start().ended()
            said = search.log.read_text()
            if code == 0:
                break
            assert code == 2, said
            assert "no space left" in said, said
            assert "Traceback" not in said, said
            search.deaths += 1
            full.append(size)
            print(f"  full at {size} KiB: {said.splitlines()[-1]}", flush=True)
            size *= 2
            _mount(runs, f"remount,size={size}k")
        return {"full_at_kib": full, **search.outcome(bench.whole)}
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def damage(bench: Bench) -> dict[str, Any]:
    """All files of a finished run truncated, empty or garbage; then its rows and weights."""
    found = []
    for how, harm in DAMAGES.items():
        for rows in (False, True):
            search = bench.search(f"{how}-{rows}")
            shutil.copytree(bench.whole.runs, search.runs)
            run = Path(search.location)
            for path in run.rglob("*"):
                kept = path.relative_to(run).parts[0] in ("ledger", "studies", "weights")
                skipped = "logs" in path.parts or path.name == ".lock"
                if path.is_file() and kept == rows and not skipped:
                    path.write_bytes(harm(path.read_bytes()))
                    search.deaths += 1
            if rows:  # and what was made of them is lost
                for stage in TRAINING_STAGES:
                    for folder in run.glob(f"{stage}-*"):
                        shutil.rmtree(folder)
            search.to_the_end()
            outcome = search.outcome(bench.whole)
            outcome["damaged_files"] = outcome.pop("deaths")
            # Rows that are damaged are trained again, as they must be.
            del outcome["most_finished_epochs_repeated_by_a_training"]
            print(f"  {how}, {'ledger' if rows else 'all but the ledger'}", flush=True)
            found.append(outcome)
    return together(found)


def two_drivers(bench: Bench) -> dict[str, Any]:
    """A second driver of the same run is refused while the first works."""
    search = bench.search("two_drivers")
    life = search.start()
    refused = 0
    for stage in ("baseline", "sample"):
        assert life.wait_for(stage)
        other = TinySearch(runs=search.runs, name="run", logs=bench.logs(f"second-{stage}"))
        code = other.start().ended()
        refused += code == 2 and "another process drives" in other.log.read_text()
    code = life.ended()
    assert code == 0, search.log.read_text()
    return {"refused": refused, **search.outcome(bench.whole)}


def storage(bench: Bench) -> dict[str, Any]:
    """An S3 server that is away for 20 s in two stages, and a driver that is killed over it."""
    from object_store import object_store

    with object_store() as server:
        search = bench.search("storage", runs=server.uri("faults"))
        life = search.start()
        away = 0
        for stage in ("alpha", "sample"):
            assert life.wait_for(stage), search.log.read_text()
            server.stop()
            time.sleep(20)
            server.start()
            away += 1
            print(f"  away for 20 s in {stage}", flush=True)
        if life.wait_for("train"):
            life.kill()
            print("  driver killed in train", flush=True)
        else:
            life.ended()
        search.to_the_end()
        return {"away": away, **search.outcome(bench.whole)}


SCENARIOS = (disk, damage, two_drivers, storage)


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
