"""The stages of a search that come before its widths are chosen, one after the other."""

from dataclasses import dataclass

from cluster.search import Search
from cluster.stages.alpha import alpha_stage
from cluster.stages.baseline import baseline_stage
from cluster.stages.fit import fit_stage
from cluster.stages.profile import profile_stage
from cluster.stages.sample import sample_stage
from engine.limits import Usage
from engine.results import AlphaResult, BaselineResult, FitResult, ProfileResult, SampleResult


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
    baseline = baseline_stage(search)
    limit = search.recipe.limits.resolve(baseline.usage)
    profile = profile_stage(search, baseline)
    alpha = alpha_stage(search, profile, baseline, limit)
    sample = sample_stage(search, alpha.resolution)
    return Groundwork(
        baseline=baseline,
        limit=limit,
        profile=profile,
        alpha=alpha,
        sample=sample,
        fit=fit_stage(search, sample),
    )
