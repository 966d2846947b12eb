"""The fit of a response surface (`engine.response`) to the losses of trained networks.

A dozen networks do not determine as many coefficients: importance is the prior. A layer's summed
importance C·I(C) (Eq. 5: squares of the loss's first-order changes) ranks what layers are worth, so
β_g is drawn towards κ·C·I(C) at the base width, where κ ≥ 0 is one scale for all groups and left to
the losses. How strongly, and p, are chosen by leaving networks out one at a time, and the error and
R² that are told are those of the choice.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from engine.errors import UserError
from engine.response import Observation, ResponseSurface
from engine.results import ImportancePredictor

EXPONENTS = (0.25, 0.5, 1.0)
"""Candidates for p. A loss that falls as a power of size has exponents of this order."""
PULLS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Candidates for the weight of the prior against one observation."""
FEWEST = 4
"""Networks below which nothing is left to choose p and the prior's weight by."""

_Vector = NDArray[np.float64]


def networks_of(observations: Sequence[Observation]) -> int:
    """Returns how many different networks there are among observations."""
    return len({(seen.resolution, *seen.widths.items()) for seen in observations})


def fit_response(
    observations: Sequence[Observation],
    base: Mapping[str, int],
    resolution: int,
    prior: Mapping[str, ImportancePredictor],
) -> ResponseSurface:
    """Fits the surface by non-negative least squares with importance as the prior.

    Args:
        observations: trained networks; several seeds of one network are several observations,
            which are left out together.
        base: widths of the base network.
        resolution: of the base network, in pixels.
        prior: Eq. 6 of every group.

    Raises:
        UserError: fewer than `FEWEST` networks.
    """
    different = networks_of(observations)
    if different < FEWEST:
        raise UserError(
            f"a response surface needs at least {FEWEST} trained networks, not {different}; raise "
            "sample.networks, with sample.source trained"
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
    # The mean of the others is the guess that R² compares with, since they make the prediction.
    network = _networks(design)
    means = np.array([losses[network != number].mean() for number in network])
    spread = float(np.mean((losses - means) ** 2))
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
    """Mean squared error of each network's losses, predicted from the other networks."""
    errors = np.empty(len(losses))
    network = _networks(design)
    for number in range(network.max() + 1):
        left = network == number
        floor, gains = _solve(design[~left], losses[~left], expected, pull)
        errors[left] = (floor + design[left] @ gains - losses[left]) ** 2
    return float(errors.mean())


def _networks(design: _Vector) -> NDArray[np.int64]:
    """The number of each observation's network: several seeds of one are left out together."""
    return np.unique(design, axis=0, return_inverse=True)[1].reshape(-1)


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
