"""A weight-stationary systolic array: exact and smooth runtime and utilisation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.costs import LayerCost
from engine.errors import require
from engine.hardware.calibrated import calibrated, check_known, is_depthwise
from engine.hardware.contract import Box, LatencyModel

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    import torch

    from engine.graph import NetworkGraph
    from engine.measure import Timing

STEEPNESS = 10.0
"""Of the logistic steps that `smooth_ceil` is made of, over the distance of two widths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Systolic(LatencyModel):
    """Cycles of convolutions and linear layers; other ops are taken to be fused and cost nothing.

    A layer is cut into tiles of at most ``rows`` weights of a filter × ``columns`` filters. Source
    of `runtime` and `utilisation`: U-Boost. `cycles` adds what they leave out, the time in which
    the weights of a tile come into the array and its pipeline fills, which dominates where few
    pixels use each weight. It holds for integer widths; `smooth_runtime` can be differentiated.

    Attributes:
        rows, columns: s₁ and s₂.
        clock_ghz: of the array.
        weight_bytes_per_cycle: bandwidth from memory.
        weight_bytes: of one weight.
        batch: images per forward.
    """

    kind: Literal["systolic"] = "systolic"
    rows: int = 128
    columns: int = 128
    clock_ghz: float = 1.0
    weight_bytes_per_cycle: float = 128.0
    weight_bytes: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        LatencyModel.__post_init__(self)
        for name in ("rows", "columns", "weight_bytes", "batch"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        for name in ("clock_ghz", "weight_bytes_per_cycle"):
            require(
                0 < getattr(self, name) < math.inf, f"{name} must be positive", getattr(self, name)
            )

    def runtime(self, cost: LayerCost) -> int:
        """Returns ⌈k₁k₂c/s₁⌉ · ⌈f/s₂⌉ · h · w · b in cycles, for every group of a convolution.

        With one input and one output channel per group this is U-Boost's depthwise form
        ⌈k₁k₂/s₁⌉ · c · h · w · b.
        """
        depth, filters = cost.matrix
        tiles = math.ceil(depth / self.rows) * math.ceil(filters / self.columns)
        return cost.groups * tiles * cost.uses * self.batch

    def utilisation(self, cost: LayerCost) -> float:
        """Returns the share of the array's cells that hold a weight, on average over tiles."""
        depth, filters = cost.matrix
        tiles = math.ceil(depth / self.rows) * math.ceil(filters / self.columns)
        return depth * filters / (self.rows * self.columns * tiles)

    def cycles(self, cost: LayerCost) -> float:
        """Returns Σ over tiles of max(h·w·b, rows, bytes / bytes per cycle) + ½(rows + columns).

        Rows, columns and bytes are those that a tile uses.
        """
        depth, filters = cost.matrix
        pixels = cost.uses * self.batch
        total = sum(
            many * wide * self._tile(rows, columns, pixels)
            for rows, many in _cut(depth, self.rows)
            for columns, wide in _cut(filters, self.columns)
        )
        return cost.groups * total

    def op_ms(self, cost: LayerCost) -> float:
        """Returns `cycles` at the clock.

        Raises:
            UserError: an unknown kind of op.
        """
        check_known(cost)
        return self.cycles(cost) / (self.clock_ghz * 1e6) if cost.macs else 0.0

    def granularity(self, cost: LayerCost) -> int:
        """Returns the channels of an array for every group; 1 where groups grow with the width."""
        return channels_of(self.columns, cost)

    def smooth_runtime(
        self, cin: "torch.Tensor", cout: "torch.Tensor", kernel: tuple[int, int], pixels: int
    ) -> "torch.Tensor":
        """`runtime` of a convolution without groups, smooth in both widths; see `smooth_ceil`.

        Args:
            cin, cout: widths, of one shape.
            kernel: k₁, k₂.
            pixels: h · w of the output.
        """
        depth, filters = self._smooth_tiles(cin, cout, kernel)
        return depth * filters * (pixels * self.batch)

    def smooth_utilisation(
        self, cin: "torch.Tensor", cout: "torch.Tensor", kernel: tuple[int, int]
    ) -> "torch.Tensor":
        """`utilisation` of a convolution without groups, smooth in both widths."""
        depth, filters = self._smooth_tiles(cin, cout, kernel)
        used = kernel[0] * kernel[1] * cin * cout / (self.rows * self.columns)
        return used / (depth * filters)

    def _smooth_tiles(
        self, cin: "torch.Tensor", cout: "torch.Tensor", kernel: tuple[int, int]
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Tiles down and across. Rows that are used, and left over, are multiples of ``step``."""
        window = kernel[0] * kernel[1]
        step = math.gcd(window, self.rows)
        return (
            smooth_ceil(window * cin / self.rows, step / self.rows),
            smooth_ceil(cout / self.columns, 1 / self.columns),
        )

    def _tile(self, rows: int, columns: int, pixels: int) -> float:
        loading = rows * columns * self.weight_bytes / self.weight_bytes_per_cycle
        return max(pixels, rows, loading) + (rows + columns) / 2


def smooth_ceil(x: "torch.Tensor", apart: float) -> "torch.Tensor":
    """Returns a smooth ⌈x⌉ for x ≥ 0: logistic steps, one above each whole number.

    Source: after U-Boost, which sums generalised logistic functions. Deviation: the steps are plain
    logistic functions, each half of ``apart`` above its whole number and as steep as it takes that
    all x that can occur are right to within e⁻⁵. With steps as wide as an array, the few rows and
    columns that a narrow layer fills would cost next to nothing.

    Args:
        apart: distance of two neighbouring x that can occur, in (0, 1]; larger ones make the steps
            less steep, and x near a whole number less right.
    """
    import torch

    steps = torch.arange(math.ceil(float(x.detach().max())) + 1, dtype=x.dtype, device=x.device)
    above = (x.unsqueeze(-1) - steps) / apart - 0.5
    return torch.sigmoid(STEEPNESS * above).sum(dim=-1)


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int) -> Systolic:
    """Calibrates an array of the default size to whole networks.

    For the latency of a given array construct `Systolic` with its fields; nothing is measured.
    """
    return calibrated(Systolic(box=box, batch=batch), graph, timings)


def channels_of(columns: int, cost: LayerCost) -> int:
    """Returns the output channels, of all groups, that fill so many columns (`LayerCost.matrix`).

    1 where groups grow with the width, and of ops without weights.
    """
    if not cost.macs or is_depthwise(cost):
        return 1
    of_each = cost.matrix[1] * cost.groups // cost.cout
    return cost.groups * max(1, columns // of_each)


def _cut(length: int, most: int) -> list[tuple[int, int]]:
    """Sizes of the parts that ``length`` is cut into, with how many there are of each."""
    whole, rest = divmod(length, most)
    return [(size, count) for size, count in ((most, whole), (rest, min(rest, 1))) if count]
