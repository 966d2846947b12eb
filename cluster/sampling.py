"""More sampled networks for a run that has some: predictors and widths are found again."""

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from cluster.driver import known_search
from cluster.progress import Progress
from cluster.session import session
from cluster.stages import Search
from engine.limits import Usage
from engine.provenance import run_info
from engine.results import AllocateResult, BaselineResult, FitResult, SampleResult
from engine.store import RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What the sampled networks of a run come to."""

    sample: SampleResult
    fit: FitResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """A run before and after it got more sampled networks."""

    before: Sampled
    after: Sampled
    baseline: BaselineResult
    allocated: AllocateResult


def add_samples(
    location: Path | str, more: int, address: str | None = None, console: Console | None = None
) -> Resampled:
    """Samples ``more`` networks than a run has, fits again and allocates again.

    The recipe in ``run.json`` then asks for so many networks, and no longer stops early, so that
    ``run_search`` goes on from there: it trains the new result. Nothing that is known is trained
    again.

    Args:
        location: of a run whose sample stage is complete.
        more: networks beyond those that were trained.
        address, console: as for `cluster.driver.run_search`.

    Raises:
        UserError: something the user can mend; an ``Unfinished`` if the run has no samples yet.
        KeyboardInterrupt: stopped in order; the run goes on with the larger number.
    """
    store = RunStore(location)
    with (
        store.lock(),
        Progress(console or Console()) as progress,
        session(address, store.logs) as ray_session,
    ):
        before, _, _, _ = _fitted(known_search(location))
        info = store.info()
        networks = before.sample.networks + more
        sample = replace(info.recipe.sample, networks=networks, stop_at_b_ci=None)
        recipe = replace(info.recipe, sample=sample)
        store.write_info(run_info(info.name, info.recipe_name, recipe))
        search = Search(recipe=recipe, store=store, session=ray_session, progress=progress)
        after, baseline, limit, resolution = _fitted(search)
        profile = search.profile(baseline)
        allocated = search.allocate(after.fit, profile, limit, resolution, baseline)
        return Resampled(before=before, after=after, baseline=baseline, allocated=allocated)


def _fitted(search: Search) -> tuple[Sampled, BaselineResult, Usage, int]:
    """Runs, or reads, the stages up to the fit."""
    baseline = search.baseline()
    limit = search.recipe.limits.resolve(baseline.usage)
    resolution = search.alpha(search.profile(baseline), baseline, limit).resolution
    sample = search.sample(resolution)
    return Sampled(sample=sample, fit=search.fit(sample)), baseline, limit, resolution
