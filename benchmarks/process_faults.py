"""Scenarios of faults.py in which drivers, workers, nodes or hosts go away, come or change."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fault_bench import TRAINING_STAGES, Bench, together
from hosts import hosts
from ray.cluster_utils import Cluster as RayCluster
from tiny_search import STAGES, TinySearch

KILLED = tuple(stage for stage in STAGES if stage != "fit")
"""All stages but one of milliseconds, which is hit by chance."""

ELASTIC = ("cluster.final_workers_min=1", "train.epochs=12")


def driver(bench: Bench) -> dict[str, Any]:
    """kill -9 of the driver at random moments of all stages, one run after another.

    On a cluster that stays, which has to end what the dead driver has begun.
    """
    seconds = {stage: bench.seconds(stage) for stage in STAGES}
    found: list[dict[str, Any]] = []
    where: dict[str, int] = dict.fromkeys(STAGES, 0)
    end = time.monotonic() + 60 * bench.minutes

    def more() -> bool:
        return sum(where.values()) < bench.kills and time.monotonic() < end

    with _nodes(2) as cluster:
        while more():
            search = bench.search(f"driver-{len(found)}", words=_on(cluster))
            while more():
                left = [s for s in STAGES if s not in search.store.committed_stages()]
                stage = min(left, key=lambda s: (where[s], STAGES.index(s)), default=None)
                if stage is not None and where[stage] > min(where[s] for s in KILLED):
                    break  # others are to be hit first, in another run
                life = search.start()
                if stage is None or not life.wait_for(stage):
                    life.ended()
                    break
                time.sleep(bench.random.uniform(0, seconds[stage]))
                died_in = next((s for s in STAGES if s not in search.store.committed_stages()), "")
                before = search.deaths
                life.kill()
                if search.deaths == before or not died_in:
                    break  # it had come to its end
                where[died_in] += 1
                print(f"  death {sum(where.values())} in {died_in}", flush=True)
            search.to_the_end()
            found.append(search.outcome(bench.whole))
    return {"deaths_by_stage": where, **together(found)}


def workers(bench: Bench) -> dict[str, Any]:
    """kill -9 of a training worker once in every stage that trains, of trials and of Train."""
    search = bench.search("workers")
    life = search.start()
    where: dict[str, int] = {}
    for stage in TRAINING_STAGES:
        if not life.wait_for_epoch(stage):
            break
        last = search.store.epochs.read()[-1]
        os.kill(last.process, signal.SIGKILL)
        search.deaths += 1
        where[stage] = where.get(stage, 0) + 1
        print(f"  worker of {last.task} killed after epoch {last.number} in {stage}", flush=True)
    code = life.ended()
    assert code == 0, search.log.read_text()
    return {"deaths_by_stage": where, **search.outcome(bench.whole)}


def raylet(bench: Bench) -> dict[str, Any]:
    """kill -9 of a node's raylet while it trains, and a node that joins later."""
    with _nodes(1, 1) as cluster:
        (node,) = cluster.worker_nodes
        search = bench.search("raylet", words=_on(cluster))
        life = search.start()
        assert life.wait_for("alpha"), search.log.read_text()
        assert life.wait(lambda: _has_trained(search, node)), search.log.read_text()
        _raylet(node).kill()
        search.deaths += 1
        print("  raylet killed in alpha", flush=True)
        time.sleep(5)
        late = _add_node(cluster, 1)
        joined = life.wait(lambda: _trains(late))
        print(f"  a node joined; it has trained: {joined}", flush=True)
        code = life.ended()
        assert code == 0, search.log.read_text()
    return {"late_node_has_trained": joined, **search.outcome(bench.whole)}


def cut_off(bench: Bench) -> dict[str, Any]:
    """One of three hosts (network namespaces with addresses of their own) is cut off as it trains.

    It goes on with what it has and reaches the disk, but nobody hears of it. What it finishes so
    is work done twice; the rows are the same whoever writes them.
    """
    logs = bench.logs("hosts")
    with hosts(1, logs) as cluster:
        cluster.add("far", 1)
        cluster.add("near", 1)
        search = bench.search("cut_off", words=("--address", cluster.address))
        life = search.start()
        assert life.wait_for("alpha"), search.log.read_text()
        used = life.wait(
            lambda: any(cluster.is_on(one.process, "far") for one in search.store.epochs.read())
        )
        assert used, search.log.read_text()
        cluster.cut_off("far")
        search.deaths += 1
        print("  a host cut off", flush=True)
        code = life.ended()
        assert code == 0, search.log.read_text()
        return {"hosts": 3, **search.outcome(bench.whole)}


def other_size(bench: Bench) -> dict[str, Any]:
    """A driver that is killed on a cluster of two nodes, and goes on on one node of four cores."""
    search = bench.search("other_size")
    with _nodes(1, 1) as cluster:
        search.words = _on(cluster)
        life = search.start()
        assert life.wait_for_epoch("sample"), search.log.read_text()
        life.kill()
        print("  driver killed in sample, with two nodes", flush=True)
    with _nodes(4) as cluster:
        search.to_the_end("resume", search.location, *_on(cluster))
    return search.outcome(bench.whole)


def more_samples(bench: Bench) -> dict[str, Any]:
    """``sample --networks +2`` and ``resume``, against a search that had six from the start."""
    six = bench.undisturbed("six", ("sample.networks=6",))
    search = bench.search("more_samples")
    search.to_the_end()
    before = search.epochs()
    search.to_the_end("sample", search.location, "--networks", "+2")
    sampled = {task for task, _ in search.epochs() - before}
    print(f"  {len(sampled)} networks sampled", flush=True)
    search.to_the_end("resume", search.location)
    return {"sampled": len(sampled), **search.outcome(six)}


def elastic(bench: Bench) -> dict[str, Any]:
    """The final training loses one of two nodes and goes on with one worker.

    Its sums are then rounded otherwise, so the accuracies need not be those of two workers to the
    last digit; all that was found before must be.
    """
    whole = bench.undisturbed("elastic-whole", ELASTIC)
    search = bench.search("elastic", settings=ELASTIC)
    with _nodes(1, 1) as cluster:
        search.words = _on(cluster)
        life = search.start()
        assert life.wait_for_epoch("train"), search.log.read_text()
        (node,) = cluster.worker_nodes
        _raylet(node).kill()
        search.deaths += 1
        print("  a node of the final training killed", flush=True)
        code = life.ended()
        assert code == 0, search.log.read_text()
    outcome, expected, found = search.outcome(whole), whole.result(), search.result()
    accuracies = {"whole": expected.pop("accuracy"), "with_one_worker": found.pop("accuracy")}
    outcome["same_result"] = "but for accuracy" if found == expected else False
    return {"accuracy": accuracies, **outcome}


SCENARIOS = (driver, workers, raylet, cut_off, other_size, more_samples, elastic)


@contextmanager
def _nodes(head: int, *others: int) -> Generator[RayCluster]:
    """A cluster of several raylets on this machine, with so many CPU cores each."""
    arguments = {"num_cpus": head, "include_dashboard": False}
    cluster = RayCluster(initialize_head=True, head_node_args=arguments)
    try:
        for cpus in others:
            _add_node(cluster, cpus)
        yield cluster
    finally:
        cluster.shutdown()


def _add_node(cluster: RayCluster, cpus: int) -> Any:
    """A node with a folder of its own, as on a machine of its own.

    One that joins unpacks the code of a job anew, under the feet of workers of other nodes that
    share its folder.
    """
    return cluster.add_node(num_cpus=cpus, temp_dir=tempfile.mkdtemp(prefix="ray-"))


def _on(cluster: RayCluster) -> tuple[str, str]:
    """Words of a command that works on a cluster."""
    return "--address", str(cluster.address)


def _has_trained(search: TinySearch, node: Any) -> bool:
    raylet = _raylet(node).pid
    return any(_parent(one.process) == raylet for one in search.store.epochs.read())


def _trains(node: Any) -> bool:
    """Whether a worker of the node trains at the moment; of several, one alone notes epochs."""
    raylet = _raylet(node).pid
    for child in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split():
        with suppress(OSError):  # it is no more
            title = Path(f"/proc/{child}/cmdline").read_text()
            if "TrainingTrial" in title or "TrainWorker" in title:
                return True
    return False


def _raylet(node: Any) -> subprocess.Popen[bytes]:
    return node.all_processes["raylet"][0].process


def _parent(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it is no more
        return 0
    return int(status.partition("PPid:")[2].split()[0])
