"""Latency of a whole network from the widths of its groups, fitted in situ on one device.

Every class of op has a non-negative combination of physical sizes, which may get steeper where a
cache is full, fitted to the times that its ops took inside whole forwards, and a boosted correction
where cross-validation says that it helps; one scale and one offset lead from their sum to the
network. Ops of very few output pixels may run by another algorithm, which has a model of its own.
No size falls when a width or the resolution grows, no coefficient is negative and no correction
falls, so neither does the prediction, but where an op of few pixels becomes one of many: on a CPU
with AVX2 a convolution was seen to take longer for 3 × 3 outputs than for 4 × 4. A model holds for
the device, runtime, threads and batch it was measured with, and for networks inside its `Box`.

Starting an op costs time too, but that is left to the offset: all networks of one graph have the
same ops, and the overhead of each depends on the whole network. Inside a VGG-11 whose weights fit
into the cache a batch norm takes 13 µs, inside one that is eight times as wide 60 µs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import mul
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from engine.codec import STRICT
from engine.costs import LayerCost
from engine.errors import require
from engine.hardware.boosting import Boosting, boost, exported
from engine.hardware.calibrated import (
    Matrix,
    OpTime,
    calibrated,
    op_times,
    solve,
)
from engine.hardware.contract import Box, LatencyModel, op_class, unknown_op

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing

GRANULARITIES = (1, 2, 4, 8, 16, 32, 64)
"""Steps of the staircase in the output channels that are looked for."""
PIXELS = 16
"""Output pixels that are computed together (one AVX-512 register of float32)."""
ROW_PIXELS = 4
"""Output pixels of one row that are computed together."""
SWITCHES = 16
"""Numbers of inputs that are tried as the switch of an algorithm, evenly by rank."""
POWERS = (1.0, 0.5)
"""Of the physical part beside a correction, which can only add to its growth."""
FOLDS = 5
GAIN = 0.98
"""A richer candidate must bring the squared error of cross-validation below this share."""
EXACT = 1e-6
"""Mean squared relative errors below this are not worth a richer candidate."""
NOTICED = 1e-4
"""Mean squared relative error from which a correction is looked for: 1 % of the time of an op."""
ROWS = 60
"""Fewest timed ops that a correction is fitted to."""
APART = 0.9
"""Two models, for few and for many pixels, must bring the squared error below this share."""
PIECE = 20
"""Fewest timed ops that each of them is fitted to."""
WEIGHTS = tuple(2**k for k in range(15, 25))
"""Weights of an op beyond which each may cost more: they no longer stay in one of the caches."""
ACTIVATIONS = tuple(2**k for k in range(10, 20))
"""The same for the input and for the output of an op."""

_SIZES = 8
_OLD_SIZES = 7
"""Models that were fitted before the last size was known are still read; it costs nothing there."""

What = Literal["weights", "inputs", "outputs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bend:
    """Where the time of an op gets steeper.

    Attributes:
        what: weights, or elements of the input or the output.
        beyond: how many of them cost nothing more.
        ms: more for each of the others.
    """

    __pydantic_config__ = STRICT

    what: What
    beyond: int
    ms: float

    def __post_init__(self) -> None:
        require(self.beyond >= 0, "beyond must be at least 0", self.beyond)
        require(0 <= self.ms < math.inf, "ms must be finite and not negative", self.ms)

    def more_ms(self, cost: LayerCost) -> float:
        """Returns what it adds to an op."""
        return self.ms * _beyond(cost, self.what, self.beyond)


_BENDS: tuple[tuple[What, int], ...] = (
    *(("weights", beyond) for beyond in WEIGHTS),
    *(("inputs", beyond) for beyond in ACTIVATIONS),
    *(("outputs", beyond) for beyond in ACTIVATIONS),
)
_COLUMNS = _SIZES + len(_BENDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpModel:
    """Latency of one class of op: physical part ^ power · exp(correction).

    Attributes:
        granularity: output channels that are computed together, 1 if no staircase was found.
        switch: inputs above which another algorithm runs; None if no such switch was found.
        below: ms per unit of each size, see `_sizes`.
        above: added to ``below`` beyond the switch.
        bends: of the time over weights, inputs and outputs.
        bends_above: added to ``bends`` beyond the switch.
        power: of the physical part, 1 without a correction.
        correction: of the logarithm, from `_features`.
    """

    __pydantic_config__ = STRICT

    granularity: int
    switch: int | None = None
    below: tuple[float, ...]
    above: tuple[float, ...]
    bends: tuple[Bend, ...] = ()
    bends_above: tuple[Bend, ...] = ()
    power: float = 1.0
    correction: Boosting | None = None

    def __post_init__(self) -> None:
        require(self.granularity >= 1, "granularity must be at least 1", self.granularity)
        require(self.switch is None or self.switch >= 0, "switch must be at least 0", self.switch)
        require(0 < self.power <= 1, "power must lie in (0, 1]", self.power)
        for name in ("below", "above"):
            values = getattr(self, name)
            if len(values) not in (_OLD_SIZES, _SIZES) or not all(
                0 <= v < math.inf for v in values
            ):
                raise ValueError(
                    f"{name} must hold {_SIZES} finite, non-negative numbers, not {values}"
                )

    def ms(self, cost: LayerCost) -> float:
        """Latency of one op beyond its overhead, before calibration."""
        ms = self.physical_ms(cost)
        if self.correction is None or ms == 0:
            return ms
        return ms**self.power * math.exp(self.correction(_features(cost, self.granularity)))

    def physical_ms(self, cost: LayerCost) -> float:
        """The same without power and correction."""
        sizes = _sizes(cost, self.granularity)
        ms = _linear(self.below, sizes) + _bent(self.bends, cost)
        if self.switch is not None and cost.in_size > self.switch:
            ms += _linear(self.above, sizes) + _bent(self.bends_above, cost)
        return ms


@dataclass(frozen=True, slots=True, kw_only=True)
class FewPixels:
    """Ops of a class whose output is so small that another algorithm runs.

    Attributes:
        pixels: the most that their output has.
        op: their latency.
    """

    __pydantic_config__ = STRICT

    pixels: int
    op: OpModel

    def __post_init__(self) -> None:
        require(self.pixels >= 1, "pixels must be at least 1", self.pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class InSitu(LatencyModel):
    """Predicts latency on one device; make one with `fit`.

    Attributes:
        ops: by class of op, see `op_class`.
        few: models in place of those for ops of few output pixels, of classes that have them.
    """

    kind: Literal["insitu"] = "insitu"
    ops: dict[str, OpModel]
    few: dict[str, FewPixels] = field(default_factory=dict[str, FewPixels])

    def op_ms(self, cost: LayerCost) -> float:
        """Returns the latency of one op before calibration.

        Raises:
            UserError: no op of that class was measured.
        """
        return self._op(cost).ms(cost)

    def granularity(self, cost: LayerCost) -> int:
        """Returns how many output channels of such an op are computed together.

        Raises:
            UserError: no op of that class was measured.
        """
        return self._op(cost).granularity

    def _op(self, cost: LayerCost) -> OpModel:
        name = op_class(cost)
        if name not in self.ops:
            raise unknown_op(cost, self.ops)
        few = self.few.get(name)
        return few.op if few and _pixels(cost) <= few.pixels else self.ops[name]


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int) -> InSitu:
    """Fits a model to networks that were timed op by op, for the batch of those timings.

    Least squares of the relative error under non-negative coefficients. Whether ops of few pixels
    have a model of their own, the granularity, whether an op has a second piece beyond a switch and
    where it lies, and whether it has a correction are chosen for every class of op by
    cross-validation that leaves whole networks out.

    Source: NNLS on physical features, as in semi-analytic models; fitted in situ because ops timed
    alone sum to 0.81–0.84 of the network they make.

    Raises:
        UserError: fewer than two networks, or one that was not timed op by op.
    """
    ops: dict[str, OpModel] = {}
    few: dict[str, FewPixels] = {}
    for name, rows in op_times(graph, timings).items():
        most = _most_of_few(rows)
        ops[name] = _fit_op([row for row in rows if _pixels(row.cost) > most])
        if most:
            small = _fit_op([row for row in rows if _pixels(row.cost) <= most])
            few[name] = FewPixels(pixels=most, op=small)
    return calibrated(InSitu(box=box, ops=ops, few=few), graph, timings)


def _sizes(cost: LayerCost, granularity: int) -> tuple[int, ...]:
    """Sizes that an op's time is made of; none falls when a width or the resolution grows.

    MACs; MACs with output channels, and with output pixels, rounded up to what is computed
    together; weights; input and output activations; the im2col matrix, which for a pooling is the
    elements its windows read; MACs with the output pixels of every row rounded up.
    """
    pixels, count = _pixels(cost), cost.weights
    return (
        cost.macs,
        cost.macs // cost.cout * _up(cost.cout, granularity),
        count * _up(pixels, PIXELS),
        count,
        cost.in_size,
        cost.out_size,
        cost.cin * cost.kernel[0] * cost.kernel[1] * pixels,
        count * cost.hout * _up(cost.wout, ROW_PIXELS),
    )


def _linear(rates: Sequence[float], sizes: Sequence[int]) -> float:
    return sum(map(mul, rates, sizes))


def _bent(bends: Sequence[Bend], cost: LayerCost) -> float:
    return sum([bend.more_ms(cost) for bend in bends])


def _beyond(cost: LayerCost, what: What, most: int) -> int:
    match what:
        case "weights":
            amount = cost.weights
        case "inputs":
            amount = cost.in_size
        case "outputs":
            amount = cost.out_size
    return max(0, amount - most)


def _features(cost: LayerCost, granularity: int) -> tuple[int, ...]:
    """What a correction may depend on; none falls when a width or the resolution grows."""
    return (
        cost.cin,
        _up(cost.cout, granularity),
        _pixels(cost),
        cost.in_size,
        cost.out_size,
        cost.macs,
    )


def _pixels(cost: LayerCost) -> int:
    return cost.hout * cost.wout


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _most_of_few(rows: Sequence[OpTime]) -> int:
    """Returns up to how many output pixels another algorithm runs; 0 if none was found."""
    if not any(row.cost.macs for row in rows):
        return 0
    design, measured, fold = _design(rows, 1, None), _measured(rows), _fold(rows)
    pixels = np.array([_pixels(row.cost) for row in rows])
    best, found = APART * _validate(design, measured, fold), 0
    for most in np.unique(pixels).tolist():
        sides = [pixels <= most, pixels > most]
        if min(map(np.count_nonzero, sides)) >= PIECE:
            errors = [_validate(design[s], measured[s], fold[s]) * np.mean(s) for s in sides]
            if sum(errors) < best - EXACT:
                best, found = sum(errors), most
    return found


def _measured(rows: Sequence[OpTime]) -> Matrix:
    return np.array([row.ms for row in rows])


def _fold(rows: Sequence[OpTime]) -> NDArray[np.int64]:
    return np.array([row.network for row in rows]) % FOLDS


def _fit_op(rows: Sequence[OpTime]) -> OpModel:
    """Chooses granularity and switch by cross-validation, fits all rows, then corrects."""
    measured, fold = _measured(rows), _fold(rows)
    granularity, switch = 1, None
    if any(row.cost.macs for row in rows):
        granularity, switch = _detected(rows, measured, fold)
    pieces = np.zeros((2, _COLUMNS))
    solution = solve(_design(rows, granularity, switch), measured)
    pieces.flat[: len(solution) - 1] = solution[1:]  # The overhead is left to the whole network.
    below, above = pieces[:, :_SIZES].tolist()
    bends, bends_above = map(_bends_of, pieces[:, _SIZES:].tolist())
    plain = OpModel(
        granularity=granularity,
        switch=switch,
        below=tuple(below),
        above=tuple(above),
        bends=bends,
        bends_above=bends_above,
    )
    return _corrected(plain, rows, fold)


def _bends_of(rates: Sequence[float]) -> tuple[Bend, ...]:
    return tuple(
        Bend(what=what, beyond=beyond, ms=ms)
        for (what, beyond), ms in zip(_BENDS, rates, strict=True)
        if ms > 0
    )


def _detected(
    rows: Sequence[OpTime], measured: Matrix, fold: NDArray[np.int64]
) -> tuple[int, int | None]:
    """Granularity, switch, and granularity again: a staircase may show only beside its switch."""
    best, granularity, switch = math.inf, 1, None

    def better(granularity: int, switch: int | None) -> bool:
        nonlocal best
        error = _validate(_design(rows, granularity, switch), measured, fold)
        found = error < GAIN * best - EXACT
        best = error if found else best
        return found

    def granularities(switch: int | None, found: int) -> int:
        for g in GRANULARITIES:
            found = g if better(g, switch) else found
        return found

    granularity = granularities(switch, granularity)
    sizes = sorted({row.cost.in_size for row in rows})
    # The second pass looks between the neighbours of what the first one found.
    for _ in range(2):
        ranks = np.linspace(0, len(sizes) - 1, SWITCHES + 2).round().astype(int)
        tried = sorted({sizes[rank] for rank in ranks})
        for s in tried[:-1]:  # nothing lies beyond the last
            switch = s if better(granularity, s) else switch
        if switch not in tried[:-1]:
            break
        at = tried.index(switch)
        sizes = [s for s in sizes if tried[max(0, at - 1)] <= s <= tried[at + 1]]
    return granularities(switch, granularity), switch


def _design(rows: Sequence[OpTime], granularity: int, switch: int | None) -> Matrix:
    """Overhead, sizes and bends of every op, and both again for ops beyond the switch."""
    piece = np.array(
        [
            [*_sizes(row.cost, granularity), *(_beyond(row.cost, *bend) for bend in _BENDS)]
            for row in rows
        ],
        dtype=float,
    )
    columns = [np.ones((len(rows), 1)), piece]
    if switch is not None:
        above = np.array([row.cost.in_size > switch for row in rows])
        columns.append(piece * above[:, None])
    return np.hstack(columns)


def _validate(design: Matrix, measured: Matrix, fold: NDArray[np.int64]) -> float:
    """Mean of squared relative errors on networks left out."""
    error = 0.0
    for left_out in range(FOLDS):
        out = fold == left_out
        if out.any() and not out.all():
            fitted = design[out] @ solve(design[~out], measured[~out])
            error += float(np.sum((fitted / measured[out] - 1) ** 2))
    return error / len(measured)


def _corrected(plain: OpModel, rows: Sequence[OpTime], fold: NDArray[np.int64]) -> OpModel:
    """Adds a correction if it brings the error on networks left out down.

    What is corrected is the time beyond the overhead, whose share is not known op by op; so the
    targets are whole times of ops, and the calibration takes the overhead out again.
    """
    measured = _measured(rows)
    network = np.array([row.network for row in rows])
    physical = np.array([plain.physical_ms(row.cost) for row in rows])
    if len(rows) < ROWS or physical.min() <= 0:
        return plain
    scale = solve(np.stack([physical, np.ones_like(physical)], axis=1), measured)
    best = _network_error(scale[0] * physical + scale[1], measured, network)
    if best < NOTICED:
        return plain
    features = np.array([_features(row.cost, plain.granularity) for row in rows], dtype=float)
    chosen = plain
    for power in POWERS:
        target = np.log(measured) - power * np.log(physical)
        left_out = np.empty_like(target)
        for out in (fold == k for k in np.unique(fold)):
            if out.all():
                return plain
            left_out[out] = boost(features[~out], target[~out]).predict(features[out])
        error = _network_error(physical**power * np.exp(left_out), measured, network)
        if error < GAIN * best:
            best = error
            correction = exported(boost(features, target))
            chosen = replace(plain, power=power, correction=correction)
    return chosen


def _network_error(fitted: Matrix, measured: Matrix, network: NDArray[np.int64]) -> float:
    """Mean of squared relative errors of what the class takes in each network."""
    totals = np.bincount(network, weights=measured)
    errors = np.bincount(network, weights=fitted - measured)[totals > 0] / totals[totals > 0]
    return float(np.mean(errors**2))
