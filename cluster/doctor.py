"""Judges a machine or a cluster: what would go wrong, and what to do about it."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.machine import Machine
from cluster.nodes import Node

_GIB = 2**30
_LEAST_MEMORY = 4 * _GIB
_LEAST_DISK = 1 * _GIB
_LITTLE_DISK = 10 * _GIB
_LEAST_SHARED = 0.3
"""Ray's object store takes this share of the memory, in /dev/shm; else it goes to the disk."""
_MOST_SKEW = 5.0
_PORTS = {6379: "a Ray cluster's GCS", 8265: "its dashboard", 10001: "Ray Client"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the table.

    Attributes:
        where: the machine, or empty for what concerns all.
        remedy: what to do, unless the state is ``ok``.
    """

    state: Literal["ok", "warn", "fail"]
    where: str
    what: str
    found: str
    remedy: str = ""


def judge_machine(machine: Machine, where: str = "") -> Iterator[Check]:
    """Judges one machine by itself."""
    versions = machine.versions
    missing = [name for name, version in versions.items() if version == "not installed"]
    yield Check(
        state="fail" if missing else "ok",
        where=where,
        what="packages",
        found=", ".join(f"{name} {versions[name]}" for name in ("python", "ray", "torch")),
        remedy=f"install {', '.join(missing)} there" if missing else "",
    )
    yield _at_least("cores", f"{machine.cores}", machine.cores >= 2, where, "trainings take turns")
    yield Check(
        state="warn" if machine.cuda and not machine.gpus else "ok",
        where=where,
        what="GPUs",
        found=", ".join(machine.gpus) or f"none (CUDA {machine.cuda or 'not built in'})",
        remedy="PyTorch is built for CUDA but sees no GPU: see `nvidia-smi` and the driver"
        if machine.cuda and not machine.gpus
        else "",
    )
    enough = machine.memory >= _LEAST_MEMORY
    yield _at_least("memory", _size(machine.memory), enough, where, "a worker takes 0.6 GiB")
    if machine.shared_memory is not None:
        yield _at_least(
            "/dev/shm",
            _size(machine.shared_memory),
            machine.shared_memory >= _LEAST_SHARED * machine.memory,
            where,
            "less than 30 % of the memory puts Ray's object store on the disk; enlarge it "
            "(docker: --shm-size, Kubernetes: an emptyDir of medium Memory)",
        )
    yield _disk(machine, where)


def judge_here(machine: Machine) -> Iterator[Check]:
    """Judges what matters only where commands are typed."""
    yield _at_least(
        "hacscale[cluster]",
        "installed" if machine.cluster_extra else "not installed",
        machine.cluster_extra,
        "",
        "submit, logs, stop and ray:// need `pip install 'hacscale[cluster]'`",
    )
    for port, service in _PORTS.items():
        taken = _listens(port)
        yield Check(
            state="ok",
            where="",
            what=f"port {port}",
            found=f"taken, by {service}?" if taken else "free",
        )


def judge_cluster(nodes: Sequence[Node], here: Machine, runs_dir: str) -> Iterator[Check]:
    """Judges the nodes, each by itself and against one another and this machine."""
    for node in nodes:
        machine = node.machine
        if machine is None:
            yield Check(
                state="fail",
                where=node.address,
                what="a task",
                found=node.error,
                remedy="the node runs no task: see its Ray logs, or take it out of the cluster",
            )
            continue
        yield from judge_machine(machine, node.address)
        if node.gpus > len(machine.gpus):
            yield Check(
                state="fail",
                where=node.address,
                what="GPUs of Ray",
                found=f"{node.gpus:g}, but PyTorch sees {len(machine.gpus)}",
                remedy="install a PyTorch for the node's CUDA driver",
            )
        yield _same_versions(machine, here, node.address)
        skew = abs(node.clock_skew)
        yield _at_least(
            "clock", f"{skew:.1f} s off", skew <= _MOST_SKEW, node.address, "set it by NTP"
        )
        yield Check(
            state="ok" if node.reads_shared else "fail",
            where=node.address,
            what="shared storage",
            found=f"{runs_dir} is {'' if node.reads_shared else 'not '}the one of here",
            remedy="" if node.reads_shared else "give a --runs-dir that all machines share",
        )


def _same_versions(machine: Machine, here: Machine, where: str) -> Check:
    other = [name for name, found in machine.versions.items() if found != here.versions[name]]
    # Ray refuses another version of itself or another minor version of Python; results differ
    # with PyTorch, and the others seldom matter.
    fatal = {"ray", "python", "torch"} & set(other)
    return Check(
        state="fail" if fatal else "warn" if other else "ok",
        where=where,
        what="versions",
        found="those of here"
        if not other
        else ", ".join(f"{n} {machine.versions[n]}, here {here.versions[n]}" for n in other),
        remedy="install the same versions everywhere" if other else "",
    )


def _disk(machine: Machine, where: str) -> Check:
    free = machine.disk_free
    if machine.runs_error:
        return Check(
            state="fail",
            where=where,
            what="runs",
            found=machine.runs_error,
            remedy="give a --runs-dir that can be written",
        )
    if free is None:
        return Check(state="ok", where=where, what="runs", found="can be written")
    return Check(
        state="fail" if free < _LEAST_DISK else "warn" if free < _LITTLE_DISK else "ok",
        where=where,
        what="disk for runs",
        found=f"{_size(free)} free",
        remedy="" if free >= _LITTLE_DISK else "free some, or give another --runs-dir",
    )


def _at_least(what: str, found: str, holds: bool, where: str, remedy: str) -> Check:
    state: Literal["ok", "warn"] = "ok" if holds else "warn"
    return Check(state=state, where=where, what=what, found=found, remedy="" if holds else remedy)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"
