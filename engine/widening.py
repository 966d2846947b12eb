"""A network that grows group by group, with its predicted usage at hand."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.formula import NetworkFormula
from engine.limits import Usage
from engine.memory import FLOAT_BYTES, ActivationMemory, activation_memory
from engine.spec import NetworkSpec

if TYPE_CHECKING:
    from engine.hardware.contract import LatencyModel


class LayerCosts:
    """What the layers of a network take, by one latency model; remembered.

    Args:
        formula: of the network.
        model: of its latency.
    """

    def __init__(self, formula: NetworkFormula, model: "LatencyModel") -> None:
        self.formula = formula
        self.model = model
        self.groups_of = [
            tuple([group for group in formula.base.width_of if group in layer.touching])
            for layer in formula.layers
        ]
        self._known: list[dict[tuple[int, ...], tuple[float, int, int]]] = [
            {} for _ in formula.layers
        ]

    def __call__(self, index: int, widths: Mapping[str, int]) -> tuple[float, int, int]:
        """Returns latency, parameters and size of the output of a layer, by its index."""
        key = tuple([widths[group] for group in self.groups_of[index]])
        known = self._known[index].get(key)
        if known is None:
            cost = self.formula.layers[index].cost(widths)
            known = (self.model.layer_ms(cost), cost.params, cost.out_size)
            self._known[index][key] = known
        return known


class NetworkWidening:
    """Implements `engine.costs.Widening` for a network and a latency model.

    A question about one group asks only the layers that the group touches. Usage equals what
    `LatencyModel.predict`, `NetworkCost.params` and `engine.memory.memory_bytes` say of the whole
    network, to the last bit, so that a step that fits when asked about also fits when made.
    """

    def __init__(
        self, costs: LayerCosts, batch: int | None = None, start: NetworkSpec | None = None
    ) -> None:
        """Starts at the base widths of the formula that ``costs`` are of, or at ``start``.

        Args:
            costs: of the layers.
            batch: images in a forward, for the memory; None leaves memory out.
            start: the same network with other widths.

        Raises:
            UserError: the network lies outside the model's box.
        """
        formula, model = costs.formula, costs.model
        spec = start or formula.base
        model.check(spec)
        self._costs = costs
        self._multiples = formula.multiples
        self._model = model
        self._memory: ActivationMemory | None = (
            None if batch is None else activation_memory(formula, batch)
        )
        self._widths = spec.width_of
        self._touched = {
            group: [i for i, groups in enumerate(costs.groups_of) if group in groups]
            for group in self._widths
        }
        layers = [costs(i, self._widths) for i in range(len(formula.layers))]
        self._ms = [ms for ms, _, _ in layers]
        self._params = [params for _, params, _ in layers]
        self._sizes = np.array([size for _, _, size in layers], dtype=np.int64)

    @property
    def widths(self) -> dict[str, int]:
        """Channels of every group now."""
        return dict(self._widths)

    @property
    def usage(self) -> Usage:
        """Predicted usage now."""
        return self._usage(self._ms, self._params, self._sizes)

    def after(self, group: str, width: int) -> Usage:
        """Returns the predicted usage if ``group`` had ``width`` channels and nothing else changed.

        Raises:
            UserError: the width lies outside the model's box.
            ValueError: the group cannot have that width.
        """
        return self._usage(*self._after(group, width))

    def widen(self, group: str, width: int) -> None:
        """Makes that change; raises like `after`."""
        self._ms, self._params, self._sizes = self._after(group, width)
        self._widths[group] = width

    def _after(self, group: str, width: int) -> tuple[list[float], list[int], NDArray[np.int64]]:
        self._model.box.check_width(group, width)
        if width < 1 or width % self._multiples[group]:
            raise ValueError(f"{group} cannot have {width} channels")
        widths = {**self._widths, group: width}
        ms, params, sizes = self._ms.copy(), self._params.copy(), self._sizes.copy()
        for i in self._touched[group]:
            ms[i], params[i], sizes[i] = self._costs(i, widths)
        return ms, params, sizes

    def _usage(self, ms: list[float], params: list[int], sizes: NDArray[np.int64]) -> Usage:
        total = sum(params)
        memory = self._memory
        return Usage(
            latency_ms=self._model.offset_ms + sum(ms),
            params=total,
            memory_bytes=(
                None if memory is None else FLOAT_BYTES * total + memory.peak_bytes(sizes)
            ),
        )


def fast_steps(formula: NetworkFormula, model: "LatencyModel") -> dict[str, int]:
    """Returns, for every group, the steps of its width between which the device is slower.

    They are a multiple of what `LatencyModel.fast_multiples` tells of every op that writes or reads
    the group's channels, and of the group's own multiple: `NetworkGraph.in_steps` keeps to them. A
    group whose base width is between two such steps keeps its own multiple.
    """
    widths = formula.base.width_of
    costs = [(layer, layer.cost(widths)) for layer in formula.layers]
    needs = [(layer, model.fast_multiples(cost)) for layer, cost in costs if cost.macs]
    found: dict[str, int] = {}
    for group, multiple in formula.multiples.items():
        counts = [
            (count.times(group), needed)
            for layer, (cin, cout) in needs
            for count, needed in ((layer.cin, cin), (layer.cout, cout))
        ]
        step = math.lcm(multiple, *(_filling(needed, times) for times, needed in counts if times))
        found[group] = multiple if widths[group] % step else step
    return found


def plateaus(formula: NetworkFormula, model: "LatencyModel") -> dict[str, int]:
    """Returns, for every group, the channels that the device computes together.

    That is the largest granularity the model found among the ops that write the group's channels,
    in channels of the group (where an op writes each of them several times, fewer of them fill a
    plateau), and a multiple of what the group's widths are rounded to.
    """
    found: dict[str, int] = {}
    widths = formula.base.width_of
    costs = [(layer, layer.cost(widths)) for layer in formula.layers]
    grain_of = [(layer, model.granularity(cost)) for layer, cost in costs if cost.macs]
    for group, step in formula.rounding.items():
        written = [(layer.cout.times(group), grain) for layer, grain in grain_of]
        grains = [1, *(_filling(grain, times) for times, grain in written if times)]
        found[group] = math.lcm(max(grains), step)
    return found


def _filling(channels: int, times: int) -> int:
    """How many channels of a group fill ``channels`` of an op that has each of them ``times``."""
    return channels // math.gcd(channels, times)
