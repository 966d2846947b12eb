"""How importance falls with width: I(C) = a·C^b for every width group (Eq. 6)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress
from scipy.stats import t as student

from engine.errors import UserError
from engine.results import FitResult, ImportancePredictor, ImportanceSample

SHALLOWEST_B = -0.1
"""A group whose b is not below this hardly loses importance as it widens: a greedy allocation
would never leave it."""

LOWEST_R2 = 0.5
"""Below this R², width does not explain importance."""

DEFAULT_B = -1.0
"""The exponent of every group where none has a sound fit: the kernels share a constant sum."""

LEVEL = 0.95
"""Of the interval of b."""

_NO_FIT = ImportancePredictor(a=0.0, b=DEFAULT_B, b_se=0.0, r2=0.0, sum_r2=0.0, flag="")
_NO_SPREAD = 1e-9
_LARGEST_LOG = 700.0

Interval = tuple[float, float]


def fit_predictor(widths: Sequence[float], importances: Sequence[float]) -> ImportancePredictor:
    """Fits I(C) = a·C^b by least squares in log-log.

    Source: Eq. 6, HACScale. The paper fits I itself; in the logarithm, small and large
    importances count alike and the scale of I does not matter.

    Args:
        widths: channels C of one group in each sampled network.
        importances: Eq. 5 of that group in the same networks.

    Returns:
        The predictor, not flagged. ``b_se`` is the standard error of b; ``r2`` is that of log I
        against log C and ``sum_r2`` that of log(C·I) against log C, 0 where the quantity does
        not vary beyond rounding.

    Raises:
        UserError: fewer than 3 distinct widths, a value that is not finite and above zero, or
            widths so close together that ``a`` overflows.
    """
    for name, values in (("width", widths), ("importance", importances)):
        for value in values:
            if not (math.isfinite(value) and value > 0):
                raise UserError(
                    f"every {name} of a fit must be finite and above zero, not {value}; "
                    "leave that sample out"
                )
    log_width = np.log(np.asarray(widths, dtype=float))
    log_importance = np.log(np.asarray(importances, dtype=float))
    distinct = len(np.unique(log_width))
    if distinct < 3:
        raise UserError(
            f"a fit needs at least 3 distinct widths, not {distinct}; raise sample.networks or "
            "widen sample.min_width and sample.max_width"
        )
    b, b_se, r2 = _line(log_width, log_importance)
    _, _, sum_r2 = _line(log_width, log_width + log_importance)
    a = _level(log_width, log_importance, b)
    return ImportancePredictor(a=a, b=b, b_se=b_se, r2=r2, sum_r2=sum_r2, flag="")


def fit_predictors(samples: Sequence[ImportanceSample], groups: Sequence[str]) -> FitResult:
    """Fits Eq. 6 for every group and replaces the exponents that cannot be trusted.

    A group's own fit is sound if b < `SHALLOWEST_B` and R² ≥ `LOWEST_R2`. Any other group, and
    one with fewer than 3 distinct widths, gets the median b of the sound groups (`DEFAULT_B` if
    there is none) with its own level, the geometric mean of I·C^−b; its flag says why. Its
    ``b_se``, ``r2`` and ``sum_r2`` stay those of its own fit, 0 where it has none, and so does the
    interval ``b_low`` to ``b_high``.

    An importance of exactly zero is what a layer that died in training has. It has no logarithm,
    so the group is fitted to the other samples, and the flag says so; a group that is zero in all
    samples is predicted to be zero and widened last.

    Raises:
        UserError: fewer than 3 samples, no importance above zero at all, or an importance that
            is negative or not finite, which Eq. 5 cannot be.
    """
    if len(samples) < 3:
        raise UserError(
            f"importance predictors need at least 3 finished samples, not {len(samples)}; "
            "raise sample.networks"
        )
    fits = {group: _fit_group(samples, group) for group in groups}
    if all(not fit.log_importance.size for fit in fits.values()):
        raise UserError(
            "the importance of every group is zero in every sample, so nothing was learned; "
            "check sample.training and the data"
        )
    sound = [fit.own.b for fit in fits.values() if fit.own is not None and not fit.fault]
    pooled = median(sound) if sound else DEFAULT_B
    origin = (
        f"the median of {len(sound)} sound groups" if sound else "the default, as none is sound"
    )
    predictors: dict[str, ImportancePredictor] = {}
    for group, fit in fits.items():
        low, high = fit.interval or (None, None)
        own = replace(fit.own or _NO_FIT, b_low=low, b_high=high)
        if fit.fault:
            own = replace(
                own,
                a=_level(fit.log_width, fit.log_importance, pooled),
                b=pooled,
                flag=f"{fit.fault}; b = {pooled:.3g} is {origin}",
            )
        predictors[group] = own
    return FitResult(predictors=predictors)


def b_intervals(
    samples: Sequence[ImportanceSample], groups: Sequence[str]
) -> dict[str, Interval | None]:
    """Returns the interval of every group's own b at `LEVEL`: b ± t·b_se.

    t is Student's with two degrees of freedom less than networks whose importance is above zero.

    Returns:
        None for a group that has no fit of its own.
    """
    return {group: _fit_group(samples, group).interval for group in groups}


def are_narrow(intervals: Mapping[str, Interval | None], half_width: float) -> bool:
    """Whether every group has an interval of at most ± ``half_width``."""
    return all(
        interval is not None and interval[1] - interval[0] <= 2 * half_width
        for interval in intervals.values()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupFit:
    """One group's own fit, None if it has none, its samples, and why it is not sound, if so."""

    log_width: NDArray[np.float64]
    log_importance: NDArray[np.float64]
    own: ImportancePredictor | None
    fault: str

    @property
    def interval(self) -> Interval | None:
        """See `b_intervals`."""
        if self.own is None:
            return None
        reach = float(student.ppf((1 + LEVEL) / 2, len(self.log_width) - 2)) * self.own.b_se
        return self.own.b - reach, self.own.b + reach


def _fit_group(samples: Sequence[ImportanceSample], group: str) -> _GroupFit:
    widths: list[int] = []
    importances: list[float] = []
    for sample in samples:
        importance = sample.importance[group]
        if not (math.isfinite(importance) and importance >= 0):
            raise UserError(
                f"the importance of group {group!r} in sample {sample.row} must be finite and not "
                f"negative, not {importance}; remove that row from the ledger and run again"
            )
        if importance > 0:
            widths.append(sample.widths[group])
            importances.append(importance)
    zeros = len(samples) - len(importances)
    note = f"importance is zero in {zeros} of {len(samples)} samples" if zeros else ""
    own, fault = None, ""
    try:
        own = replace(fit_predictor(widths, importances), flag=note)
        fault = _fault(own)
    except UserError as error:
        fault = str(error)
    return _GroupFit(
        log_width=np.log(np.asarray(widths, dtype=float)),
        log_importance=np.log(np.asarray(importances, dtype=float)),
        own=own,
        fault=f"{note}; {fault}" if note and fault else fault,
    )


def _fault(own: ImportancePredictor) -> str:
    """Returns why a fit is not sound, empty if it is."""
    if own.b >= SHALLOWEST_B:
        return f"its own b = {own.b:.3g} is not below {SHALLOWEST_B}"
    if own.r2 < LOWEST_R2:
        return f"its own R² = {own.r2:.2f} is below {LOWEST_R2}"
    return ""


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Returns slope, its standard error and R² of y against x, zeros where y is constant."""
    if np.ptp(y) < _NO_SPREAD:
        return 0.0, 0.0, 0.0
    line: Any = linregress(x, y)
    return float(line.slope), float(line.stderr), float(line.rvalue) ** 2


def _level(log_width: NDArray[np.float64], log_importance: NDArray[np.float64], b: float) -> float:
    """Returns the geometric mean of I·C^−b, 0 without samples.

    Raises:
        UserError: it overflows.
    """
    if not log_width.size:
        return 0.0
    log_a = float(np.mean(log_importance - b * log_width))
    if abs(log_a) > _LARGEST_LOG:
        raise UserError(
            f"b = {b:.3g} is too steep to be a power law of the width; the widths lie too close "
            "together, widen sample.min_width and sample.max_width"
        )
    return math.exp(log_a)
