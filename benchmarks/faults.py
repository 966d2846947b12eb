"""What a search under real Ray loses when something dies, fills up, is damaged or goes away.

    python benchmarks/faults.py [--scenarios driver workers …] [--kills 20] [--seed 0]

Every scenario disturbs a small search on a device without noise, takes it up again until it has
ended, and compares it with one that nothing happened to. What ran is written to
docs/results/faults.json, beside what other calls have written there.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster as RayCluster
from record import command, options, run, write_results
from tiny_search import STAGES, TinySearch

TRAINING_STAGES = ("baseline", "alpha", "sample", "train")


class Faults:
    """The scenarios. Each returns its counts.

    Args:
        folder: for runs and logs.
        kills: of the driver, at the least.
    """

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.folder, self.kills = folder, kills
        self.random = random.Random(seed)
        self.whole = self._search("whole")
        self.whole.to_the_end()

    def _search(self, name: str, runs: str = "", words: tuple[str, ...] = ()) -> TinySearch:
        runs = runs or str(self.folder / name)
        return TinySearch(runs=runs, name="run", logs=self._logs(name), words=list(words))

    def _logs(self, name: str) -> Path:
        logs = self.folder / "logs" / name
        logs.mkdir(parents=True)
        return logs

    def driver(self) -> dict[str, Any]:
        """kill -9 of the driver at random moments of all stages, one run after another."""
        seconds = {stage: self._seconds(stage) for stage in STAGES}
        found: list[dict[str, Any]] = []
        where: dict[str, int] = dict.fromkeys(STAGES, 0)
        while sum(where.values()) < self.kills:
            search = self._search(f"driver-{len(found)}")
            while True:
                left = [s for s in STAGES if s not in search.store.committed_stages()]
                stage = min(left, key=lambda s: (where[s], STAGES.index(s)))
                life = search.start()
                if life.wait_for(stage):
                    time.sleep(self.random.uniform(0, seconds[stage]))
                    died_in = next(
                        (s for s in STAGES if s not in search.store.committed_stages()), ""
                    )
                    before = search.deaths
                    life.kill()
                    if search.deaths > before and died_in:
                        where[died_in] += 1
                        print(f"  death {sum(where.values())} in {died_in}", flush=True)
                        if sum(where.values()) < self.kills:
                            continue
                else:
                    life.ended()
                break
            search.to_the_end()
            found.append(search.outcome(self.whole))
        return {"deaths_by_stage": where, **_together(found)}

    def workers(self) -> dict[str, Any]:
        """kill -9 of a training worker once in every stage that trains, of trials and of Train."""
        search = self._search("workers")
        life = search.start()
        where: dict[str, int] = {}
        for stage in TRAINING_STAGES:
            if not life.wait_for(stage):
                break
            known = len(search.epoch_lines())
            if not life.wait(lambda known=known: len(search.epoch_lines()) > known):
                break
            process, task, epoch = search.epoch_lines()[-1]
            os.kill(process, signal.SIGKILL)
            search.deaths += 1
            where[stage] = where.get(stage, 0) + 1
            print(f"  worker of {task} killed after epoch {epoch} in {stage}", flush=True)
        code = life.ended()
        assert code == 0, search.log.read_text()
        return {"deaths_by_stage": where, **search.outcome(self.whole)}

    def raylet(self) -> dict[str, Any]:
        """kill -9 of a node's raylet while it trains, and a node that joins later."""
        cluster = RayCluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        try:
            node = cluster.add_node(num_cpus=1)
            search = self._search("raylet", words=("--address", cluster.address))
            life = search.start()
            assert life.wait_for("alpha"), search.log.read_text()
            assert life.wait(lambda: self._trained_on(search, node)), search.log.read_text()
            _raylet(node).kill()
            search.deaths += 1
            print("  raylet killed in alpha", flush=True)
            time.sleep(5)
            late = cluster.add_node(num_cpus=1)
            joined = life.wait(lambda: self._trained_on(search, late))
            print(f"  a node joined; it has trained: {joined}", flush=True)
            code = life.ended()
            assert code == 0, search.log.read_text()
        finally:
            cluster.shutdown()
        return {"late_node_has_trained": joined, **search.outcome(self.whole)}

    def disk(self) -> dict[str, Any]:
        """A tmpfs that fills up, grows a little, and fills up again."""
        search = self._search("disk")
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
            return {"full_at_kib": full, **search.outcome(self.whole)}
        finally:
            subprocess.run(["umount", "--lazy", str(runs)], check=True)

    def damage(self) -> dict[str, Any]:
        """All files of a finished run truncated, empty or garbage; then its rows and weights."""
        found = []
        for how, harm in DAMAGES.items():
            for rows in (False, True):
                search = self._search(f"{how}-{rows}")
                shutil.copytree(self.whole.runs, search.runs)
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
                outcome = search.outcome(self.whole)
                outcome["damaged_files"] = outcome.pop("deaths")
                # Rows that are damaged are trained again, as they must be.
                del outcome["most_finished_epochs_repeated_by_a_training"]
                print(f"  {how}, {'ledger' if rows else 'all but the ledger'}", flush=True)
                found.append(outcome)
        return _together(found)

    def two_drivers(self) -> dict[str, Any]:
        """A second driver of the same run is refused while the first works."""
        search = self._search("two_drivers")
        life = search.start()
        refused = 0
        for stage in ("baseline", "sample"):
            assert life.wait_for(stage)
            other = TinySearch(runs=search.runs, name="run", logs=self._logs(f"second-{stage}"))
            code = other.start().ended()
            refused += code == 2 and "another process drives" in other.log.read_text()
        code = life.ended()
        assert code == 0, search.log.read_text()
        return {"refused": refused, **search.outcome(self.whole)}

    def storage(self) -> dict[str, Any]:
        """An S3 server that is away for 20 s in two stages, and a driver that is killed over it."""
        from object_store import object_store

        with object_store() as server:
            search = self._search("storage", runs=server.uri("faults"))
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
            return {"away": away, **search.outcome(self.whole)}

    def _seconds(self, stage: str) -> float:
        (manifest,) = Path(self.whole.location).glob(f"{stage}-*/manifest.json")
        return json.loads(manifest.read_text())["seconds"]

    def _trained_on(self, search: TinySearch, node: Any) -> bool:
        raylet = _raylet(node).pid
        return any(_parent(process) == raylet for process, _, _ in search.epoch_lines())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "garbage": lambda data: b"\x80\x04\x95garbage\xff" * 9,
}

SCENARIOS = ("driver", "workers", "raylet", "disk", "damage", "two_drivers", "storage")


def _together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of several runs as those of one: sums, the worst, and whether all are the same."""
    return {
        "runs": len(found),
        **{
            key: all(values) if key == "same_result" else
            max(values) if key.startswith("most") else sum(values)
            for key in found[0]
            for values in [[each[key] for each in found]]
        },
    }  # fmt: skip


def _raylet(node: Any) -> subprocess.Popen[bytes]:
    return node.all_processes["raylet"][0].process


def _parent(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it is no more
        return 0
    return int(status.partition("PPid:")[2].split()[0])


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


@contextmanager
def _kept_if_it_fails() -> Generator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    yield folder
    shutil.rmtree(folder)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--kills", type=int, default=20, help="of the driver")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from object_store import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # before the process that drivers are forks of
    # Ray lets its workers wait for whatever else the machine does; nothing here is timed.
    os.environ.setdefault("RAY_worker_niceness", "0")
    written = chosen.out / "results" / "faults.json"
    found = json.loads(written.read_text())["scenarios"] if written.exists() else {}
    with _kept_if_it_fails() as folder:
        print(f"runs and logs in {folder}", flush=True)
        faults = Faults(folder, chosen.kills, chosen.seed)
        print("the search that nothing happens to has ended", flush=True)
        for name in chosen.scenarios:
            if name == "disk" and os.geteuid():
                print("disk: left out, since only root can mount a tmpfs")
                continue
            print(name, flush=True)
            began = time.monotonic()
            found[name] = getattr(faults, name)() | {
                "command": command(),
                "seconds": round(time.monotonic() - began),
            }
            print(f"  {found[name]}", flush=True)
            write_results("faults", {"scenarios": found}, chosen.out)


if __name__ == "__main__":
    run(main)
