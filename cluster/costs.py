"""What networks cost on the device of a run."""

from dataclasses import dataclass

from engine.costs import NetworkCost
from engine.graph import NetworkGraph, load_graph
from engine.limits import Usage
from engine.memory import memory_bytes
from engine.recipe import Recipe
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Costs of networks of a recipe, also of those with another depth than its own."""

    recipe: Recipe

    def of(self, spec: NetworkSpec) -> NetworkCost:
        """What a network costs in operations and parameters."""
        return self._graph(spec).cost(spec)

    def memory_bytes(self, spec: NetworkSpec) -> int:
        """Memory of a network on the device."""
        return memory_bytes(self._graph(spec).formula(spec), spec, self.recipe.device.batch)

    def usage(self, spec: NetworkSpec, latency_ms: float) -> Usage:
        """What a network of that latency uses."""
        return Usage(
            latency_ms=latency_ms,
            params=self.of(spec).params,
            memory_bytes=self.memory_bytes(spec),
        )

    def _graph(self, spec: NetworkSpec) -> NetworkGraph:
        return load_graph(spec.model, self.recipe.data.resolution)
