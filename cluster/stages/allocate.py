"""The allocate stage: widths for the limits, with the device in the loop."""

from collections.abc import Mapping

from cluster.search import Search
from cluster.stages.groundwork import Groundwork
from cluster.stages.profile import latency_model, stepped_graph
from engine.budgets import Budgets
from engine.closed_loop import best, close_loop
from engine.results import AllocateResult, Latency


def allocate_stage(search: Search, known: Groundwork) -> AllocateResult:
    """Allocates widths (Algorithm 1) with the device in the loop (`engine.closed_loop`)."""
    recipe, costs, measuring = search.recipe, search.costs, search.measuring
    baseline, limit = known.baseline, known.limit
    start = search.base.spec.at(known.alpha.resolution)

    def measured(widths: Mapping[str, int], session: int) -> Latency:
        return measuring.latencies("allocate", [start.with_widths(widths)], baseline, session)[0]

    def run() -> AllocateResult:
        budgets = budgets_of(search, known, start.resolution)
        rounds = close_loop(
            lambda factor: budgets.allocate(limit, factor),
            measured,
            start.width_of,
            limit.latency_ms,
            recipe.allocate.rounds,
            measuring.tries,
        )
        chosen = best(rounds, limit.latency_ms)
        spec = start.with_widths(rounds[chosen].allocation.widths)
        cost = costs.of(spec)
        return AllocateResult(
            spec=spec,
            macs=cost.macs,
            params=cost.params,
            memory_bytes=costs.memory_bytes(spec),
            rounds=rounds,
            chosen=chosen,
        )

    uses = (
        known.fit,
        known.profile.model,
        limit,
        start,
        recipe.allocate,
        recipe.device,
        measuring.repeats,
        baseline.latency.ms,
    )
    return search.stage(
        "allocate",
        AllocateResult,
        uses,
        run,
        lambda out: f"{out.allocation.stop_reason}; measured {out.latency.ms:.3f} ms",
    )


def budgets_of(search: Search, known: Groundwork, resolution: int) -> Budgets:
    """All that Algorithm 1 needs, from the base widths at ``resolution``."""
    base, recipe = search.base.spec, search.recipe
    model = latency_model(search, known.profile, known.baseline)
    return Budgets(
        base=base,
        formula=stepped_graph(search, model).formula(base.at(resolution)),
        predictors=known.fit.predictors,
        model=model.to_json(),
        settings=recipe.allocate,
        baseline=known.baseline.usage,
        batch=recipe.device.batch,
    )
