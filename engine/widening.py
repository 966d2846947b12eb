"""A network that grows group by group, with its predicted latency and parameters at hand."""

from collections.abc import Mapping

from engine.graph import NetworkGraph
from engine.hardware.contract import LatencyModel
from engine.limits import Usage
from engine.spec import NetworkSpec


class NetworkWidening:
    """Implements `engine.costs.Widening` for a graph and a latency model.

    A question about one group asks only the layers that the group touches; their costs are
    remembered. Usage equals what `LatencyModel.predict` and `NetworkCost.params` say of the whole
    network, to the last bit, so that a step that fits when asked about also fits when made.
    """

    def __init__(self, graph: NetworkGraph, model: LatencyModel, spec: NetworkSpec) -> None:
        """Starts at ``spec``.

        Raises:
            UserError: it lies outside the model's box.
        """
        model.check(spec)
        self._graph = graph
        self._model = model
        self._resolution = spec.resolution
        self._widths = spec.width_of
        self._touched = {group: graph.touched(group) for group in self._widths}
        self._groups_of = [
            tuple(g for g, layers in self._touched.items() if i in layers)
            for i in range(len(graph.cost(spec).layers))
        ]
        self._known: list[dict[tuple[int, ...], tuple[float, int]]] = [{} for _ in self._groups_of]
        layers = [self._layer(i, self._widths) for i in range(len(self._groups_of))]
        self._ms = [ms for ms, _ in layers]
        self._params = [params for _, params in layers]

    @property
    def widths(self) -> dict[str, int]:
        """Channels of every group now."""
        return dict(self._widths)

    @property
    def usage(self) -> Usage:
        """Predicted usage now."""
        return self._usage(self._ms, self._params)

    def after(self, group: str, width: int) -> Usage:
        """Returns the predicted usage if ``group`` had ``width`` channels and nothing else changed.

        Raises:
            UserError: the width lies outside the model's box.
            ValueError: the group cannot have that width.
        """
        return self._usage(*self._after(group, width))

    def widen(self, group: str, width: int) -> None:
        """Makes that change; raises like `after`."""
        self._ms, self._params = self._after(group, width)
        self._widths[group] = width

    def _after(self, group: str, width: int) -> tuple[list[float], list[int]]:
        self._model.box.check_width(group, width)
        if self._graph.round_width(group, width) != width:
            raise ValueError(f"{group} cannot have {width} channels")
        widths = {**self._widths, group: width}
        ms, params = self._ms.copy(), self._params.copy()
        for i in self._touched[group]:
            ms[i], params[i] = self._layer(i, widths)
        return ms, params

    def _layer(self, index: int, widths: Mapping[str, int]) -> tuple[float, int]:
        key = tuple([widths[group] for group in self._groups_of[index]])
        known = self._known[index].get(key)
        if known is None:
            cost = self._graph.layer_cost(index, widths, self._resolution)
            known = self._known[index][key] = (self._model.layer_ms(cost), cost.params)
        return known

    def _usage(self, ms: list[float], params: list[int]) -> Usage:
        return Usage(latency_ms=self._model.offset_ms + sum(ms), params=sum(params))
