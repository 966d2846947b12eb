"""Measurements of the device, by a worker of Ray while no training runs."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.session import bundle_of, lacking_node, what_is_free
from cluster.tasks import result_of
from engine.errors import UserError
from engine.graph import load_graph
from engine.measure import Measurement, measure_here
from engine.recipe import Device
from engine.spec import NetworkSpec

log = logging.getLogger("hacscale")

_PATIENCE_SECONDS = 60.0
"""Ray says nothing of a task that waits."""


def measure(
    specs: Sequence[NetworkSpec],
    reference: NetworkSpec,
    device: Device,
    calls: int,
    rounds: int,
    per_layer: bool,
) -> Measurement:
    """Times networks in a worker; see `engine.measure.time_networks`.

    A device that is a Ray node is held whole by its custom resource, so that it is measured by one
    task at a time. The device ``here`` is the node of the driver, or another one where that has no
    cores to give: then as good as any, and a profile of another kind of machine is refused.

    Raises:
        UserError: the device is not there or cannot be timed.
    """
    resource = device.node_resource
    if resource and ray.cluster_resources().get(resource, 0) < 1:
        raise UserError(
            f"no node of the Ray cluster has the resource {resource!r} of device.place; start one "
            f"with `ray start --address=… --resources='{{\"{resource}\": 1}}'`"
        )
    if resource and (lack := lacking_node("measurement", bundle_of(device))):
        raise UserError(f"{lack}; start a node that has it, or change device")
    worker = _in_worker(device)
    begun_and_measured = worker.remote(list(specs), reference, device, calls, rounds, per_layer)
    _tell_if_it_waits(begun_and_measured, device)
    result_of(next(begun_and_measured))
    return result_of(next(begun_and_measured))


def _tell_if_it_waits(task: Any, device: Device) -> None:
    if not ray.wait([task], timeout=_PATIENCE_SECONDS)[0]:
        log.warning("a measurement waits for Ray, %s", what_is_free(bundle_of(device)))


def _in_worker(device: Device) -> Any:
    """What measures, in a worker that has booked the device.

    One with a GPU ends after it (so Ray does where a GPU is booked in ``ray.remote`` itself, and
    not by ``options``): it would keep memory of the GPU that trainings are to have.
    """
    resource, gpu = device.node_resource, int(device.accelerator == "cuda")
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(
        max_retries=2,
        num_returns="streaming",
        num_cpus=device.threads,
        num_gpus=gpu,
        resources={resource: 1} if resource else {},
        # Its stub lacks the affinity to a node.
        scheduling_strategy="DEFAULT" if resource else here,  # pyright: ignore[reportArgumentType]
    )(_measure)


def _measure(
    specs: list[NetworkSpec],
    reference: NetworkSpec,
    device: Device,
    calls: int,
    rounds: int,
    per_layer: bool,
) -> Iterator[Measurement | None]:
    yield None  # it has begun
    graph = load_graph(reference.model, reference.resolution)
    yield measure_here(
        graph, specs, reference, device, calls=calls, rounds=rounds, per_layer=per_layer
    )
