"""A lookup table of layer times, interpolated between its knots."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.codec import STRICT
from engine.costs import LayerCost
from engine.errors import UserError, require
from engine.hardware.calibrated import Matrix, calibrated, is_depthwise, op_times, solve
from engine.hardware.contract import Box, LatencyModel, op_class, unknown_op
from engine.ops import WRITERS

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing
    from engine.tables import TableRow

_WINDOWED = ("conv", "conv_transpose", "pool")
_ALIKE = ("norm", "activation", "pool", "global_pool", "add", "mul", "resize")
"""Kinds that give out as many channels as they take in, if they are not over the channels."""
_APART = " over channels"
KNOTS = 4
"""At most so many values of a width have a knot of their own; more are thinned out."""
GRANULARITY = 8
"""Output channels that a device is taken to compute together unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Times of one class of op over three axes, linear between knots along each.

    Attributes:
        cin, cout, pixels: knots in rising order; ``cout`` counts channels rounded up to what is
            computed together, ``pixels`` those of the output; of layers that were timed alone, of
            the input.
        ms: by knot, the last axis fastest; None where nothing near was timed.
    """

    __pydantic_config__ = STRICT

    cin: tuple[int, ...]
    cout: tuple[int, ...]
    pixels: tuple[int, ...]
    ms: tuple[float | None, ...]

    def __post_init__(self) -> None:
        for axis in self.axes:
            require(list(axis) == sorted(set(axis)) != [], "knots must rise", axis)
        knots = len(self.cin) * len(self.cout) * len(self.pixels)
        require(len(self.ms) == knots, f"ms must hold {knots} numbers", len(self.ms))
        for ms in self.ms:
            require(ms is None or 0 <= ms < math.inf, "ms must be finite and not negative", ms)

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """The knots of all axes."""
        return self.cin, self.cout, self.pixels

    def holds(self, point: Sequence[int]) -> bool:
        """Whether ``point`` lies between knots that are known."""
        between = zip(self.axes, point, strict=True)
        return all(axis[0] <= at <= axis[-1] for axis, at in between) and all(
            self.ms[knot] is not None for knot, _ in _corners(self.axes, point)
        )

    def at(self, point: Sequence[int]) -> float:
        """Returns the time at ``point``, which the table must hold."""
        return sum(share * (self.ms[knot] or 0.0) for knot, share in _corners(self.axes, point))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lut(LatencyModel):
    """Looks ops up in tables, one for every class and stride.

    Source: NetAdapt, whose tables hold layers timed alone, by (cin, cout) at one resolution.
    Deviations: a third axis of output pixels, and times between the knots are fitted rather than
    read where the rows are no full grid; no time falls along an axis of a table. Of ops that give
    out as many channels as they take in, the input channels are no axis.

    Attributes:
        lanes: output channels that are computed together.
        listed: whether the tables are of layers that were timed alone. They go by the size of the
            input, which their rows have. Where rows of one
            kind are no full grid, every size has its own table, and times may fall from one to the
            next as they do in the rows. Ops without arithmetic that no
            table has take nothing by themselves: the calibration to whole networks has them.
    """

    kind: Literal["lut"] = "lut"
    lanes: int = GRANULARITY
    listed: bool = False
    tables: dict[str, Table]

    def __post_init__(self) -> None:
        LatencyModel.__post_init__(self)
        require(self.lanes >= 1, "lanes must be at least 1", self.lanes)
        for key, table in self.tables.items():  # of an earlier version, which had other axes
            alike = (key.split()[0] in _ALIKE and _APART not in key) or "depthwise" in key
            known = " grouped" not in key and (not alike or table.cin == (1,))
            require(known, "a table must have the axes of its op", key)

    def op_ms(self, cost: LayerCost) -> float:
        """Returns the time in the table.

        Raises:
            UserError: no table for such an op, or one that does not reach it.
        """
        key, point = _key(cost), _point(cost, self.lanes, self.listed)
        table = self.tables.get(key) or self.tables.get(f"{key} at {point[2]}")
        if table is None and not any(name.startswith(f"{key} at ") for name in self.tables):
            if self.listed and not cost.macs:
                return 0.0
            raise unknown_op(cost, self.tables)
        if table is None or not table.holds(point):
            size = (
                f"{cost.hin}×{cost.win} inputs"
                if self.listed
                else f"{cost.hout}×{cost.wout} outputs"
            )
            raise UserError(
                f"the latency table of {key} does not reach {cost.name!r} with {cost.cin} to "
                f"{cost.cout} channels and {size}; measure such layers"
            )
        return table.at(point)

    def granularity(self, cost: LayerCost) -> int:
        """Returns ``lanes`` for convolutions and linear layers."""
        return self.lanes if cost.macs else 1


def from_rows(rows: "Iterable[TableRow]", box: Box, lanes: int = GRANULARITY) -> Lut:
    """Makes the tables of layers that were timed one by one; the network is their sum.

    Raises:
        UserError: no rows.
    """
    points = _points([(_cost(row), row.ms) for row in rows], lanes, listed=True)
    tables: dict[str, Table] = {}
    for key, times in points.items():
        if _is_grid(times):
            tables[key] = _table(times)
            continue
        for size in sorted({pixels for _, _, pixels in times}):
            of_size = {point: ms for point, ms in times.items() if point[2] == size}
            tables[f"{key} at {size}"] = _without_unseen(_table(of_size), of_size)
    return Lut(box=box, lanes=lanes, listed=True, tables=tables)


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int) -> Lut:
    """Makes the tables of ops that were timed inside whole networks, then calibrates."""
    times = [(row.cost, row.ms) for rows in op_times(graph, timings).values() for row in rows]
    points = _points(times, GRANULARITY, listed=False)
    tables = {key: _table(of_key) for key, of_key in points.items()}
    return calibrated(Lut(box=box, tables=tables), graph, timings)


def _cost(row: "TableRow") -> LayerCost:
    """The layer of a row. What padding it has is not known: its output size is a guess."""
    height, width = -(-row.h // row.stride), -(-row.w // row.stride)
    if row.op == "conv_transpose":
        height, width = row.h * row.stride, row.w * row.stride
    weights = row.cin // row.groups * row.cout * row.kernel**2
    cost = LayerCost(
        name=f"{row.op} of {row.cin} to {row.cout} channels",
        kind=row.op,
        cin=row.cin,
        cout=row.cout,
        hin=row.h,
        win=row.w,
        hout=height,
        wout=width,
        kernel=(row.kernel, row.kernel),
        stride=row.stride,
        groups=row.groups,
    )
    return replace(cost, macs=weights * cost.uses) if row.op in WRITERS else cost


_Point = tuple[int, int, int]


def _points(
    times: Iterable[tuple[LayerCost, float]], lanes: int, listed: bool
) -> dict[str, dict[_Point, float]]:
    """The median time at every point, by `_key`."""
    seen: dict[str, dict[_Point, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cost, ms in times:
        seen[_key(cost)][_point(cost, lanes, listed)].append(ms)
    if not seen:
        raise UserError("a latency table needs at least one timed layer, not 0")
    return {
        key: {at: float(np.median(ms)) for at, ms in of_key.items()} for key, of_key in seen.items()
    }


def _is_grid(times: Iterable[_Point]) -> bool:
    points = set(times)
    cin, cout, pixels = (len(set(values)) for values in zip(*points, strict=True))
    return len(points) == cin * cout * pixels


def _without_unseen(table: Table, times: Iterable[_Point]) -> Table:
    """Forgets the knots that no time has a share in: what stands there is nobody's measurement."""
    seen = {knot for point in times for knot, _ in _corners(table.axes, point)}
    return replace(
        table, ms=tuple(ms if knot in seen else None for knot, ms in enumerate(table.ms))
    )


def _table(times: dict[_Point, float]) -> Table:
    """The times themselves where they are a full grid; else those that `_fitted` says."""
    cin, cout, pixels = (sorted(set(values)) for values in zip(*times, strict=True))
    whole = _is_grid(times)
    if not whole:
        cin, cout = _thinned(cin), _thinned(cout)
    shape = (len(cin), len(cout), len(pixels))
    if whole:
        ms = np.array([times[point] for point in product(cin, cout, pixels)]).reshape(shape)
    else:
        ms = _fitted(times, (tuple(cin), tuple(cout), tuple(pixels)))
    for axis in range(len(shape)):  # less time for more is noise, or rounding
        ms = np.maximum.accumulate(ms, axis=axis)
    return Table(
        cin=tuple(cin), cout=tuple(cout), pixels=tuple(pixels), ms=tuple(ms.ravel().tolist())
    )


def _fitted(times: dict[_Point, float], axes: tuple[tuple[int, ...], ...]) -> Matrix:
    """Least squares over non-negative increments from knot to knot, so that no time falls."""
    shape = tuple(map(len, axes))
    # Along one axis, a knot is the sum of the increments up to it.
    sums: Matrix = np.ones((1, 1))
    for length in shape:
        sums = np.kron(sums, np.tril(np.ones((length, length)))).astype(np.float64)
    shares = np.zeros((len(times), len(sums)))
    for i, point in enumerate(times):
        for knot, share in _corners(axes, point):
            shares[i, knot] += share
    increments = solve(shares @ sums, np.array(list(times.values())))
    return (sums @ increments).reshape(shape)


def _thinned(values: list[int]) -> list[int]:
    """At most `KNOTS` of them, evenly by rank, with the first and the last."""
    if len(values) <= KNOTS:
        return values
    return [values[round(i * (len(values) - 1) / (KNOTS - 1))] for i in range(KNOTS)]


def _corners(axes: tuple[tuple[int, ...], ...], point: Sequence[int]) -> list[tuple[int, float]]:
    """Knots around ``point``, by index, with their shares, which sum to 1."""
    sides: list[list[tuple[int, float]]] = []
    for axis, at in zip(axes, point, strict=True):
        high = min(bisect_right(axis, at), len(axis) - 1)
        low = max(high - 1, 0)
        share = (at - axis[low]) / (axis[high] - axis[low]) if high > low else 0.0
        sides.append([(knot, part) for knot, part in ((low, 1 - share), (high, share)) if part])
    _, across, along = map(len, axes)
    return [((i * across + j) * along + k, a * b * c) for (i, a), (j, b), (k, c) in product(*sides)]


def _key(cost: LayerCost) -> str:
    """Which ops share a table."""
    kind = op_class(cost)
    if cost.kind in _WINDOWED:
        height, width = cost.kernel
        kind = f"{cost.kind} {height}x{width}{_grouping(cost)}"
    if cost.kind in _ALIKE and not _is_alike(cost):
        kind += _APART
    return f"{kind} /{cost.stride}" + (f"x{cost.across}" if cost.across else "")


def _grouping(cost: LayerCost) -> str:
    if cost.kind == "pool" or cost.groups == 1:
        return ""
    if cost.groups != cost.cin:
        return f" of {cost.groups} groups"
    times = cost.cout // cost.cin
    return f" depthwise ×{times}" if times > 1 else " depthwise"


def _is_alike(cost: LayerCost) -> bool:
    return is_depthwise(cost) or (cost.kind in _ALIKE and cost.cin == cost.cout)


def _point(cost: LayerCost, lanes: int, listed: bool) -> _Point:
    cout = -(-cost.cout // lanes) * lanes if cost.macs else cost.cout
    cin = 1 if _is_alike(cost) else cost.cin
    return cin, cout, cost.hin * cost.win if listed else cost.hout * cost.wout
