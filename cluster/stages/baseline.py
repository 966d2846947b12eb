"""The baseline stage: what the base network takes and achieves, before anything is scaled."""

from cluster.search import Search
from cluster.stages.profile import filed_profile
from engine.measure import Measurement
from engine.results import BaselineResult


def baseline_stage(search: Search) -> BaselineResult:
    """Measures the base network and trains it like the result."""
    spec, costs = search.base.spec, search.costs
    task = search.trainings.final_task(spec)

    def run() -> BaselineResult:
        cost = costs.of(spec)
        measured = _measured(search)
        latency = measured.timings[0].latency
        # A limit that cannot be kept or a profile of another device is told before the training.
        if search.recipe.profile.file:
            filed_profile(search, measured.key)
        search.recipe.limits.resolve(costs.usage(spec, latency.ms))
        return BaselineResult(
            spec=spec,
            macs=cost.macs,
            params=cost.params,
            memory_bytes=costs.memory_bytes(spec),
            latency=latency,
            key=measured.key,
            trained=search.trainer.train_final(task),
        )

    return search.stage(
        "baseline",
        BaselineResult,
        (task, search.recipe.device, search.measuring.repeats),
        run,
        lambda out: (
            f"{out.params:,} parameters, {out.latency.ms:.3f} ms, "
            f"{out.trained.test_accuracy:.1%} on the test split"
        ),
    )


def _measured(search: Search) -> Measurement:
    """Measures the base network; elsewhere together with the profile, to save an exchange."""
    recipe, base = search.recipe, search.base.spec
    if recipe.device.place == "offline" and not recipe.profile.file:
        return search.measuring("profile", search.profiling.specs, base, per_layer=True)
    return search.measuring("baseline", [base], base, per_layer=False)
