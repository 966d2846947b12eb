"""What fits of latency models share: op times, least squares, one scale and offset to networks."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.costs import LayerCost
from engine.errors import UserError
from engine.hardware.contract import LatencyModel, op_class, unknown_op
from engine.memory import FLOAT_BYTES
from engine.ops import KINDS

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing

RESOLVED_MS = 1e-4
"""Shorter op times are taken for this, so that one no clock can see has a finite weight."""

Matrix = NDArray[np.float64]
M = TypeVar("M", bound=LatencyModel)


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
        UserError: a network was not timed op by op, or ops of another name.
    """
    times: dict[str, list[OpTime]] = defaultdict(list)
    for network, timing in enumerate(timings):
        if timing.layer_ms is None:
            raise UserError("the latency model needs times of every op; measure with per_layer")
        for cost in graph.cost(timing.spec).layers:
            if cost.name not in timing.layer_ms:
                raise UserError(f"op {cost.name!r} of the network was not timed; measure again")
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
    if cost.kind not in KINDS:
        raise unknown_op(cost, KINDS)


def is_depthwise(cost: LayerCost) -> bool:
    """Whether every group of a convolution has one input channel, and so a channel more a group."""
    return cost.groups > 1 and cost.groups == cost.cin


def moved_bytes(cost: LayerCost, batch: int) -> int:
    """Bytes of float32 that an op reads and writes: weights once, activations for every image."""
    return FLOAT_BYTES * (cost.weights + batch * (cost.in_size + cost.out_size))
