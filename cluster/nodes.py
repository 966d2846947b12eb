"""Looks at every node of the Ray cluster that has been joined."""

import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.machine import Machine, this_machine
from engine.errors import UserError
from engine.recipe import Cluster
from engine.storage import open_folder

_SECONDS = 120.0
"""A node that has not answered by then is one that nothing can be run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node.

    Attributes:
        address: how the cluster calls it.
        machine: what it is; None if it did not answer, and ``error`` says why.
        cpus, gpus: what Ray gives out of it.
        clock_skew: seconds that its clock is at least ahead of this machine's.
        reads_shared: whether it reads where runs are kept what this machine has written there.
    """

    address: str
    cpus: float
    gpus: float
    machine: Machine | None = None
    clock_skew: float = 0.0
    reads_shared: bool = False
    error: str = ""


def inspect_nodes(runs_dir: str) -> list[Node]:
    """Runs a task on every node that is alive, which writes and reads where runs are kept.

    Args:
        runs_dir: where that is, a path or a URI.

    Raises:
        UserError: this machine cannot write there.
    """
    folder = open_folder(runs_dir)
    # Only a store that is shared shows it to the other machines.
    mark = f".shared-{uuid.uuid4().hex}"
    folder.write(mark, b"x")
    try:
        asked: list[tuple[dict[str, Any], Any, float]] = []
        for node in ray.nodes():
            if not node["Alive"]:
                continue
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look = _look.options(num_cpus=0, scheduling_strategy=here, max_retries=0)
            asked.append((node, look.remote(folder.location, mark), time.time()))
        until = time.monotonic() + _SECONDS  # for all: nodes that hang do not add up
        return [_node(node, answer, sent, until) for node, answer, sent in asked]
    finally:
        folder.delete(mark)


def check_shared(location: str, training: Cluster) -> None:
    """Checks that every node that may train sees a run, where there are several nodes.

    Args:
        location: of the run.
        training: what one training holds.

    Raises:
        UserError: one does not; what it trains would be lost.
    """
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return
    blind = [
        node.address
        for node in inspect_nodes(location)
        if node.machine is not None
        and not node.reads_shared
        and node.cpus >= training.cpus_per_trial
        and node.gpus >= training.gpu_share
    ]
    if blind:
        raise UserError(
            f"{', '.join(blind[:3])}{' …' if len(blind) > 3 else ''} of the cluster cannot see "
            f"{location}; give a --runs-dir that all its machines share, or s3://BUCKET/PATH"
        )


def _node(node: dict[str, Any], answer: Any, sent: float, until: float) -> Node:
    resources = node["Resources"]
    name = node["NodeManagerAddress"]
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    try:
        machine, shared = ray.get(answer, timeout=max(0.0, until - time.monotonic()))
    except (RayError, TimeoutError) as error:
        why = " ".join(str(error).split())[-300:]
        return Node(address=name, cpus=cpus, gpus=gpus, error=why or type(error).__name__)
    # The node looked at its clock between the two moments; what is outside of them is skew.
    ahead = max(0.0, machine.clock - time.time()) - max(0.0, sent - machine.clock)
    return Node(
        address=name,
        cpus=cpus,
        gpus=gpus,
        machine=machine,
        clock_skew=ahead,
        reads_shared=shared,
    )


@ray.remote
def _look(runs_dir: str, mark: str) -> tuple[Machine, bool]:
    return this_machine(runs_dir), open_folder(runs_dir).exists(mark)
