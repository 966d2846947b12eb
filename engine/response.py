"""A response surface of the validation loss over widths and resolution.

Every sampled network has a validation loss beside its importance. The surface

    L(w, r) = L∞ + Σ_g β_g · (w_g / base_g)^(−p) + β_r · (r / base_r)^(−p),    β ≥ 0,

falls with every width and with the resolution, with diminishing returns. Its marginal gain per
channel, −∂L/∂w_g = β_g·p·base_g^p · w_g^(−p−1), is a power law of the width like Eq. 6, so that
Algorithm 1 can be run on it as it stands (`ResponseSurface.predictors`).

A dozen networks do not determine as many coefficients: importance is the prior. A layer's summed
importance C·I(C) is the first-order change of the loss with log C, so β_g is drawn towards
κ·C·I(C) at the base width, where κ ≥ 0 is one scale for all groups and left to the losses. How
strongly, and p, are chosen by leaving networks out one at a time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from engine.codec import STRICT
from engine.errors import UserError
from engine.results import ImportancePredictor

EXPONENTS = (0.25, 0.5, 1.0)
"""Candidates for p. A loss that falls as a power of size has exponents of this order."""
PULLS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Candidates for the weight of the prior against one observation."""
FEWEST = 4
"""Observations below which nothing is left to choose p and the prior's weight by."""

_Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A trained network, as the surface sees it."""

    resolution: int
    widths: Mapping[str, int]
    loss: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.loss):
            raise ValueError(f"loss must be finite, not {self.loss}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSurface:
    """The fitted surface.

    Attributes:
        base, base_resolution: what widths and resolution are relative to.
        floor: L∞.
        gains: β by group, never negative.
        resolution_gain: β_r; 0 where all observations have one resolution.
        exponent: p.
        pull: weight of the prior.
        rmse: of the loss of networks left out.
        r2: of the same predictions; negative where the mean loss predicts better.
    """

    __pydantic_config__ = STRICT

    base: dict[str, int]
    base_resolution: int
    floor: float
    gains: dict[str, float]
    resolution_gain: float
    exponent: float
    pull: float
    rmse: float
    r2: float

    def __call__(self, widths: Mapping[str, int], resolution: int) -> float:
        """Returns the predicted validation loss."""
        at_width = sum(
            gain * (widths[group] / self.base[group]) ** -self.exponent
            for group, gain in self.gains.items()
        )
        at_resolution = (resolution / self.base_resolution) ** -self.exponent
        return self.floor + at_width + self.resolution_gain * at_resolution

    def predictors(self) -> dict[str, ImportancePredictor]:
        """Returns the loss that one more channel takes away, by group, as power laws of the width.

        ``r2`` is the surface's, ``b_se`` and ``sum_r2`` are 0: the exponent is shared.
        """
        return {
            group: ImportancePredictor(
                a=gain * self.exponent * self.base[group] ** self.exponent,
                b=-self.exponent - 1.0,
                b_se=0.0,
                r2=self.r2,
                sum_r2=0.0,
                flag="" if gain > 0 else "no gain was seen",
            )
            for group, gain in self.gains.items()
        }


def fit_response(
    observations: Sequence[Observation],
    base: Mapping[str, int],
    resolution: int,
    prior: Mapping[str, ImportancePredictor],
) -> ResponseSurface:
    """Fits the surface by non-negative least squares with importance as the prior.

    Args:
        observations: trained networks; several seeds of one network are several observations.
        base: widths of the base network.
        resolution: of the base network, in pixels.
        prior: Eq. 6 of every group.

    Raises:
        UserError: fewer than `FEWEST` observations.
    """
    if len(observations) < FEWEST:
        raise UserError(
            f"a response surface needs at least {FEWEST} trained networks, not "
            f"{len(observations)}; raise sample.networks"
        )
    groups = tuple(base)
    expected = np.array([base[group] * prior[group](base[group]) for group in groups])
    if expected.max() > 0:
        expected = expected / expected.max()
    losses = np.array([observation.loss for observation in observations])
    best: tuple[float, float, float] | None = None
    for exponent, pull in product(EXPONENTS, PULLS):
        design = _design(observations, base, resolution, exponent)
        error = _left_out(design, losses, expected, pull)
        if best is None or error < best[0]:
            best = (error, exponent, pull)
    assert best is not None
    error, exponent, pull = best
    design = _design(observations, base, resolution, exponent)
    floor, gains = _solve(design, losses, expected, pull)
    spread = float(np.mean((losses - losses.mean()) ** 2))
    return ResponseSurface(
        base=dict(base),
        base_resolution=resolution,
        floor=floor,
        gains=dict(zip(groups, gains[:-1].tolist(), strict=True)),
        resolution_gain=float(gains[-1]),
        exponent=exponent,
        pull=pull,
        rmse=math.sqrt(error),
        r2=1.0 - error / spread if spread > 0 else 0.0,
    )


def _design(
    observations: Sequence[Observation], base: Mapping[str, int], resolution: int, exponent: float
) -> _Vector:
    """One row for each network: a column for each group, the last for the resolution."""
    sizes = [
        [*(seen.widths[g] / width for g, width in base.items()), seen.resolution / resolution]
        for seen in observations
    ]
    return np.array(sizes, dtype=float) ** -exponent


def _left_out(design: _Vector, losses: _Vector, expected: _Vector, pull: float) -> float:
    """Mean squared error of each network's loss, predicted from the others."""
    errors: list[float] = []
    for i in range(len(losses)):
        others = np.arange(len(losses)) != i
        floor, gains = _solve(design[others], losses[others], expected, pull)
        errors.append(float(floor + design[i] @ gains - losses[i]) ** 2)
    return float(np.mean(errors))


def _solve(
    design: _Vector, losses: _Vector, expected: _Vector, pull: float
) -> tuple[float, _Vector]:
    """Returns L∞ and β, groups first and the resolution last.

    The unknowns of the least squares are β and κ. L∞, which may have any sign, drops out of the
    centred equations; a row √pull·(β_g − κ·expected_g) = 0 for every group is the prior.
    """
    groups = len(expected)
    centred, mean = design - design.mean(axis=0), float(losses.mean())
    # Losses and columns of order one, whatever the task's loss is.
    unit = float(np.sqrt(np.mean((losses - mean) ** 2))) or 1.0
    observed = np.hstack([centred, np.zeros((len(losses), 1))])
    believed = np.zeros((groups, groups + 2))
    believed[:, :groups] = np.eye(groups)
    believed[:, -1] = -expected
    found, _ = nnls(
        np.vstack([observed, math.sqrt(pull) * believed]),
        np.concatenate([(losses - mean) / unit, np.zeros(groups)]),
        maxiter=100 * (groups + 2),
    )
    gains = found[:-1] * unit
    return mean - float(design.mean(axis=0) @ gains), gains
