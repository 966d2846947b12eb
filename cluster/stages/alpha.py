"""The alpha stage: how a compute budget is best split between resolution and width."""

from cluster.search import Search
from cluster.stages.profile import latency_model
from engine.alpha import rank_candidates
from engine.codec import digest
from engine.hardware.contract import LatencyModel
from engine.limits import Usage
from engine.results import AlphaResult, BaselineResult, ProfileResult
from engine.scaling import scale_for_alpha
from engine.spec import NetworkSpec
from searchers.alpha import AlphaSearcher


def alpha_stage(
    search: Search, profile: ProfileResult, baseline: BaselineResult, limit: Usage
) -> AlphaResult:
    """Searches α (Eq. 3, 4). Only its resolution is kept."""
    recipe, store, trainer = search.recipe, search.store, search.trainer
    settings, graph, base = recipe.alpha, search.base.graph, search.base.spec
    tasks_of = search.trainings.alpha_tasks
    most = _largest_affordable(search, latency_model(search, profile, baseline), limit)
    uses = (base, settings, recipe.task, search.data.facts.digest, recipe.seed, most)

    def candidate(alpha: float) -> NetworkSpec:
        return scale_for_alpha(graph, base, alpha, settings.budget, settings.round_to, most)

    def run() -> AlphaResult:
        trials = trainer.trials
        searcher = AlphaSearcher(
            settings=settings,
            seed=recipe.seed,
            journal=store.scratch / "studies" / f"{digest(uses)}.journal",
            candidate=candidate,
            tasks_of=tasks_of,
            finished=store.ledger.seen,
        )
        trials.run_search(
            "alpha",
            searcher,
            total=settings.trials * settings.repeats,
            asha_epochs=settings.training.epochs if settings.scheduler == "asha" else None,
            largest=tasks_of(candidate(settings.high))[0],
        )
        if len(searcher.alphas) < settings.trials:
            raise KeyboardInterrupt  # stopped while no training ran
        rows = trainer.rows(task for a in searcher.alphas for task in tasks_of(candidate(a)))
        trainer.check_failures("alpha", rows)
        return rank_candidates(graph, base, searcher.alphas, candidate, rows)

    return search.stage(
        "alpha",
        AlphaResult,
        uses,
        run,
        lambda out: (
            f"α = {out.alpha:.2f}, resolution {out.resolution} px, "
            f"{len(out.candidates)} networks compared"
            + ("" if out.tied is None else f", {out.tied} as good within the noise")
        ),
    )


def _largest_affordable(search: Search, model: LatencyModel, limit: Usage) -> int:
    """The largest resolution at which the base widths keep the limits of latency and memory.

    The paper lets α choose any resolution; one that leaves no room for any width would end
    the search without a network.
    """
    base, costs = search.base, search.costs

    def fits(spec: NetworkSpec) -> bool:
        return costs.usage(spec, model.predict(costs.of(spec))).within(limit)

    affordable = [resolution for resolution in base.resolutions if fits(base.spec.at(resolution))]
    return max(affordable, default=base.spec.resolution)
