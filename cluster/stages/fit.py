"""The fit stage: importance as a function of width."""

from cluster.search import Search
from engine.predictors import fit_predictors
from engine.results import FitResult, SampleResult


def fit_stage(search: Search, sample: SampleResult) -> FitResult:
    """Fits importance against width for every group (Eq. 6)."""
    names = [group.name for group in search.base.graph.groups]
    return search.stage(
        "fit",
        FitResult,
        (sample, names),
        lambda: fit_predictors(sample.samples, names),
        lambda out: (
            f"R² {min(p.r2 for p in out.predictors.values()):.3f} at the least, "
            f"{sum(bool(p.flag) for p in out.predictors.values())} of "
            f"{len(out.predictors)} groups flagged"
        ),
    )
