"""Runs a search from the data to the report, and reads what a run has found."""

from pathlib import Path

from rich.console import Console

from cluster.progress import Progress
from cluster.session import Session, session
from cluster.stages import Search
from engine.codec import digest, pretty
from engine.limits import Limits, Usage
from engine.provenance import run_info
from engine.recipe import Recipe
from engine.report import render_report
from engine.results import (
    AccuracyFigures,
    Allocation,
    LatencyFigures,
    MemoryFigures,
    PredictorFigures,
    Result,
    RunRecord,
)
from engine.spec import NetworkSpec
from engine.storage import open_folder
from engine.store import RunStore


def run_search(
    recipe: Recipe,
    location: Path | str,
    recipe_name: str = "",
    address: str | None = None,
    console: Console | None = None,
) -> RunRecord:
    """Runs a search, or goes on with one, and writes ``result.json`` and ``report.html``.

    Everything that the run knows already is used and not done again.

    Args:
        recipe: what to do.
        location: of the run, a directory or a URI.
        recipe_name: for the report.
        address: of a Ray cluster; None starts a private session on this machine.
        console: where progress is shown; None for standard output.

    Raises:
        UserError: something the user can mend.
        KeyboardInterrupt: stopped in order; call again to go on.
    """
    store = RunStore(location)
    with (
        store.lock(),
        Progress(console or Console()) as progress,
        session(address, store.logs) as ray_session,
    ):
        store.write_info(run_info(store.folder.name, recipe_name, recipe))
        search = Search(recipe=recipe, store=store, session=ray_session, progress=progress)
        record = _run_stages(search)
        write_results(record, location)
        return record


def read_run(location: Path | str) -> RunRecord:
    """Returns the record of a finished run; nothing is computed.

    Raises:
        UserError: there is no such run, or it is not finished.
    """
    return _run_stages(known_search(location))


def known_search(location: Path | str) -> Search:
    """Returns the search of a run whose stages may be read but not run."""
    store = RunStore(location, read_only=True)
    return Search(
        recipe=store.info().recipe,
        store=store,
        session=Session(None, store.logs),
        progress=Progress(Console(quiet=True)),
    )


def write_results(record: RunRecord, location: Path | str) -> None:
    """Writes ``result.json`` and ``report.html``."""
    folder = open_folder(location)
    folder.write("result.json", pretty(record.result))
    folder.write("report.html", render_report(record).encode())


def _run_stages(search: Search) -> RunRecord:
    recipe, store = search.recipe, search.store
    recipe.check_batches(search.facts.train_images)
    baseline = search.baseline()
    usage = Usage(latency_ms=baseline.latency.ms, params=baseline.params)
    limit = recipe.limits.resolve(usage)
    profile = search.profile(baseline)
    alpha = search.alpha(profile, baseline, limit)
    sample = search.sample(alpha.resolution)
    fit = search.fit(sample)
    allocated = search.allocate(fit, profile, limit, alpha.resolution, baseline)
    trained = search.train(allocated.spec)
    latency = search.measure(allocated.spec, baseline)
    result = Result(
        alpha=alpha.alpha,
        resolution=alpha.resolution,
        widths=allocated.spec.width_of,
        params=allocated.params,
        macs=allocated.macs,
        latency_ms=LatencyFigures(
            limit=limit.latency_ms,
            predicted=allocated.allocation.usage.latency_ms,
            measured=latency.ms,
            noise_floor=latency.noise_floor,
        ),
        memory=MemoryFigures(limit=limit.params, used=allocated.params),
        accuracy=AccuracyFigures(
            baseline_test=baseline.trained.test_accuracy,
            test=trained.test_accuracy,
            val=trained.val_accuracy,
        ),
        predictors={
            name: PredictorFigures(
                a=p.a, b=p.b, r2=p.r2, flag=p.flag, b_low=p.b_low, b_high=p.b_high
            )
            for name, p in fit.predictors.items()
        },
        stop_reason=allocated.allocation.stop_reason,
        seed=recipe.seed,
        recipe_key=digest(recipe),
    )
    return RunRecord(
        name=store.folder.name,
        recipe=pretty(recipe).decode(),
        data=search.facts,
        baseline=baseline,
        profile=profile,
        alpha=alpha,
        sample=sample,
        fit=fit,
        allocate=allocated,
        trained=trained,
        latency=latency,
        result=result,
        failures=tuple(
            f"{row.task.id}: {row.error}" for row in store.ledger.rows() if row.status == "failed"
        ),
    )


def reallocate(location: Path | str, limits: Limits) -> tuple[NetworkSpec, Allocation]:
    """Answers other limits from an existing run: the base network and the widths, untrained.

    Raises:
        UserError: the run has no allocation of its own yet, or the baseline breaks a limit.
    """
    search = known_search(location)
    recipe = search.recipe
    baseline = search.baseline()
    usage = Usage(latency_ms=baseline.latency.ms, params=baseline.params)
    limit = recipe.limits.resolve(usage)
    profile = search.profile(baseline)
    resolution = search.alpha(profile, baseline, limit).resolution
    fit = search.fit(search.sample(resolution))
    allocated = search.allocate(fit, profile, limit, resolution, baseline)
    model = search.latency_model(profile, baseline).rescaled(allocated.rescaled[-1])
    return search.base, search.widths_within(limits.resolve(usage), model, fit, resolution)
