"""Latency of a whole network from the widths of its groups, fitted in situ on one device.

Every class of op has a non-negative combination of physical sizes, fitted to the times that its
ops took inside whole forwards; one scale and one offset lead from their sum to the network. No
size falls when a width or the resolution grows and no coefficient is negative, so neither does
the prediction. A model holds for the device, runtime, threads and batch it was measured with,
and for networks inside its `Box`.

Starting an op costs time too, but that is left to the offset: all networks of one graph have the
same ops, and the overhead of each depends on the whole network. Inside a VGG-11 whose weights fit
into the cache a batch norm takes 13 µs, inside one that is eight times as wide 60 µs.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import mul
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from engine.codec import STRICT, canonical
from engine.costs import LayerCost, NetworkCost
from engine.errors import UserError
from engine.hardware.contract import Box, op_class, unknown_op
from engine.spec import NetworkSpec

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing

GRANULARITIES = (8, 16, 32)
"""Candidates for the output channels that a device computes together."""
PIXELS = 16
"""Output pixels that are computed together (one AVX-512 register of float32)."""
SWITCH = 20480
"""Input activations above which PyTorch on CPU leaves im2col, at batch 1."""
FOLDS = 5
GAIN = 0.98
"""A richer candidate must bring the squared error of cross-validation below this share."""
RESOLVED_MS = 1e-4
"""Shorter op times are taken for this, so that one no clock can see has a finite weight."""

_SIZES = 7
_Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpModel:
    """Latency of one class of op.

    Attributes:
        granularity: output channels that are computed together.
        below: ms per unit of each size, see `_sizes`.
        above: added to ``below`` where an op has more than `SWITCH` inputs; all zero if that
            did not help.
    """

    __pydantic_config__ = STRICT

    granularity: int
    below: tuple[float, ...]
    above: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.granularity < 1:
            raise ValueError(f"granularity must be at least 1, not {self.granularity}")
        for name in ("below", "above"):
            values = getattr(self, name)
            if len(values) != _SIZES or not all(0 <= v < math.inf for v in values):
                raise ValueError(
                    f"{name} must hold {_SIZES} finite, non-negative numbers, not {values}"
                )

    def ms(self, cost: LayerCost) -> float:
        """Latency of one op beyond its overhead, before calibration."""
        sizes = _sizes(cost, self.granularity)
        ms = sum(map(mul, self.below, sizes))
        if cost.in_size > SWITCH:
            ms += sum(map(mul, self.above, sizes))
        return ms


@dataclass(frozen=True, slots=True, kw_only=True)
class InSitu:
    """Predicts latency on one device; make one with `fit`.

    Attributes:
        ops: by class of op, see `op_class`.
        scale: from the sum of the ops to the whole network.
        offset_ms: overhead of all ops together.
    """

    __pydantic_config__ = STRICT

    kind: Literal["insitu"] = "insitu"
    box: Box
    ops: dict[str, OpModel]
    scale: float
    offset_ms: float

    def __post_init__(self) -> None:
        for name in ("scale", "offset_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be finite and not negative, not {getattr(self, name)}"
                )

    def layer_ms(self, cost: LayerCost) -> float:
        """Returns what one op adds to the network's latency beyond ``offset_ms``.

        Raises:
            UserError: no op of that class was measured.
        """
        return self.scale * self._op(cost).ms(cost)

    def predict(self, cost: NetworkCost) -> float:
        """Returns the latency of a whole network in ms. `check` its spec first.

        Raises:
            UserError: no op of some layer's class was measured.
        """
        return self.offset_ms + sum([self.layer_ms(layer) for layer in cost.layers])

    def granularity(self, cost: LayerCost) -> int:
        """Returns how many output channels of such an op are computed together.

        Raises:
            UserError: no op of that class was measured.
        """
        return self._op(cost).granularity if cost.macs else 1

    def check(self, spec: NetworkSpec) -> None:
        """Raises a UserError if ``spec`` lies outside what the model was fitted on."""
        self.box.check(spec)

    def rescaled(self, factor: float) -> "InSitu":
        """Returns the model with every prediction multiplied by ``factor``."""
        return replace(self, scale=self.scale * factor, offset_ms=self.offset_ms * factor)

    def to_json(self) -> str:
        """Returns canonical JSON."""
        return canonical(self).decode()

    def _op(self, cost: LayerCost) -> OpModel:
        found = self.ops.get(op_class(cost))
        if found is None:
            raise unknown_op(cost, self.ops)
        return found


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box) -> InSitu:
    """Fits a model to networks that were timed op by op.

    Least squares of the relative error under non-negative coefficients. The granularity, and
    whether an op has a second piece above `SWITCH`, are chosen for every class of op by
    cross-validation that leaves whole networks out.

    Source: NNLS on physical features, as in semi-analytic models; fitted in situ because ops timed
    alone sum to 0.81–0.84 of the network they make.

    Raises:
        UserError: fewer than two networks, or one that was not timed op by op.
    """
    if len(timings) < 2:
        raise UserError(
            f"a latency model needs at least 2 timed networks, not {len(timings)}; "
            "raise profile.networks"
        )
    rows: dict[str, list[_Row]] = defaultdict(list)
    costs = [graph.cost(timing.spec) for timing in timings]
    for network, (timing, cost) in enumerate(zip(timings, costs, strict=True)):
        if timing.layer_ms is None:
            raise UserError("the latency model needs times of every op; measure with per_layer")
        for layer in cost.layers:
            ms = max(timing.layer_ms[layer.name], RESOLVED_MS)
            rows[op_class(layer)].append(_Row(layer, ms, network))
    ops = {name: _fit_op(of_class) for name, of_class in rows.items()}
    plain = InSitu(box=box, ops=ops, scale=1.0, offset_ms=0.0)
    measured = np.array([timing.latency.ms for timing in timings])
    summed = np.array([plain.predict(cost) for cost in costs])
    scale, offset = _solve(np.stack([summed, np.ones_like(summed)], axis=1), measured)
    return replace(plain, scale=float(scale), offset_ms=float(offset))


@dataclass(frozen=True, slots=True)
class _Row:
    cost: LayerCost
    ms: float
    network: int


def _sizes(cost: LayerCost, granularity: int) -> tuple[int, ...]:
    """Sizes that an op's time is made of; none falls when a width or the resolution grows.

    MACs; MACs with output channels, and with output pixels, rounded up to what is computed
    together; weights; input and output activations; the im2col matrix, which for a pooling is the
    elements its windows read.
    """
    pixels = cost.hout * cost.wout
    weights = cost.macs // pixels
    return (
        cost.macs,
        cost.macs // cost.cout * _up(cost.cout, granularity),
        weights * _up(pixels, PIXELS),
        weights,
        cost.in_size,
        cost.out_size,
        cost.cin * cost.kernel[0] * cost.kernel[1] * pixels,
    )


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _fit_op(rows: Sequence[_Row]) -> OpModel:
    """Chooses the granularity and the switch by cross-validation, then fits all rows."""
    measured = np.array([row.ms for row in rows])
    fold = np.array([row.network for row in rows]) % FOLDS
    candidates = [(False, GRANULARITIES[0])]
    if any(row.cost.macs for row in rows):
        candidates = list(product((False, True), GRANULARITIES))
    best = (math.inf, GRANULARITIES[0], np.ones((len(rows), 1)))
    for switched, granularity in candidates:
        design = _design(rows, granularity, switched)
        error = _validate(design, measured, fold)
        if error < GAIN * best[0]:
            best = (error, granularity, design)
    _, granularity, design = best
    coefficients = np.zeros(1 + 2 * _SIZES)
    coefficients[: design.shape[1]] = _solve(design, measured)
    below, above = coefficients[1:].reshape(2, _SIZES).tolist()
    return OpModel(granularity=granularity, below=tuple(below), above=tuple(above))


def _design(rows: Sequence[_Row], granularity: int, switched: bool) -> _Matrix:
    """Overhead and sizes of every op, and the sizes again for ops beyond the switch."""
    sizes = np.array([_sizes(row.cost, granularity) for row in rows], dtype=float)
    columns = [np.ones((len(rows), 1)), sizes]
    if switched:
        above = np.array([row.cost.in_size > SWITCH for row in rows])
        columns.append(sizes * above[:, None])
    return np.hstack(columns)


def _validate(design: _Matrix, measured: _Matrix, fold: NDArray[np.int64]) -> float:
    """Sum of squared relative errors on networks left out."""
    error = 0.0
    for left_out in range(FOLDS):
        out = fold == left_out
        if out.any() and not out.all():
            fitted = design[out] @ _solve(design[~out], measured[~out])
            error += float(np.sum((fitted / measured[out] - 1) ** 2))
    return error


def _solve(design: _Matrix, measured: _Matrix) -> _Matrix:
    """Non-negative least squares of the relative error; columns are scaled to equal norms."""
    from scipy.optimize import nnls

    relative = design / measured[:, None]
    norms = np.linalg.norm(relative, axis=0)
    norms[norms == 0] = 1.0
    solution, _ = nnls(relative / norms, np.ones(len(measured)), maxiter=100 * design.shape[1])
    return solution / norms
