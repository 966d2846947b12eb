"""A device whose latency is a known formula: no noise, no waiting. For tests and dry runs."""

from engine.costs import LayerCost

OP_MS = 0.002
"""Overhead of starting one op."""
MACS_PER_MS = 20e6
ACTIVATIONS_PER_MS = 2e6
WEIGHTS_PER_MS = 4e6
LANES = 16
"""Output channels that are computed together: a layer of 17 takes as long as one of 32."""


def layer_ms(cost: LayerCost, batch: int) -> float:
    """Returns the true latency of one op in ms for ``batch`` images.

    A staircase in the output channels for convolutions and linear layers, plus the traffic of
    weights (once) and of activations (for every image), plus a fixed overhead.
    """
    lanes = -(-cost.cout // LANES) * LANES
    compute = cost.macs / cost.cout * lanes / MACS_PER_MS
    traffic = (cost.in_size + cost.out_size) / ACTIVATIONS_PER_MS
    weights = cost.weights / WEIGHTS_PER_MS
    return OP_MS + weights + batch * (compute + traffic)
