"""How well the exponents of Eq. 6 are known: a bootstrap over the sampled networks."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.results import ImportanceSample

RESAMPLES = 1000
LEVEL = 0.95
FEWEST_SAMPLES = 8
"""Below this, resamples of a handful of points are much alike and their spread says little."""

_LEAST_USABLE = 0.9
_NO_SPREAD = 1e-9

Interval = tuple[float, float]


def b_intervals(
    samples: Sequence[ImportanceSample], groups: Sequence[str]
) -> dict[str, Interval | None]:
    """Returns the percentile interval of every group's own b at `LEVEL`.

    Networks are drawn with replacement `RESAMPLES` times, the same draws for all groups, and b is
    the least-squares slope of log I against log C in each. The generator's seed is the number of
    networks, so equal samples have equal intervals.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentile
    interval) and 9.5 (resampling pairs).

    Returns:
        None for all groups of fewer networks than `FEWEST_SAMPLES`; and for a group where a tenth
        of the resamples or more has no slope: nearly all widths or all importances of zero.
    """
    n = len(samples)
    if n < FEWEST_SAMPLES:
        return dict.fromkeys(groups)
    rng = np.random.default_rng(n)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    return {group: _interval(samples, group, counts) for group in groups}


def are_narrow(intervals: Mapping[str, Interval | None], half_width: float) -> bool:
    """Whether every group has an interval of at most ± ``half_width``."""
    return all(
        interval is not None and interval[1] - interval[0] <= 2 * half_width
        for interval in intervals.values()
    )


def _interval(
    samples: Sequence[ImportanceSample], group: str, counts: NDArray[np.float64]
) -> Interval | None:
    """``counts``: resamples × samples, how often each sample was drawn."""
    importance = np.array([sample.importance[group] for sample in samples])
    width = np.array([sample.widths[group] for sample in samples], dtype=float)
    alive = importance > 0  # zero has no logarithm, as in the fit
    if not alive.any():
        return None
    drawn = counts[:, alive]
    x = np.log(width[alive])
    y = np.log(importance[alive])
    x, y = x - x.mean(), y - y.mean()
    total = drawn.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x, mean_y = drawn @ x / total, drawn @ y / total
        variance = drawn @ (x * x) / total - mean_x**2
        slopes = (drawn @ (x * y) / total - mean_x * mean_y) / variance
    slopes = slopes[variance > _NO_SPREAD]
    if len(slopes) < _LEAST_USABLE * len(counts):
        return None
    low, high = np.quantile(slopes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
