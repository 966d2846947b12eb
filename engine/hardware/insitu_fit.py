"""How the model of one class of op is fitted to its times inside whole networks.

Least squares of the relative error under non-negative coefficients. Which ops another algorithm
computes, the granularity, and whether there is a correction are chosen by cross-validation that
leaves whole networks out.

Source: NNLS on physical features, as in semi-analytic models, in the leaves of a tree that is grown
by cross-validated error, as model trees are (M5, Quinlan 1992); fitted in situ because ops timed
alone sum to 0.81–0.84 of the network they make.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.hardware.boosting import boost, exported
from engine.hardware.calibrated import Matrix, OpTime, solve
from engine.hardware.insitu import (
    SIZES,
    Bend,
    Fork,
    Op,
    OpModel,
    Trait,
    What,
    excess,
    features,
    has_trait,
    pixels,
    sizes,
)

GRANULARITIES = (1, 2, 4, 8, 16, 32, 64)
"""Steps of the staircase in the output channels that are looked for."""
MULTIPLES = (2, 4, 8, 16, 32)
"""Of channels, by which ops of two algorithms are looked for."""
INPUTS = tuple(m * 2**k for k in range(8, 16) for m in (4, 5))
"""Elements of the input up to which another algorithm may compute: 1,024, 1,280, … 163,840."""
SEEN = 9
"""Fewest timed ops in which a size must occur: what one op alone has would extrapolate from it."""
POWERS = (1.0, 0.5)
"""Of the physical part beside a correction, which can only add to its growth."""
FOLDS = 5
GAIN = 0.98
"""A richer candidate must bring the squared error of cross-validation below this share."""
APART = 0.9
"""The models of two algorithms, which have twice the coefficients, must bring it below this."""
PIECE = 30
"""Fewest timed ops that each of them is fitted to; most of its coefficients come out as zero."""
FAR = 0.5
"""Relative errors count as no more than this: one op that is far off is not to decide for all."""
EXACT = 1e-6
"""Mean squared relative errors below this are not worth a richer candidate."""
NOTICED = 1e-4
"""Mean squared relative error from which a correction is looked for: 1 % of the time of an op."""
ROWS = 60
"""Fewest timed ops that a correction is fitted to."""
WEIGHTS = tuple(2**k for k in range(15, 25))
"""Weights of an op beyond which each may cost more: they no longer stay in one of the caches."""
ACTIVATIONS = tuple(2**k for k in range(10, 20))
"""The same for the input and for the output of an op."""

_BENDS: tuple[tuple[What, int], ...] = (
    *(("weights", beyond) for beyond in WEIGHTS),
    *(("inputs", beyond) for beyond in ACTIVATIONS),
    *(("outputs", beyond) for beyond in ACTIVATIONS),
)

_Which = NDArray[np.bool_]
"""Which of the rows."""


def fit_class(rows: Sequence[OpTime]) -> Op:
    """Fits the model of one class of op: of several algorithms where that is better.

    Args:
        rows: its ops inside the measured networks.
    """
    if not any(row.cost.macs for row in rows):
        return _fit_op(rows, 1)
    granularity, error = _granularity(rows)
    fork = _fork(rows, granularity, error)
    if fork is None:
        return _fit_op(rows, granularity)
    trait, value, those = fork
    return Fork(
        trait=trait,
        value=value,
        those=fit_class([row for row, one in zip(rows, those, strict=True) if one]),
        others=fit_class([row for row, one in zip(rows, those, strict=True) if not one]),
    )


def _fork(
    rows: Sequence[OpTime], granularity: int, error: float
) -> tuple[Trait, int, _Which] | None:
    """Returns what two algorithms are told apart by, and the ops of one; None for one alone."""
    design, measured, fold = _design(rows, granularity), _measured(rows), _fold(rows)
    best = APART * error
    found: tuple[Trait, int, _Which] | None = None
    for trait, value in _candidates(rows):
        those = np.array([has_trait(row.cost, trait, value) for row in rows])
        sides = (those, ~those)
        if min(map(np.count_nonzero, sides)) >= PIECE:
            errors = [_validate(design[s], measured[s], fold[s]) * np.mean(s) for s in sides]
            if sum(errors) < best - EXACT:
                best = sum(errors)
                found = trait, value, those
    return found


def _candidates(rows: Sequence[OpTime]) -> Iterator[tuple[Trait, int]]:
    for most in sorted({pixels(row.cost) for row in rows}):
        yield "pixels", most
    for most in INPUTS:
        yield "inputs", most
    depthwise = all(row.cost.cin == row.cost.cout for row in rows)
    for multiple in MULTIPLES:
        yield "channels", multiple
        if not depthwise:
            yield "cin", multiple
            yield "cout", multiple


def _granularity(rows: Sequence[OpTime]) -> tuple[int, float]:
    """Returns the granularity, and its error on networks left out."""
    measured, fold = _measured(rows), _fold(rows)
    best, found = math.inf, 1
    for granularity in GRANULARITIES:
        error = _validate(_design(rows, granularity), measured, fold)
        if error < GAIN * best - EXACT:
            best, found = error, granularity
    return found, best


def _fit_op(rows: Sequence[OpTime], granularity: int) -> OpModel:
    """Fits all rows, then corrects."""
    # The overhead, which comes first, is left to the whole network.
    _, *solution = _solve(_design(rows, granularity), _measured(rows)).tolist()
    plain = OpModel(
        granularity=granularity,
        rates=tuple(solution[:SIZES]),
        bends=tuple(
            Bend(what=what, beyond=beyond, ms=ms)
            for (what, beyond), ms in zip(_BENDS, solution[SIZES:], strict=True)
            if ms > 0
        ),
    )
    return _corrected(plain, rows)


def _measured(rows: Sequence[OpTime]) -> Matrix:
    return np.array([row.ms for row in rows])


def _fold(rows: Sequence[OpTime]) -> NDArray[np.int64]:
    return np.array([row.network for row in rows]) % FOLDS


def _design(rows: Sequence[OpTime], granularity: int) -> Matrix:
    """Overhead, sizes and bends of every op."""
    return np.array(
        [
            [1, *sizes(row.cost, granularity), *(excess(row.cost, *bend) for bend in _BENDS)]
            for row in rows
        ],
        dtype=float,
    )


def _solve(design: Matrix, measured: Matrix) -> Matrix:
    """Coefficients of all columns that enough rows have; 0 for the others."""
    seen = np.count_nonzero(design, axis=0) >= min(SEEN, len(design))
    return solve(design * seen, measured)


def _validate(design: Matrix, measured: Matrix, fold: NDArray[np.int64]) -> float:
    """Mean of squared relative errors on networks left out; infinite where none can be."""
    error = 0.0
    for left_out in range(FOLDS):
        out = fold == left_out
        if out.all():
            return math.inf
        if out.any():
            fitted = design[out] @ _solve(design[~out], measured[~out])
            off = np.minimum(np.abs(fitted / measured[out] - 1), FAR)
            error += float(np.sum(off**2))
    return error / len(measured)


def _corrected(plain: OpModel, rows: Sequence[OpTime]) -> OpModel:
    """Adds a correction if it brings the error on networks left out down.

    What is corrected is the time beyond the overhead, whose share is not known op by op; so the
    targets are whole times of ops, and the calibration takes the overhead out again.
    """
    measured, fold = _measured(rows), _fold(rows)
    network = np.array([row.network for row in rows])
    physical = np.array([plain.physical_ms(row.cost) for row in rows])
    if len(rows) < ROWS or physical.min() <= 0:
        return plain
    scale = solve(np.stack([physical, np.ones_like(physical)], axis=1), measured)
    best = _network_error(scale[0] * physical + scale[1], measured, network)
    if best < NOTICED:
        return plain
    described = np.array([features(row.cost, plain.granularity) for row in rows], dtype=float)
    chosen = plain
    for power in POWERS:
        target = np.log(measured) - power * np.log(physical)
        left_out = np.empty_like(target)
        for out in (fold == k for k in np.unique(fold)):
            if out.all():
                return plain
            left_out[out] = boost(described[~out], target[~out]).predict(described[out])
        error = _network_error(physical**power * np.exp(left_out), measured, network)
        if error < GAIN * best:
            best = error
            correction = exported(boost(described, target))
            chosen = replace(plain, power=power, correction=correction)
    return chosen


def _network_error(fitted: Matrix, measured: Matrix, network: NDArray[np.int64]) -> float:
    """Mean of squared relative errors of what the class takes in each network."""
    totals = np.bincount(network, weights=measured)
    errors = np.bincount(network, weights=fitted - measured)[totals > 0] / totals[totals > 0]
    return float(np.mean(errors**2))
