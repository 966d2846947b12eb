"""The stage behind a comparison's figure: the base network in one dimension at a time."""

from cluster.search import Search
from cluster.stages.groundwork import Groundwork
from engine.dimensions import Dimensions, measure_dimensions


def dimensions_stage(search: Search, known: Groundwork) -> Dimensions | None:
    """Scales the base network in one dimension at a time and measures what the device makes of it.

    None for a device that is elsewhere: it would take another exchange of files.
    """
    if search.recipe.device.place == "offline":
        return None
    baseline = known.baseline

    def run() -> Dimensions:
        return measure_dimensions(
            search.base.graph,
            search.base.spec,
            baseline.key.batch,
            lambda specs: search.measuring.latencies("dimensions", specs, baseline),
        )

    uses = (
        search.base.spec,
        search.recipe.device,
        search.measuring.repeats,
        baseline.latency.ms,
    )
    return search.stage(
        "dimensions",
        Dimensions,
        uses,
        run,
        lambda out: f"{', '.join(out.families)} alone, measured",
    )
