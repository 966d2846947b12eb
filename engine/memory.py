"""Memory of a network: the bytes of its weights and the peak of its activations."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.costs import LayerCost
from engine.formula import LayerFormula, NetworkFormula
from engine.spec import NetworkSpec

FLOAT_BYTES = 4
"""Of one float32 element."""


class ActivationMemory:
    """Peak of the bytes that activations hold during one forward, by liveness over the graph.

    A tensor lives from the op that makes it to its last reader, that op included; the network's
    input belongs to the caller and lives throughout, its output to the end. A view and an op in
    place make no tensor: what they return lies in their input, which lives as long as either is
    read. This is how PyTorch runs a network in evaluation mode. What a kernel takes for itself
    while it runs (an im2col matrix, the indices of a max pooling) is not counted.

    The peak is a maximum of sums: no op adds a part of its own to it. It never falls when a width
    grows, because no tensor becomes smaller.
    """

    def __init__(self, layers: Sequence[LayerFormula], input_elements: int, batch: int) -> None:
        """Finds when every tensor is made and freed.

        Args:
            layers: of the network, in execution order.
            input_elements: of one image that goes into the network.
            batch: images in a forward.
        """
        self._input = input_elements
        self._scale = batch * FLOAT_BYTES
        last: dict[int, int] = {}
        for index, layer in enumerate(layers):
            reads = [layers[i].storage for i in layer.inputs if i >= 0]
            last |= dict.fromkeys((*reads, layer.storage), index)
        last[layers[-1].storage] = len(layers) - 1
        freed: dict[int, list[int]] = defaultdict(list)
        for owner, index in last.items():
            if owner >= 0:
                freed[index].append(owner)
        events: list[tuple[int, int]] = []
        for index, layer in enumerate(layers):
            if layer.storage == index:
                events.append((index, 1))
            events += [(owner, -1) for owner in freed[index]]
        self._order = np.array([owner for owner, _ in events])
        self._sign = np.array([sign for _, sign in events])

    def peak_bytes(self, elements: NDArray[np.int64]) -> int:
        """Returns the peak.

        Args:
            elements: elements of every layer's output for one image, in execution order.
        """
        live = np.cumsum(elements[self._order] * self._sign)
        return (self._input + int(live.max())) * self._scale


def activation_memory(formula: NetworkFormula, batch: int) -> ActivationMemory:
    """Returns the activation memory of a network."""
    spec = formula.base
    return ActivationMemory(formula.layers, spec.model.channels * spec.resolution**2, batch)


def memory_bytes(formula: NetworkFormula, spec: NetworkSpec, batch: int) -> int:
    """Returns the bytes of the parameters and of the activations at their peak.

    Running statistics of norms are no parameters and are not counted: they fold into weights.
    """
    cost = formula.cost(spec.width_of)
    peak = activation_memory(formula, batch).peak_bytes(sizes_of(cost.layers))
    return FLOAT_BYTES * cost.params + peak


def sizes_of(layers: Sequence[LayerCost]) -> NDArray[np.int64]:
    """Returns the elements of every layer's output for one image."""
    return np.array([layer.out_size for layer in layers], dtype=np.int64)
