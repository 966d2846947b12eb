"""The measure stage: the latency of the result."""

from cluster.search import Search
from engine.results import BaselineResult, Candidate, Latency


def measure_stage(search: Search, answer: Candidate, baseline: BaselineResult) -> Latency:
    """Measures the result once more, apart from the measurements that chose it.

    They say what is to be expected.
    """
    measuring, spec = search.measuring, answer.spec
    return search.stage(
        "measure",
        Latency,
        (spec, search.recipe.device, measuring.repeats, baseline.latency.ms),
        lambda: measuring.steadily("measure", {spec: answer.latency.ms}, baseline)[spec],
        lambda out: f"{out.ms:.3f} ms",
    )
