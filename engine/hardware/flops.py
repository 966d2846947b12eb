"""Latency as a linear function of MACs: the baseline that every other model has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.costs import LayerCost
from engine.hardware.calibrated import calibrated, check_known
from engine.hardware.contract import Box, LatencyModel

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops(LatencyModel):
    """``scale`` is ms per million MACs; ops without MACs are free."""

    kind: Literal["flops"] = "flops"

    def op_ms(self, cost: LayerCost) -> float:
        """Returns millions of MACs.

        Raises:
            UserError: an unknown kind of op.
        """
        check_known(cost)
        return cost.macs / 1e6


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int) -> Flops:
    """Fits the line to whole networks; ``batch`` goes into its slope."""
    return calibrated(Flops(box=box), graph, timings)
