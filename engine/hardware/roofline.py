"""Roofline: an op takes as long as its arithmetic or its traffic, whichever is longer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.costs import LayerCost
from engine.errors import require
from engine.hardware.calibrated import (
    OpTime,
    calibrated,
    check_known,
    moved_bytes,
    op_times,
)
from engine.hardware.contract import Box, LatencyModel

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline(LatencyModel):
    """Time of an op = max(MACs / peak, bytes / bandwidth).

    Source: Williams et al. 2009. Weights are read once and activations for every image.
    """

    kind: Literal["roofline"] = "roofline"
    macs_per_ms: float
    bytes_per_ms: float
    batch: int = 1

    def __post_init__(self) -> None:
        LatencyModel.__post_init__(self)
        for name in ("macs_per_ms", "bytes_per_ms", "batch"):
            require(getattr(self, name) > 0, f"{name} must be positive", getattr(self, name))

    def op_ms(self, cost: LayerCost) -> float:
        """Returns the longer of both times.

        Raises:
            UserError: an unknown kind of op.
        """
        check_known(cost)
        return max(
            self.batch * cost.macs / self.macs_per_ms,
            moved_bytes(cost, self.batch) / self.bytes_per_ms,
        )


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int) -> Roofline:
    """Takes the highest rates that any of the longer half of the ops reached, then calibrates.

    Short ops are left out because the resolution of the clock would decide their rates.
    """
    rows = [row for rows in op_times(graph, timings).values() for row in rows]
    model = Roofline(
        box=box,
        macs_per_ms=_highest([row for row in rows if row.cost.macs], batch, macs=True),
        bytes_per_ms=_highest(rows, batch, macs=False),
        batch=batch,
    )
    return calibrated(model, graph, timings)


def _highest(rows: Sequence[OpTime], batch: int, *, macs: bool) -> float:
    median = np.median([row.ms for row in rows])
    return max(
        (batch * row.cost.macs if macs else moved_bytes(row.cost, batch)) / row.ms
        for row in rows
        if row.ms >= median
    )
