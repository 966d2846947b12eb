"""The stages of a search that come before its widths are chosen."""

from dataclasses import dataclass

from cluster.stages import Search
from engine.limits import Usage
from engine.results import (
    AllocateResult,
    AlphaResult,
    BaselineResult,
    FitResult,
    ProfileResult,
    SampleResult,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groundwork:
    """What a search knows before it chooses widths; ``limit`` is absolute."""

    baseline: BaselineResult
    limit: Usage
    profile: ProfileResult
    alpha: AlphaResult
    sample: SampleResult
    fit: FitResult


def groundwork(search: Search) -> Groundwork:
    """Runs the stages from the baseline to the fit, as far as they are not complete."""
    baseline = search.baseline()
    limit = search.recipe.limits.resolve(baseline.usage)
    profile = search.profile(baseline)
    alpha = search.alpha(profile, baseline, limit)
    sample = search.sample(alpha.resolution)
    return Groundwork(
        baseline=baseline,
        limit=limit,
        profile=profile,
        alpha=alpha,
        sample=sample,
        fit=search.fit(sample),
    )


def allocated(search: Search, known: Groundwork) -> AllocateResult:
    """Chooses widths with the device in the loop, if that is not done."""
    return search.allocate(
        known.fit, known.profile, known.limit, known.alpha.resolution, known.baseline
    )
