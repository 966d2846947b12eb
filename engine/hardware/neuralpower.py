"""NeuralPower: sparse polynomials of a layer's sizes, for runtime and power."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.codec import STRICT
from engine.costs import LayerCost
from engine.errors import UserError, require
from engine.hardware.calibrated import (
    Matrix,
    calibrated,
    op_times,
)
from engine.hardware.contract import Box, LatencyModel, op_class, unknown_op

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing

DEGREE = 3
POWER_DEGREE = 2
FOLDS = 10
ALPHAS = 30
"""Penalties of the lasso that cross-validation chooses from."""
SWEEPS = 3000
"""Coordinate-descent sweeps at most for each penalty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial:
    """Σ coefficient × product of the variables that a term names, repeated for a higher degree."""

    __pydantic_config__ = STRICT

    terms: tuple[tuple[float, tuple[int, ...]], ...]

    def __call__(self, variables: Sequence[float]) -> float:
        """Returns the value at ``variables``."""
        return sum(c * math.prod([variables[i] for i in term]) for c, term in self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuralPower(LatencyModel):
    """Runtime of every class of op as a polynomial of degree 3, with physical terms.

    Source: NeuralPower (Cai et al. 2017): lasso with 10-fold cross-validation. Deviation: no
    coefficient is negative, so that no prediction falls with a width, and the error is relative.
    """

    kind: Literal["neuralpower"] = "neuralpower"
    runtime: dict[str, Polynomial]
    batch: int = 1

    def __post_init__(self) -> None:
        LatencyModel.__post_init__(self)
        for polynomial in self.runtime.values():
            for coefficient, _ in polynomial.terms:
                known = 0 <= coefficient < math.inf
                require(known, "a coefficient must be finite and not negative", coefficient)

    def op_ms(self, cost: LayerCost) -> float:
        """Returns the polynomial of the op's class.

        Raises:
            UserError: no op of that class was measured.
        """
        found = self.runtime.get(op_class(cost))
        if found is None:
            raise unknown_op(cost, self.runtime)
        return found(_runtime_variables(cost, self.batch))


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRow:
    """One layer with its mean power while it ran, in watts."""

    cost: LayerCost
    power_w: float

    def __post_init__(self) -> None:
        require(0 < self.power_w < math.inf, "power_w must be positive", self.power_w)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Power of every class of op as a polynomial of degree 2 over x and log₂ x.

    Source: NeuralPower; unlike runtime, power may fall with a size, so coefficients have any sign.

    Attributes:
        least_w: least power that was measured; no prediction is below it.
    """

    __pydantic_config__ = STRICT

    ops: dict[str, Polynomial]
    least_w: float
    batch: int = 1

    def watts(self, cost: LayerCost) -> float:
        """Returns the power of one op while it runs.

        Raises:
            UserError: no op of that class was measured.
        """
        found = self.ops.get(op_class(cost))
        if found is None:
            raise unknown_op(cost, self.ops)
        return max(self.least_w, found(_power_variables(cost, self.batch)))

    def energy_mj(self, runtime: NeuralPower, layers: Sequence[LayerCost]) -> float:
        """Returns E = Σ P·T of a network's ops in millijoules, for a whole batch.

        While no op runs (``runtime.offset_ms``), the device takes the mean power of all, or where
        ops take no time, ``least_w``.
        """
        times = [runtime.layer_ms(cost) for cost in layers]
        energy = sum(self.watts(cost) * ms for cost, ms in zip(layers, times, strict=True))
        mean_w = energy / sum(times) if sum(times) else self.least_w
        return energy + mean_w * runtime.offset_ms


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int) -> NeuralPower:
    """Fits the runtime to ops that were timed inside whole networks, then calibrates."""
    runtime = {
        name: _lasso(
            np.array([_runtime_variables(row.cost, batch) for row in rows]),
            np.array([row.ms for row in rows]),
            _runtime_terms(),
            positive=True,
        )
        for name, rows in op_times(graph, timings).items()
    }
    return calibrated(NeuralPower(box=box, runtime=runtime, batch=batch), graph, timings)


def fit_power(rows: Sequence[PowerRow], batch: int = 1) -> Power:
    """Fits the power of layers that were measured.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("a power model needs at least one layer with measured power, not 0")
    of_class: dict[str, list[PowerRow]] = defaultdict(list)
    for row in rows:
        of_class[op_class(row.cost)].append(row)
    ops = {
        name: _lasso(
            np.array([_power_variables(row.cost, batch) for row in found]),
            np.array([row.power_w for row in found]),
            _monomials(14, POWER_DEGREE),
            positive=False,
        )
        for name, found in of_class.items()
    }
    return Power(ops=ops, least_w=min(row.power_w for row in rows), batch=batch)


def _seven(cost: LayerCost, batch: int) -> list[float]:
    """Batch, input size and channels, kernel, stride, output channels."""
    return [
        float(v)
        for v in (
            batch,
            cost.hin,
            cost.win,
            cost.cin,
            cost.kernel[0],
            cost.stride,
            cost.cout,
        )
    ]


def _runtime_variables(cost: LayerCost, batch: int) -> list[float]:
    """The seven, then eight physical terms: arithmetic, and what is read and written."""
    pixels = cost.hout * cost.wout
    return [
        *_seven(cost, batch),
        float(batch * cost.macs),
        float(cost.weights),
        float(batch * cost.in_size),
        float(batch * cost.out_size),
        float(batch * (cost.in_size + cost.out_size) + cost.weights),
        float(batch * pixels),
        float(cost.cin * cost.kernel[0] * cost.kernel[1]),
        float(batch * pixels * cost.cin * cost.kernel[0] * cost.kernel[1]),
    ]


def _power_variables(cost: LayerCost, batch: int) -> list[float]:
    seven = _seven(cost, batch)
    return [*seven, *map(math.log2, seven)]


def _runtime_terms() -> list[tuple[int, ...]]:
    return [*_monomials(7, DEGREE), *((i,) for i in range(7, 15))]


def _monomials(variables: int, degree: int) -> list[tuple[int, ...]]:
    return [
        term
        for power in range(degree + 1)
        for term in combinations_with_replacement(range(variables), power)
    ]


def _lasso(
    variables: Matrix, measured: Matrix, terms: list[tuple[int, ...]], *, positive: bool
) -> Polynomial:
    """Lasso of the relative error over columns of equal norm.

    Terms that are proportional on all rows say the same, so the first stands for them.
    """
    from sklearn.linear_model import LassoCV

    columns: dict[bytes, tuple[tuple[int, ...], Matrix, float]] = {}
    for term in terms:
        column = np.prod(variables[:, list(term)], axis=1) / measured
        norm = float(np.linalg.norm(column)) / math.sqrt(len(measured))
        if norm > 0:
            columns.setdefault(np.round(column / norm, 9).tobytes(), (term, column / norm, norm))
    design = np.stack([column for _, column, _ in columns.values()], axis=1)
    if len(measured) < 2:
        coefficients = np.eye(1, design.shape[1]).ravel() / design[0, 0]
    else:
        model = LassoCV(
            alphas=ALPHAS,
            cv=min(FOLDS, len(measured)),
            positive=positive,
            fit_intercept=False,
            max_iter=SWEEPS,
            tol=1e-3,
        )
        coefficients = model.fit(design, np.ones(len(measured))).coef_
    return Polynomial(
        terms=tuple(
            (float(c) / norm, term)
            for c, (term, _, norm) in zip(coefficients, columns.values(), strict=True)
            if c
        )
    )
