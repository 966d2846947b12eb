"""Measurements of the device, in a worker of their own with nothing else running beside it."""

from collections.abc import Sequence

import ray

from engine.environment import environment
from engine.graph import load_graph
from engine.measure import Timing, time_networks
from engine.recipe import Device
from engine.spec import NetworkSpec


def measure(
    specs: Sequence[NetworkSpec],
    reference: NetworkSpec,
    device: Device,
    calls: int,
    rounds: int,
    per_layer: bool,
    reference_ms: float | None = None,
) -> tuple[list[Timing], dict[str, str]]:
    """Times networks in a fresh worker, and returns what they were measured on as well.

    Args:
        specs, reference, device, calls, rounds, per_layer: as for `engine.measure.time_networks`.
        reference_ms: what the reference took in an earlier session. All times are scaled as if it
            took that now, because two sessions on one machine compare as ratios to it.

    Raises:
        UserError: the device is not there or cannot be timed.
    """
    gpus = 1 if device.accelerator == "cuda" else 0
    worker = _measure.options(num_cpus=device.threads, num_gpus=gpus)
    timings, environment = ray.get(
        worker.remote(list(specs), reference, device, calls, rounds, per_layer)
    )
    if reference_ms is not None:
        timings = [timing.rescaled(reference_ms / timing.reference_ms) for timing in timings]
    return timings, environment


@ray.remote(max_retries=2)
def _measure(
    specs: list[NetworkSpec],
    reference: NetworkSpec,
    device: Device,
    calls: int,
    rounds: int,
    per_layer: bool,
) -> tuple[list[Timing], dict[str, str]]:
    graph = load_graph(reference.model, reference.resolution)
    timings = time_networks(
        graph, specs, reference, device, calls=calls, rounds=rounds, per_layer=per_layer
    )
    return timings, environment(device)
