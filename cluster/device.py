"""Measurements of the device, by a worker of Ray while no training runs."""

from collections.abc import Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.tasks import result_of
from engine.errors import UserError
from engine.graph import load_graph
from engine.measure import Measurement, measure_here
from engine.recipe import Device
from engine.spec import NetworkSpec


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
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    worker = _measure.options(
        num_cpus=device.threads,
        num_gpus=1 if device.accelerator == "cuda" else 0,
        resources={resource: 1} if resource else {},
        scheduling_strategy="DEFAULT" if resource else here,
    )
    return result_of(worker.remote(list(specs), reference, device, calls, rounds, per_layer))


@ray.remote(max_retries=2)
def _measure(
    specs: list[NetworkSpec],
    reference: NetworkSpec,
    device: Device,
    calls: int,
    rounds: int,
    per_layer: bool,
) -> Measurement:
    graph = load_graph(reference.model, reference.resolution)
    return measure_here(
        graph, specs, reference, device, calls=calls, rounds=rounds, per_layer=per_layer
    )
