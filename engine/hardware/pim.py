"""Processing in memory: crossbar arrays that hold all weights and multiply where they lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.costs import LayerCost
from engine.errors import require
from engine.hardware.calibrated import calibrated, check_known
from engine.hardware.contract import Box, LatencyModel
from engine.hardware.systolic import channels_of

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Pim(LatencyModel):
    """Weight-stationary arrays of ``rows`` × ``columns`` cells.

    A filter is a column: k·k·c weights lie in as many rows and in ``cells`` columns beside each
    other (of a transposed convolution, c weights of each of k·k columns: `LayerCost.matrix`). A
    layer fills ⌈k·k·c / rows⌉ · ⌈f·cells / columns⌉ arrays for every group; small filters fill
    little of a large array. Every output pixel takes ``input_bits`` cycles, bit by bit, in
    all arrays of the layer at once, as long as there are enough arrays; meanwhile activations move.

    Attributes:
        rows, columns: of an array, 128 to 4096 each in the literature.
        cells: that one weight takes.
        arrays: on the chip; a layer that needs more takes turns.
        input_bits: of an activation.
        bytes_per_cycle: activations and partial sums between arrays and buffer.
        clock_ghz: of a cycle.
        batch: images per forward.
    """

    kind: Literal["pim"] = "pim"
    rows: int = 128
    columns: int = 128
    cells: int = 4
    arrays: int = 1024
    input_bits: int = 8
    bytes_per_cycle: float = 64.0
    clock_ghz: float = 0.1
    batch: int = 1

    def __post_init__(self) -> None:
        LatencyModel.__post_init__(self)
        for name in ("rows", "columns", "cells", "arrays", "input_bits", "batch"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        for name in ("bytes_per_cycle", "clock_ghz"):
            require(
                0 < getattr(self, name) < math.inf, f"{name} must be positive", getattr(self, name)
            )

    def arrays_of(self, cost: LayerCost) -> int:
        """Returns how many arrays a convolution or linear layer fills, at least partly."""
        down, across = self._tiles(cost)
        return cost.groups * down * across

    def utilisation(self, cost: LayerCost) -> float:
        """Returns the share of the cells of these arrays that hold a weight."""
        used = cost.weights * self.cells
        return used / (self.arrays_of(cost) * self.rows * self.columns)

    def moved(self, cost: LayerCost) -> int:
        """Returns activations that move, in values of ``input_bits`` bits.

        For every position of the window, the k·k·c inputs go to each array across, and the f sums
        come from each array down; of a transposed convolution c inputs and k·k·f sums.
        """
        down, across = self._tiles(cost)
        depth, filters = cost.matrix
        return self.batch * cost.uses * cost.groups * (depth * across + filters * down)

    def op_ms(self, cost: LayerCost) -> float:
        """Returns the longer of computing and moving; ops without MACs are taken to be fused.

        Raises:
            UserError: an unknown kind of op.
        """
        check_known(cost)
        if not cost.macs:
            return 0.0
        turns = math.ceil(self.arrays_of(cost) / self.arrays)
        computing = self.batch * cost.uses * self.input_bits * turns
        moving = self.moved(cost) * self.input_bits / 8 / self.bytes_per_cycle
        return max(computing, moving) / (self.clock_ghz * 1e6)

    def granularity(self, cost: LayerCost) -> int:
        """Returns the channels of an array for every group; 1 where groups grow with the width."""
        return channels_of(self.columns // self.cells, cost)

    def _tiles(self, cost: LayerCost) -> tuple[int, int]:
        depth, filters = cost.matrix
        return math.ceil(depth / self.rows), math.ceil(filters * self.cells / self.columns)


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int) -> Pim:
    """Calibrates arrays of the default size to whole networks; see `engine.hardware.systolic`."""
    return calibrated(Pim(box=box, batch=batch), graph, timings)
