"""What a device makes of a network scaled in one dimension alone (Fig. 2, HACScale)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.codec import STRICT
from engine.errors import UserError
from engine.graph import NetworkGraph, load_graph
from engine.results import Latency
from engine.scaling import deepened, multiplied
from engine.spec import NetworkSpec

Dimension = Literal["width", "depth", "resolution"]
Multipliers = Mapping[Dimension, Sequence[float]]
MULTIPLIERS: Multipliers = {
    "width": (1.0, 1.5, 2.0, 2.5),
    "depth": (1.0, 2.0, 4.0, 6.0),
    "resolution": (1.0, 1.5, 2.0, 2.5),
}
"""Each comes to about six times the multiply-accumulates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """One network that was scaled in one dimension, measured."""

    __pydantic_config__ = STRICT

    multiplier: float
    macs: int
    params: int
    latency: Latency

    def gflops_per_second(self, batch: int) -> float:
        """Utilisation: two operations for every multiply-accumulate, over measured time."""
        return 2e-6 * self.macs * batch / self.latency.ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The base network scaled in each dimension alone; the unscaled network is in all.

    Attributes:
        batch: images of one forward that is timed.
        families: networks by dimension, the smallest first; without depth where the network's
            family has none that can be multiplied.
    """

    __pydantic_config__ = STRICT

    batch: int
    families: dict[Dimension, tuple[Scaled, ...]]


def scale_dimensions(
    graph: NetworkGraph, base: NetworkSpec, multipliers: Multipliers = MULTIPLIERS
) -> dict[Dimension, dict[float, NetworkSpec]]:
    """Returns the networks to measure, by dimension and multiplier."""
    scalings: dict[Dimension, Callable[[float], NetworkSpec]] = {
        "width": lambda m: multiplied(graph, base, m),
        "depth": lambda m: deepened(graph, base, m, 1.0, base.resolution),
        "resolution": lambda m: base.at(round(base.resolution * m)),
    }
    found: dict[Dimension, dict[float, NetworkSpec]] = {}
    for dimension, of in multipliers.items():
        try:
            found[dimension] = {m: scalings[dimension](m) for m in of}
        except UserError:
            if dimension != "depth":  # which not every family of networks has
                raise
    return found


def measure_dimensions(
    graph: NetworkGraph,
    base: NetworkSpec,
    batch: int,
    measure: Callable[[Sequence[NetworkSpec]], Sequence[Latency]],
    multipliers: Multipliers = MULTIPLIERS,
) -> Dimensions:
    """Measures the networks of `scale_dimensions`, each once and all in one session.

    Args:
        graph, base: the network.
        batch: images of one forward that ``measure`` times.
        measure: returns the latencies of networks, in their order.
        multipliers: of each dimension.
    """
    families = scale_dimensions(graph, base, multipliers)
    specs = list(dict.fromkeys(spec for of in families.values() for spec in of.values()))
    latencies = dict(zip(specs, measure(specs), strict=True))

    def scaled(multiplier: float, spec: NetworkSpec) -> Scaled:
        cost = load_graph(spec.model, base.resolution).cost(spec)
        return Scaled(
            multiplier=multiplier, macs=cost.macs, params=cost.params, latency=latencies[spec]
        )

    return Dimensions(
        batch=batch,
        families={d: tuple(scaled(m, s) for m, s in of.items()) for d, of in families.items()},
    )
