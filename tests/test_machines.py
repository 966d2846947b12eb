"""What machines and clusters are judged by: hand-made ones, and this one against its own tables."""

import os
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

import cluster.nodes
from cluster.doctor import Check, judge_cluster, judge_here, judge_machine
from cluster.interface import interface_of
from cluster.machine import Machine, this_machine
from cluster.nodes import Node, check_shared, inspect_nodes
from engine import host_memory
from engine.cli import main
from engine.errors import UserError
from engine.recipe import Cluster

GIB = 2**30
GOOD = Machine(
    versions={name: "1.0" for name in ("python", "ray", "torch", "numpy")},
    cluster_extra=True,
    cores=8,
    gpus=("H100",),
    cuda="13.0",
    memory=32 * GIB,
    shared_memory=16 * GIB,
    disk_free=100 * GIB,
    runs_error="",
    clock=0.0,
)
NODE = Node(address="10.0.0.2", cpus=8, gpus=1, machine=GOOD, reads_shared=True)


def states(checks: Sequence[Check]) -> dict[str, str]:
    """Of the checks that are not ok, by what is checked."""
    assert all(bool(check.remedy) == (check.state != "ok") for check in checks)
    return {check.what: check.state for check in checks if check.state != "ok"}


# One machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"versions": GOOD.versions | {"torch": "not installed"}}, {"packages": "fail"}),
        ({"cores": 1}, {"cores": "warn"}),
        ({"gpus": ()}, {"GPUs": "warn"}),
        ({"gpus": (), "cuda": ""}, {}),  # a machine without GPUs is one, too
        ({"memory": 4 * GIB - 1}, {"memory": "warn"}),
        ({"shared_memory": 9 * GIB}, {"/dev/shm": "warn"}),  # 30 % are 9.6
        ({"shared_memory": None}, {}),
        ({"disk_free": 10 * GIB - 1}, {"disk for runs": "warn"}),
        ({"disk_free": GIB - 1}, {"disk for runs": "fail"}),
        ({"disk_free": None}, {}),  # in an object store
        ({"runs_error": "permission denied", "disk_free": None}, {"runs": "fail"}),
    ],
)
def test_one_machine_is_judged(changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert states(list(judge_machine(replace(GOOD, **changes)))) == expected


def test_what_matters_here_is_the_extra_and_who_listens(monkeypatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setattr("cluster.doctor._PORTS", {port: "a Ray cluster's GCS"})
        taken = list(judge_here(GOOD))
    free = list(judge_here(replace(GOOD, cluster_extra=False)))
    assert [check.found for check in taken] == ["installed", "taken, by a Ray cluster's GCS?"]
    assert [check.found for check in free] == ["not installed", "free"]
    assert states(free) == {"hacscale[cluster]": "warn"}


def test_this_machine_is_what_the_system_says(tmp_path: Path) -> None:
    machine = this_machine(str(tmp_path))
    memory = Path("/proc/meminfo").read_text().partition("MemTotal:")[2].split()[0]
    assert machine.memory == pytest.approx(int(memory) * 1024, rel=0.01)
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.versions["ray"] == version("ray")
    found = os.statvfs(tmp_path)
    assert machine.disk_free == pytest.approx(found.f_bavail * found.f_frsize, rel=0.05)
    assert abs(machine.clock - time.time()) < 60
    assert machine.runs_error == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("memberships", "limits", "expected"),
    [
        ("0::/", {"memory.max": "max"}, None),
        ("0::/", {"memory.max": "5000"}, 5000),
        # A job of SLURM: its step may have what is left of what the job has.
        (
            "0::/slurm/job_7/step_0",
            {"slurm/job_7/memory.max": "3000", "slurm/job_7/step_0/memory.max": "max"},
            3000,
        ),
        (
            "9:cpu:/else\n4:memory,hugetlb:/job_7\n0::/",
            {"memory/job_7/memory.limit_in_bytes": "2000", "memory/memory.limit_in_bytes": "8000"},
            2000,
        ),
        # A container that does not see where it is: its own limit lies at the root.
        ("4:memory:/docker/a1b2", {"memory/memory.limit_in_bytes": "7000"}, 7000),
        ("0::/../..", {"memory.max": "6000"}, 6000),
    ],
)
def test_memory_is_what_the_control_groups_leave(
    memberships: str,
    limits: dict[str, str],
    expected: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cgroup").write_text(f"{memberships}\n")
    for name, limit in limits.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    monkeypatch.setattr(host_memory, "_MEMBERSHIPS", tmp_path / "cgroup")
    monkeypatch.setattr(host_memory, "_GROUPS", tmp_path / "fs")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host_memory.host_memory() == (expected or whole)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    machine = this_machine(str(tmp_path / "file" / "runs"))
    assert "Not a directory" in machine.runs_error
    assert machine.disk_free is None


def test_the_interface_of_an_address_is_found() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.77") is None  # of nobody, by RFC 5737
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            outward.connect(("203.0.113.77", 9))  # sends nothing
        except OSError:
            return  # a machine without a network
        mine = outward.getsockname()[0]
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    assert interface_of(mine) in {route[0] for route in routes}


# A cluster ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (NODE, {}),
        (replace(NODE, machine=None, error="no worker starts"), {"a task": "fail"}),
        (replace(NODE, gpus=2), {"GPUs of Ray": "fail"}),
        (replace(NODE, clock_skew=-6.0), {"clock": "warn"}),
        (replace(NODE, reads_shared=False), {"shared storage": "fail"}),
        (
            replace(NODE, machine=replace(GOOD, versions=GOOD.versions | {"ray": "2.0"})),
            {"versions": "fail"},
        ),
        (
            replace(NODE, machine=replace(GOOD, versions=GOOD.versions | {"numpy": "2.0"})),
            {"versions": "warn"},
        ),
    ],
)
def test_nodes_are_judged_against_this_machine(node: Node, expected: dict[str, str]) -> None:
    others = [NODE, node]
    checks = list(judge_cluster(others, GOOD, "/shared/runs"))
    assert states(checks) == expected
    assert {check.where for check in checks} == {node.address}


def test_every_node_that_lives_is_asked(tmp_path: Path, monkeypatch) -> None:
    """Ray's answers are made up; what runs on a node runs here, on two disks and with no answer."""
    elsewhere = tmp_path / "elsewhere"
    asked: list[str] = []

    def remote(runs_dir: str, mark: str) -> Any:
        node = asked[-1]
        if node == "silent":
            return GetTimeoutError("Get timed out")
        machine, shared = cluster.nodes._look._function(
            str(elsewhere) if node == "other disk" else runs_dir, mark
        )
        return replace(machine, clock=time.time() + (100 if node == "fast" else 0)), shared

    def get(answer: Any, timeout: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def options(*, scheduling_strategy: Any, **_: Any) -> SimpleNamespace:
        asked.append(scheduling_strategy.node_id)
        return SimpleNamespace(remote=remote)

    names = ("shared disk", "other disk", "silent", "fast", "dead")
    nodes = [
        {
            "NodeID": name,
            "NodeManagerAddress": name,
            "Alive": name != "dead",
            "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 1.0},
        }
        for name in names
    ]
    monkeypatch.setattr(cluster.nodes, "ray", SimpleNamespace(nodes=lambda: nodes, get=get))
    look = SimpleNamespace(options=options, _function=cluster.nodes._look._function)
    monkeypatch.setattr(cluster.nodes, "_look", look)
    monkeypatch.setattr(
        cluster.nodes,
        "NodeAffinitySchedulingStrategy",
        lambda node_id, soft: SimpleNamespace(node_id=node_id),
    )
    found = {node.address: node for node in inspect_nodes(str(tmp_path / "runs"))}
    assert asked == list(found) == ["shared disk", "other disk", "silent", "fast"]
    assert [node.reads_shared for node in found.values()] == [True, False, False, True]
    assert all((node.cpus, node.gpus) == (4.0, 1.0) for node in found.values())
    assert found["silent"].machine is None
    assert found["silent"].error == "Get timed out"
    assert found["shared disk"].clock_skew == pytest.approx(0, abs=1)
    assert found["fast"].clock_skew == pytest.approx(100, abs=2)
    assert not list((tmp_path / "runs").iterdir())


def test_a_machine_that_would_train_and_does_not_see_the_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, alive = this_machine(str(tmp_path)), [{"Alive": True}]
    found = [
        Node(address="10.0.0.1", cpus=4, gpus=1, machine=machine, reads_shared=True),
        Node(address="10.0.0.2", cpus=4, gpus=0, machine=machine, reads_shared=False),
        Node(address="10.0.0.3", cpus=4, gpus=0, machine=None, error="gone"),
    ]
    nodes = list[dict[str, Any]]()
    monkeypatch.setattr(cluster.nodes, "ray", SimpleNamespace(nodes=lambda: nodes))
    monkeypatch.setattr(cluster.nodes, "inspect_nodes", lambda _: found)
    nodes[:] = alive
    check_shared("/runs/x", Cluster())  # a machine alone
    nodes[:] = 3 * alive
    with pytest.raises(UserError, match=r"^10\.0\.0\.2 of the cluster cannot see /runs/x; give"):
        check_shared("/runs/x", Cluster())
    check_shared("/runs/x", Cluster(gpus_per_trial=1.0))  # it has no GPU to train with
    check_shared("/runs/x", Cluster(cpus_per_trial=5))


def test_the_doctor_of_one_machine_ends_with_1_if_something_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(
        "cluster.machine.shutil.disk_usage",
        lambda _: shutil._ntuple_diskusage(2 * GIB, 2 * GIB, GIB // 2),
    )
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--runs-dir", str(tmp_path)])
    assert ended.value.code == 1
    (line,) = (s for s in capsys.readouterr().out.splitlines() if "disk for runs" in s)
    assert line.split()[0] == "fail" and "0.5 GiB free" in line
