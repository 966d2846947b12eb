"""Uniform scaling: of width and depth, and how α splits a compute budget (Eq. 3)."""

import math
from dataclasses import replace

from engine.graph import NetworkGraph, load_graph
from engine.groups import WidthGroup
from engine.names import parse_name
from engine.spec import NetworkSpec

ROUNDING_ROOM = 1.25
"""The base widths may cost this multiple of the budget at a resolution that was rounded up."""

_NARROWEST = 0.5
_BISECTIONS = 40


def scale_for_alpha(
    graph: NetworkGraph,
    base: NetworkSpec,
    alpha: float,
    budget: float,
    round_to: int,
    highest: int | None = None,
) -> NetworkSpec:
    """Scales a network to ``budget`` times its MACs, split by α (Eq. 3 of HACScale, d = 1).

    Eq. 3 is r = √s^α, w = √s^(1−α). Deviations, all because resolutions and widths are integers
    and pooling floors the sizes between layers:

    - The resolution is rounded to the nearest multiple of ``round_to`` that is not below the
      base's own, so that several α give one and the same network.
    - A resolution at which the base widths alone cost more than `ROUNDING_ROOM` times the budget
      is lowered to the next multiple, at last to the base's own. Widths thus stay above 0.89 of
      the base's (0.8 in depthwise convolutions, whose cost is linear in them), and a coarse
      ``round_to`` ends at the base's resolution instead of in a network that is all resolution.
      VGG-11 at 32 px with s = 2 keeps 48 px: 2.25 times the MACs, w = 0.94.
    - w is not √s^(1−α) but solved for: the uniform multiplier of the base's widths whose rounded
      widths come nearest to s times the base's MACs at that resolution.

    Args:
        graph: of the network.
        base: the network before scaling, at its own widths and resolution.
        alpha: share of the budget spent on resolution, in [0, 1].
        budget: s, at least 1.
        round_to: resolutions are multiples of this many pixels.
        highest: no resolution above this one, unless the base's own is.

    Raises:
        ValueError: an argument outside its range.
        UserError: the network cannot take the resolution.
    """
    _check(alpha, budget, round_to)
    resolution = _resolution(graph, base, alpha, budget, round_to, highest)
    return _match_macs(graph, base, resolution, budget)


def at_equal_compute(
    graph: NetworkGraph, base: NetworkSpec, resolution: int, budget: float
) -> NetworkSpec | None:
    """Returns the uniform network of ``budget`` times the base's MACs at a resolution.

    That is one of those of `scale_for_alpha`; None where its widths would have to be below the
    base's by more than that allows.
    """
    if resolution > base.resolution and not _has_room(graph, base, resolution, budget):
        return None
    return _match_macs(graph, base, resolution, budget)


def reaching(resolution: int, target: int, high: float) -> float:
    """Returns the s whose highest α comes to the resolution ``target``: r = √s^α (Eq. 3).

    Args:
        resolution: of the base network.
        target: not below it.
        high: the highest α.
    """
    return (target / resolution) ** (2 / high)


def feasible_resolutions(
    graph: NetworkGraph, base: NetworkSpec, low: float, high: float, budget: float, round_to: int
) -> tuple[int, ...]:
    """Returns the resolutions that `scale_for_alpha` gives for α in [low, high], ascending.

    Their number is the number of different networks that the α search can find.

    Raises:
        ValueError: an argument outside its range.
        UserError: the network cannot take one of the resolutions.
    """
    _check(low, budget, round_to)
    _check(high, budget, round_to)
    first = _resolution(graph, base, low, budget, round_to, None)
    last = _resolution(graph, base, high, budget, round_to, None)
    between = range((first // round_to + 1) * round_to, last, round_to)
    resolutions = tuple(dict.fromkeys((first, *between, last)))
    for resolution in resolutions:
        graph.check_resolution(resolution)
    return resolutions


def _check(alpha: float, budget: float, round_to: int) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha!r}")
    if not 1 <= budget < math.inf:
        raise ValueError(f"budget must be at least 1, not {budget!r}")
    if round_to < 1:
        raise ValueError(f"round_to must be at least 1, not {round_to!r}")


def _resolution(
    graph: NetworkGraph,
    base: NetworkSpec,
    alpha: float,
    budget: float,
    round_to: int,
    highest: int | None,
) -> int:
    exact = base.resolution * math.sqrt(budget**alpha)
    resolution = rounded_resolution(exact, round_to, base.resolution)
    while resolution > base.resolution and (
        (highest is not None and resolution > highest)
        or not _has_room(graph, base, resolution, budget)
    ):
        resolution = max(base.resolution, resolution - round_to)
    return resolution


def _has_room(graph: NetworkGraph, base: NetworkSpec, resolution: int, budget: float) -> bool:
    """Whether the base widths are within the budget at a resolution, as `ROUNDING_ROOM` allows."""
    return graph.cost(base.at(resolution)).macs <= ROUNDING_ROOM * budget * graph.cost(base).macs


def _match_macs(
    graph: NetworkGraph, unscaled: NetworkSpec, resolution: int, budget: float
) -> NetworkSpec:
    """Bisects the staircase of realised MACs over the width multiplier for the nearest step."""
    target, base = budget * graph.cost(unscaled).macs, unscaled.at(resolution)
    low, high = _NARROWEST, 2 * budget
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if graph.cost(multiplied(graph, base, middle)).macs <= target:
            low = middle
        else:
            high = middle
    steps = (multiplied(graph, base, low), multiplied(graph, base, high))
    return min(steps, key=lambda spec: abs(graph.cost(spec).macs - target))


def rounded_resolution(exact: float, round_to: int, least: int) -> int:
    """Returns the nearest multiple of ``round_to`` (half a step goes up), at least ``least``."""
    return max(least, math.floor(exact / round_to + 0.5) * round_to)


def multiplied(graph: NetworkGraph, base: NetworkSpec, multiplier: float) -> NetworkSpec:
    """Returns a network with all widths multiplied, each rounded to a valid one."""
    return base.with_widths(
        {group: graph.round_width(group, width * multiplier) for group, width in base.widths}
    )


def deepened(
    graph: NetworkGraph, base: NetworkSpec, depth: float, width: float, resolution: int
) -> NetworkSpec:
    """Returns a network with multiples of its depth and of its widths, at a resolution.

    Every group of the deeper network is as wide as in the base network, relative to the model, and
    rounded to the steps of the group of ``graph`` that is most like it, and to its own. A multiple
    that adds no layer to any stage leaves the model as it is.

    Raises:
        UserError: the network's family has no depth to be multiplied.
    """
    name = parse_name(base.model.name)
    model = replace(base.model, name=str(replace(name, depth=name.depth * depth)))
    deeper = load_graph(model, base.resolution)
    layers = len(deeper.cost(deeper.spec(base.resolution)).layers)
    if layers == len(graph.cost(base).layers):
        return multiplied(graph, base.at(resolution), width)

    def like(group: WidthGroup) -> str:
        """Groups of one width are of one stage; of those, grouped convolutions are a kind."""
        return min(
            graph.groups, key=lambda g: (abs(g.base - group.base), g.multiple != group.multiple)
        ).name

    deeper = deeper.in_steps(
        {g.name: math.lcm(g.multiple, graph.steps[like(g)]) for g in deeper.groups}
    )
    # Of the widest group, whose rounding weighs least.
    scale = max((group.base, base.width_of[group.name] / group.base) for group in graph.groups)[1]
    return deeper.spec(resolution, scale * width)
