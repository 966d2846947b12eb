"""Measurements of the device, in a worker of their own with nothing else running beside it."""

from collections.abc import Sequence

import ray
from ray.exceptions import RayTaskError

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
    """Times networks in a fresh worker; see `engine.measure.time_networks`.

    A device that is a Ray node is held whole by its custom resource, so that it is measured by one
    task at a time.

    Raises:
        UserError: the device is not there or cannot be timed.
    """
    resource = device.node_resource
    if resource and ray.cluster_resources().get(resource, 0) < 1:
        raise UserError(
            f"no node of the Ray cluster has the resource {resource!r} of device.place; start one "
            f"with `ray start --address=… --resources='{{\"{resource}\": 1}}'`"
        )
    worker = _measure.options(
        num_cpus=device.threads,
        num_gpus=1 if device.accelerator == "cuda" else 0,
        resources={resource: 1} if resource else {},
    )
    task = worker.remote(list(specs), reference, device, calls, rounds, per_layer)
    try:
        return ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None  # without the traceback that Ray makes its message
        raise


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
