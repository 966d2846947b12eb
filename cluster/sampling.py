"""More sampled networks for a run that has some: predictors and widths are found again."""

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from cluster.opened import known_search, opened_search
from cluster.stages.allocate import allocate_stage
from cluster.stages.groundwork import Groundwork, groundwork
from engine.provenance import run_info
from engine.results import AllocateResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """A run before and after it got more sampled networks."""

    before: Groundwork
    after: Groundwork
    allocated: AllocateResult


def add_samples(
    location: Path | str,
    more: int,
    address: str | None = None,
    console: Console | None = None,
    retry_failed: bool = False,
) -> Resampled:
    """Samples ``more`` networks than a run has, fits again and allocates again.

    The recipe in ``run.json`` then asks for so many networks, and no longer stops early, so that
    ``run_search`` goes on from there: it trains the new result. Nothing that is known is trained
    again, but with another ``sample.source`` than ``trained``, where one training stands for all
    networks, that one.

    Args:
        location: of a run whose sample stage is complete.
        more: networks beyond those that were trained.
        address, console, retry_failed: as for `cluster.driver.run_search`.

    Raises:
        UserError: something the user can mend; an ``Unfinished`` if the run has no samples yet.
        KeyboardInterrupt: stopped in order; the run goes on with the larger number.
    """
    with opened_search(location, address, console, retry_failed=retry_failed) as search:
        before = groundwork(known_search(location))
        info = search.store.info()
        networks = before.sample.networks + more
        sample = replace(info.recipe.sample, networks=networks, stop_at_b_ci=None)
        recipe = replace(info.recipe, sample=sample)
        larger = replace(search, recipe=recipe)
        larger.check()  # what cannot be run must not take the place of what was
        search.store.write_info(run_info(info.name, info.recipe_name, recipe))
        after = groundwork(larger)
        return Resampled(before=before, after=after, allocated=allocate_stage(larger, after))
