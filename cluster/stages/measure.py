"""The measure stage: the latency of the result."""

from cluster.search import Search
from engine.results import BaselineResult, Latency
from engine.spec import NetworkSpec


def measure_stage(search: Search, spec: NetworkSpec, baseline: BaselineResult) -> Latency:
    """Measures the result once more, apart from the measurements that chose it."""
    measuring = search.measuring
    return search.stage(
        "measure",
        Latency,
        (spec, search.recipe.device, measuring.repeats, baseline.latency.ms),
        lambda: measuring.latencies("measure", [spec], baseline)[0],
        lambda out: f"{out.ms:.3f} ms",
    )
