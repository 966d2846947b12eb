"""Paleo: an op takes the time of its arithmetic plus that of its traffic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.costs import LayerCost
from engine.errors import require
from engine.hardware.calibrated import (
    calibrated,
    check_known,
    moved_bytes,
    op_times,
    solve,
)
from engine.hardware.contract import Box, LatencyModel

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Paleo(LatencyModel):
    """Time of an op = bytes / bandwidth + MACs / (peak · platform percent).

    Source: Qi et al. 2017 (reading, computing and writing do not overlap).

    Attributes:
        ms_per_mac: one over the rate that is reached, the platform percent included.
        ms_per_byte: one over the bandwidth.
    """

    kind: Literal["paleo"] = "paleo"
    ms_per_mac: float
    ms_per_byte: float
    batch: int = 1

    def __post_init__(self) -> None:
        LatencyModel.__post_init__(self)
        for name in ("ms_per_mac", "ms_per_byte"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name} must be finite and not negative", value)
        require(self.batch >= 1, "batch must be at least 1", self.batch)

    def op_ms(self, cost: LayerCost) -> float:
        """Returns the sum of both times.

        Raises:
            UserError: an unknown kind of op.
        """
        check_known(cost)
        arithmetic = self.batch * cost.macs * self.ms_per_mac
        return arithmetic + moved_bytes(cost, self.batch) * self.ms_per_byte


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int) -> Paleo:
    """Fits both rates to ops inside whole networks, by non-negative least squares.

    Deviation: the paper takes peak and bandwidth from a data sheet and only the platform percent
    from a measurement.
    """
    rows = [row for rows in op_times(graph, timings).values() for row in rows]
    sizes = [(batch * row.cost.macs, moved_bytes(row.cost, batch)) for row in rows]
    per_mac, per_byte = solve(np.array(sizes, dtype=float), np.array([row.ms for row in rows]))
    model = Paleo(box=box, ms_per_mac=float(per_mac), ms_per_byte=float(per_byte), batch=batch)
    return calibrated(model, graph, timings)
