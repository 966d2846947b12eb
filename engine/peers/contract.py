"""What every method of scaling is asked, and what it answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from engine.budgets import Budgets
from engine.errors import UserError
from engine.graph import NetworkGraph, graph_of
from engine.largest import largest
from engine.limits import Usage
from engine.response import Observation
from engine.rows import Cheap, Row, TrainingTask
from engine.scaling import multiplied, rounded_resolution
from engine.spec import NetworkSpec

Resource = Literal["latency", "params"]
BOTH: tuple[Resource, ...] = ("latency", "params")
Trainings = Literal["alpha", "samples"]
"""Trainings that an answer rests on: those of the α search, and the sampled networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A network to be scaled under limits, and what is known of it before anything is trained.

    Attributes:
        graph: of the base network.
        base: the base network.
        limit: absolute limits, as the device corrected them.
        stated_limit: the same before any correction. A training that depends on this one alone is
            not repeated when the limit is corrected.
        usage: of any network, a deeper one too, beside the latency limit that is asked for:
            predicted where a latency model is valid, and measured elsewhere, as the correction of
            that limit makes it. Its parameters are exact.
        budgets: what Algorithm 1 needs at a resolution, with Eq. 6 of every group.
        observations: sampled networks with their validation losses.
        short: the training that a search spends on one network, as for the sampled ones.
        sampling: the one task that finds the importance of all sampled networks, at the
            resolution of the α search.
        train: trains what has no row yet, in parallel, and returns the rows that were not lost to
            failures, in the order of the tasks. Its trainings are the method's search cost.
            A task may start from a row that was trained before with ``keep_weights``.
        release: says of rows whose weights were kept that no further training starts from them.
            If one does after all, they are made again.
        resolution: the one that the α search found.
        resolutions: that the latency model knows, ascending, the base's own among them.
        round_to: resolutions are multiples of this many pixels.
        budget: s of the α search, in the base network's multiply-accumulates.
        min_width, max_width: narrowest and widest multiple of a group's base width that an answer
            may have; the latency model knows all of them.
        seed: of what is drawn.
    """

    graph: NetworkGraph
    base: NetworkSpec
    limit: Usage
    stated_limit: Usage
    usage: Callable[[NetworkSpec, float], Usage]
    budgets: Callable[[int], Budgets]
    observations: Sequence[Observation]
    short: Callable[[NetworkSpec], TrainingTask]
    sampling: Callable[[Cheap], TrainingTask]
    train: Callable[[Sequence[TrainingTask]], Sequence[Row]]
    release: Callable[[Sequence[Row]], None]
    resolution: int
    resolutions: Sequence[int]
    round_to: int
    budget: float
    min_width: float
    max_width: float
    seed: int
    _known: dict[NetworkSpec, Usage] = field(init=False, default_factory=dict[NetworkSpec, Usage])

    def usage_of(self, spec: NetworkSpec) -> Usage:
        """Returns the usage of a network, and asks only once for it."""
        if spec not in self._known:
            self._known[spec] = self.usage(spec, self.limit.latency_ms)
        return self._known[spec]

    def keeps(self, spec: NetworkSpec, limits: Sequence[Resource] = BOTH) -> bool:
        """Whether a network keeps the limits named.

        Parameters are counted first: latency may have to be measured.
        """
        if "params" in limits and not self.has_few_params(spec):
            return False
        usage = self.usage_of(spec)
        within = replace(
            self.limit,
            latency_ms=self.limit.latency_ms if "latency" in limits else usage.latency_ms,
            params=self.limit.params if "params" in limits else usage.params,
        )
        return usage.within(within)

    def has_few_params(self, spec: NetworkSpec) -> bool:
        """Whether a network keeps the limit of parameters."""
        return graph_of(self.graph, spec).cost(spec).params <= self.limit.params

    def widths(self, group: str) -> range:
        """Returns the valid widths of a group from its narrowest to its widest.

        Where coarse steps leave none, the one nearest to the base's width.
        """
        base, step = self.base.width_of[group], self.graph.steps[group]
        # The tolerance keeps 1.15 × 100 at 115; in floating point it is 114.99999999999999.
        low = max(1, math.ceil(self.min_width * base / step - 1e-9)) * step
        high = math.floor(self.max_width * base / step + 1e-9) * step
        if low > high:
            low = high = self.graph.round_width(group, base)
        return range(low, high + 1, step)

    def multiplied(self, multiplier: float, resolution: int | None = None) -> NetworkSpec:
        """Returns the base network with all widths multiplied, each rounded to a valid one."""
        base = self.base.at(resolution or self.base.resolution)
        return multiplied(self.graph, base, multiplier)

    def rounded(self, resolution: float) -> int:
        """Returns the nearest multiple of ``round_to`` that is not below the base resolution."""
        return rounded_resolution(resolution, self.round_to, self.base.resolution)

    def largest(
        self,
        make: Callable[[float], NetworkSpec],
        low: float,
        high: float,
        limits: Sequence[Resource] = BOTH,
    ) -> NetworkSpec:
        """Returns the network of a one-parameter family that comes closest to the limits.

        Args:
            make: from the parameter to the network; neither usage falls as it grows.
            low, high: range of the parameter.
            limits: those that must be kept.

        Raises:
            UserError: not even ``make(low)`` keeps the limits.
        """
        if "params" in limits:  # no latency is asked of what has too many
            high = largest(low, high, lambda x: self.has_few_params(make(x))) or low
        best = largest(low, high, lambda x: self.keeps(make(x), limits))
        if best is None:
            raise UserError(
                "the smallest network of the family does not keep the limits; raise them"
            )
        return make(best)


class Method(Protocol):
    """A way to scale a network."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...

    @property
    def limits(self) -> tuple[Resource, ...]:
        """The limits that its answer keeps; the others are for comparison only."""
        ...

    @property
    def rests_on(self) -> tuple[Trainings, ...]:
        """The trainings that must be there before it can answer: its search cost."""
        ...

    def propose(self, question: Question) -> NetworkSpec:
        """Returns the scaled network: equal questions have equal answers.

        Raises:
            UserError: the method does not apply to this network, or the limits leave no room.
        """
        ...
