"""The alpha stage: how a compute budget is best split between resolution and width."""

from dataclasses import replace
from functools import cache

from cluster.search import Search
from cluster.stages.profile import latency_model, stepped_graph
from engine.alpha import rank_candidates
from engine.codec import digest
from engine.limits import Usage
from engine.results import AlphaResult, BaselineResult, ProfileResult
from engine.scaling import scale_for_alpha
from engine.spec import NetworkSpec
from engine.uniform import widest_within
from searchers.alpha import AlphaSearcher


def alpha_stage(
    search: Search, profile: ProfileResult, baseline: BaselineResult, limit: Usage
) -> AlphaResult:
    """Searches α (Eq. 3, 4). Only its resolution is kept."""
    recipe, store, trainer = search.recipe, search.store, search.trainer
    settings, graph, base = recipe.alpha, search.base.graph, search.base.spec
    tasks_of = search.trainings.alpha_tasks
    model = latency_model(search, profile, baseline)
    stepped = stepped_graph(search, model)

    def fits(spec: NetworkSpec) -> bool:
        return search.costs.usage(spec, model.predict(search.costs.of(spec))).within(limit)

    most = search.base.affordable(fits)
    budget = search.base.budget(most)
    by_limits = settings.candidates == "limits"
    limited_by = (limit, profile.model, recipe.allocate.max_width) if by_limits else ()
    data = search.data.facts.digest
    lowered = () if budget == settings.budget else (budget,)
    uses = (base, settings, recipe.task, data, recipe.seed, most, *limited_by, *lowered)

    @cache
    def using_limits(resolution: int) -> NetworkSpec:
        formula = stepped.formula(base.at(resolution))
        return widest_within(formula, recipe.allocate.max_width, fits)

    def candidate(alpha: float) -> NetworkSpec:
        spec = scale_for_alpha(graph, base, alpha, budget, settings.round_to, most)
        return using_limits(spec.resolution) if by_limits else spec

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
            known=searcher.known,
            asha_epochs=settings.training.epochs if settings.scheduler == "asha" else None,
            largest=tasks_of(candidate(settings.high))[0],
            at_once=settings.batch * settings.repeats,
        )
        if len(searcher.alphas) < settings.trials:
            raise KeyboardInterrupt  # stopped while no training ran
        rows = trainer.rows(task for a in searcher.alphas for task in tasks_of(candidate(a)))
        trainer.check_failures("alpha", rows)
        found = rank_candidates(graph, base, searcher.alphas, candidate, rows)
        return replace(found, budget=budget)

    return search.stage(
        "alpha",
        AlphaResult,
        uses,
        run,
        lambda out: (
            f"α = {out.alpha:.2f} of s = {out.budget or settings.budget:.3g}, "
            f"resolution {out.resolution} px, "
            f"{len(out.candidates)} networks compared"
            + ("" if out.tied is None else f", {out.tied} as good within the noise")
        ),
    )
