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
from itertools import cycle, product
from operator import mul

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import qmc, spearmanr

from engine.codec import STRICT, canonical, decode
from engine.costs import LayerCost, NetworkCost
from engine.errors import UserError, nearest
from engine.graph import NetworkGraph
from engine.measure import Timing
from engine.recipe import Profile
from engine.results import ModelQuality
from engine.spec import ModelRef, NetworkSpec

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
DRAWS = 50
"""Latin hypercubes drawn at most in search of networks that differ."""

_SIZES = 7
_Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The networks that a model was fitted on; it is not extrapolated.

    Attributes:
        widths: (fewest, most) channels by group.
        resolutions: (lowest, highest), in pixels.
    """

    __pydantic_config__ = STRICT

    model: ModelRef
    widths: dict[str, tuple[int, int]]
    resolutions: tuple[int, int]

    def __post_init__(self) -> None:
        for low, high in (self.resolutions, *self.widths.values()):
            if not 1 <= low <= high:
                raise ValueError(f"a range must satisfy 1 <= low <= high, not {(low, high)}")

    @classmethod
    def around(
        cls, graph: NetworkGraph, base: NetworkSpec, resolutions: Sequence[int], profile: Profile
    ) -> "Box":
        """Returns the box of ``profile`` around ``base``, at its resolution and ``resolutions``."""
        pixels = (base.resolution, *resolutions)
        return cls(
            model=base.model,
            widths={
                group: (
                    graph.round_width(group, width * profile.min_width),
                    graph.round_width(group, width * profile.max_width),
                )
                for group, width in base.widths
            },
            resolutions=(min(pixels), max(pixels)),
        )

    def check(self, spec: NetworkSpec) -> None:
        """Raises a UserError if ``spec`` lies outside."""
        if spec.model != self.model:
            raise UserError(
                f"the latency model is of {self.model.name!r} with {self.model.classes} classes "
                f"and {self.model.channels} channels, not of {spec.model.name!r} with "
                f"{spec.model.classes} and {spec.model.channels}; profile that network"
            )
        low, high = self.resolutions
        if not low <= spec.resolution <= high:
            raise UserError(
                f"the latency model was fitted at {low} to {high} px, not at {spec.resolution} px; "
                "profile that resolution too"
            )
        for group, width in spec.widths:
            self.check_width(group, width)

    def check_width(self, group: str, width: int) -> None:
        """Raises a UserError if the box does not reach ``width`` channels of ``group``."""
        if group not in self.widths:
            raise UserError(
                f"the latency model has no width group {group!r}{nearest(group, self.widths)}"
            )
        low, high = self.widths[group]
        if not low <= width <= high:
            raise UserError(
                f"the latency model was fitted with {low} to {high} channels of {group}, "
                f"not {width}; widen profile.min_width or profile.max_width"
            )


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
class LatencyModel:
    """Predicts latency on one device; make one with `fit_latency`.

    Attributes:
        ops: by class of op, see `op_class`.
        scale: from the sum of the ops to the whole network.
        offset_ms: overhead of all ops together.
    """

    __pydantic_config__ = STRICT

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

    def check(self, spec: NetworkSpec) -> None:
        """Raises a UserError if ``spec`` lies outside what the model was fitted on."""
        self.box.check(spec)

    def rescaled(self, factor: float) -> "LatencyModel":
        """Returns the model with every prediction multiplied by ``factor``."""
        return replace(self, scale=self.scale * factor, offset_ms=self.offset_ms * factor)

    def to_json(self) -> str:
        """Returns canonical JSON."""
        return canonical(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "LatencyModel":
        """Reads what `to_json` wrote.

        Raises:
            UserError: it is something else.
        """
        return decode(cls, text, "the latency model")

    def _op(self, cost: LayerCost) -> OpModel:
        found = self.ops.get(op_class(cost))
        if found is None:
            raise UserError(
                f"the latency model knows no op like {cost.name!r} ({op_class(cost)})"
                f"{nearest(op_class(cost), self.ops)}; profile the network again"
            )
        return found


def op_class(cost: LayerCost) -> str:
    """Returns which ops share coefficients: the kind, convolutions by kernel and grouping."""
    if cost.kind != "conv":
        return cost.kind
    grouped = " grouped" if cost.groups > 1 else ""
    return f"conv {cost.kernel[0]}x{cost.kernel[1]}{grouped}"


def fit_latency(graph: NetworkGraph, timings: Sequence[Timing], box: Box) -> LatencyModel:
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
    plain = LatencyModel(box=box, ops=ops, scale=1.0, offset_ms=0.0)
    measured = np.array([timing.latency.ms for timing in timings])
    summed = np.array([plain.predict(cost) for cost in costs])
    scale, offset = _solve(np.stack([summed, np.ones_like(summed)], axis=1), measured)
    return replace(plain, scale=float(scale), offset_ms=float(offset))


def judge(model: LatencyModel, graph: NetworkGraph, timings: Sequence[Timing]) -> ModelQuality:
    """Compares predictions with measurements of networks that the fit has not seen.

    The rank correlation is 0 where it is undefined, because all values are equal.

    Raises:
        UserError: no networks, or one outside the model's box.
    """
    if not timings:
        raise UserError("no networks to judge the latency model on; raise profile.held_out")
    for timing in timings:
        model.check(timing.spec)
    predicted = np.array([model.predict(graph.cost(timing.spec)) for timing in timings])
    measured = np.array([timing.latency.ms for timing in timings])
    errors = np.abs(predicted - measured) / measured
    varied = bool(np.ptp(predicted) > 0 and np.ptp(measured) > 0)
    return ModelQuality(
        mape=float(errors.mean()),
        within_10=float((errors <= 0.1).mean()),
        spearman=float(spearmanr(predicted, measured).statistic) if varied else 0.0,  # pyright: ignore[reportAttributeAccessIssue]
        predicted_ms=tuple(predicted.tolist()),
        measured_ms=tuple(measured.tolist()),
    )


def profile_specs(
    graph: NetworkGraph, base: NetworkSpec, resolutions: Sequence[int], profile: Profile
) -> tuple[list[NetworkSpec], list[NetworkSpec]]:
    """Returns the networks to fit a latency model on, and others to judge it on.

    Training starts with the base network, the narrowest at the lowest resolution and the widest
    at the highest; all others have independent log-uniform multipliers of the base widths from a
    Latin hypercube, with the resolutions in turn. No network occurs twice.

    Raises:
        UserError: an impossible resolution, or fewer distinct networks than asked for.
    """
    box = Box.around(graph, base, resolutions, profile)
    pixels = sorted({base.resolution, *resolutions})
    for resolution in pixels:
        graph.check_resolution(resolution)
    corners = (
        base.at(pixels[end]).with_widths({g: w[end] for g, w in box.widths.items()})
        for end in (0, -1)
    )
    specs = dict.fromkeys((base, *corners))
    wanted = profile.networks + profile.held_out
    sampler = qmc.LatinHypercube(len(base.widths), rng=np.random.default_rng(profile.seed))
    spread = profile.max_width / profile.min_width
    turns = cycle(pixels)
    for _ in range(DRAWS):
        # Training and held-out networks come from one hypercube, shuffled by its construction.
        for unit in sampler.random(wanted - len(specs)):
            multipliers = profile.min_width * spread**unit
            widths = {
                group: graph.round_width(group, width * m)
                for (group, width), m in zip(base.widths, multipliers, strict=True)
            }
            specs[base.at(next(turns)).with_widths(widths)] = None
        if len(specs) == wanted:
            break
    if len(specs) < wanted:
        raise UserError(
            f"the profile asks for {wanted} networks, but its box of widths and resolutions "
            f"holds few more than {len(specs)}; lower profile.networks or widen the box"
        )
    found = list(specs)
    return found[: profile.networks], found[profile.networks :]


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
    relative = design / measured[:, None]
    norms = np.linalg.norm(relative, axis=0)
    norms[norms == 0] = 1.0
    solution, _ = nnls(relative / norms, np.ones(len(measured)), maxiter=100 * design.shape[1])
    return solution / norms
