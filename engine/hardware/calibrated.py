"""What the latency models share: a sum over ops, one scale and one offset to whole networks."""

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from engine.codec import STRICT, canonical
from engine.costs import LayerCost, NetworkCost
from engine.errors import UserError
from engine.hardware.contract import Box, op_class, unknown_op
from engine.memory import FLOAT_BYTES
from engine.ops import Kind
from engine.spec import NetworkSpec

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing

KNOWN_KINDS: tuple[str, ...] = get_args(Kind)
"""Kinds of op that analytic models know; all but those with MACs are memory traffic to them."""
RESOLVED_MS = 1e-4
"""Shorter op times are taken for this, so that one no clock can see has a finite weight."""

Matrix = NDArray[np.float64]
M = TypeVar("M", bound="Calibrated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated(ABC):
    """Implements `engine.hardware.contract.LatencyModel` over `op_ms`, which is left to kinds.

    Attributes:
        scale: from the sum of the ops to the whole network.
        offset_ms: overhead of all ops together.
    """

    __pydantic_config__ = STRICT

    box: Box
    scale: float = 1.0
    offset_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "offset_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be finite and not negative, not {getattr(self, name)}"
                )

    @abstractmethod
    def op_ms(self, cost: LayerCost) -> float:
        """Returns the latency of one op before calibration.

        Raises:
            UserError: the model knows no op of that class.
        """

    def granularity(self, cost: LayerCost) -> int:
        """Returns how many output channels are computed together: none is known."""
        return 1

    def layer_ms(self, cost: LayerCost) -> float:
        """Returns what one op adds to the network's latency beyond ``offset_ms``.

        Raises:
            UserError: the model knows no op of that class.
        """
        return self.scale * self.op_ms(cost)

    def predict(self, cost: NetworkCost) -> float:
        """Returns the latency of a whole network in ms. `check` its spec first.

        Raises:
            UserError: the model knows no op of some layer's class.
        """
        return self.offset_ms + sum([self.layer_ms(layer) for layer in cost.layers])

    def check(self, spec: NetworkSpec) -> None:
        """Raises a UserError if ``spec`` lies outside the box."""
        self.box.check(spec)

    def rescaled(self, factor: float) -> Self:
        """Returns the model with every prediction multiplied by ``factor``."""
        return replace(self, scale=self.scale * factor, offset_ms=self.offset_ms * factor)

    def to_json(self) -> str:
        """Returns canonical JSON."""
        return canonical(self).decode()


@dataclass(frozen=True, slots=True)
class OpTime:
    """One op inside one measured network, which is number ``network`` of its profile."""

    cost: LayerCost
    ms: float
    network: int


def calibrated(model: M, graph: "NetworkGraph", timings: "Sequence[Timing]") -> M:
    """Returns ``model`` with the scale and offset that fit whole networks best.

    That is by the mean absolute relative error: the few widest networks, whose weights do not stay
    in the cache, or one whose measurement was disturbed do not bend the line for all others.

    Raises:
        UserError: fewer than two networks.
    """
    if len(timings) < 2:
        raise UserError(
            f"a latency model needs at least 2 timed networks, not {len(timings)}; "
            "raise profile.networks"
        )
    plain = replace(model, scale=1.0, offset_ms=0.0)
    measured = np.array([timing.latency.ms for timing in timings])
    summed = np.array([plain.predict(graph.cost(timing.spec)) for timing in timings])
    scale, offset = _least_absolute(np.stack([summed, np.ones_like(summed)], axis=1), measured)
    return replace(plain, scale=scale, offset_ms=offset)


def op_times(graph: "NetworkGraph", timings: "Sequence[Timing]") -> dict[str, list[OpTime]]:
    """Returns all ops that were timed inside whole networks, by `op_class`.

    Raises:
        UserError: a network was not timed op by op.
    """
    times: dict[str, list[OpTime]] = defaultdict(list)
    for network, timing in enumerate(timings):
        if timing.layer_ms is None:
            raise UserError("the latency model needs times of every op; measure with per_layer")
        for cost in graph.cost(timing.spec).layers:
            ms = max(timing.layer_ms[cost.name], RESOLVED_MS)
            times[op_class(cost)].append(OpTime(cost, ms, network))
    return dict(times)


def solve(design: Matrix, measured: Matrix) -> Matrix:
    """Non-negative least squares of the relative error; columns are scaled to equal norms."""
    from scipy.optimize import nnls

    relative = design / measured[:, None]
    norms = np.linalg.norm(relative, axis=0)
    norms[norms == 0] = 1.0
    solution, _ = nnls(relative / norms, np.ones(len(measured)), maxiter=100 * design.shape[1])
    return solution / norms


def _least_absolute(design: Matrix, measured: Matrix) -> list[float]:
    """Non-negative coefficients with the least sum of absolute relative errors: a linear program.

    Its variables are the coefficients and a bound of the error of every row.
    """
    from scipy.optimize import linprog

    relative = design / measured[:, None]
    rows, columns = relative.shape
    bounds = np.eye(rows)
    found = linprog(
        np.concatenate([np.zeros(columns), np.ones(rows)]),
        A_ub=np.block([[relative, -bounds], [-relative, -bounds]]),
        b_ub=np.concatenate([np.ones(rows), -np.ones(rows)]),
    )
    return [max(0.0, float(value)) for value in found.x[:columns]]


def check_known(cost: LayerCost) -> None:
    """Raises a UserError if no analytic model knows such an op."""
    if cost.kind not in KNOWN_KINDS:
        raise unknown_op(cost, KNOWN_KINDS)


def moved_bytes(cost: LayerCost, batch: int) -> int:
    """Bytes of float32 that an op reads and writes: weights once, activations for every image."""
    return FLOAT_BYTES * (cost.weights + batch * (cost.in_size + cost.out_size))
