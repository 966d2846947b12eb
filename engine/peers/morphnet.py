"""A network made sparse by what its channels cost, then widened evenly."""

from dataclasses import dataclass
from typing import Literal

from engine.errors import UserError
from engine.gates import check_scales
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.peers.shrinking import shrinking_task, valid
from engine.shrinking import Sparsifying
from engine.spec import NetworkSpec

_NARROWEST = 0.25
"""Multiplier of the shrunk widths below which no answer is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MorphNet:
    """Shrinks a network by a sparsifying regulariser, then multiplies all widths that are left.

    1. Train with the regulariser on the scales of batch norm (`Sparsifying`), once for each
       strength. 2. The widths that are left are those of channels whose scale is above the
       threshold. 3. The largest multiplier of these widths that keeps the limits gives the answer.
       Then, if asked for, again from there.

    Source: Algorithm 1 of MorphNet (Gordon et al., CVPR 2018), with its regulariser for FLOPs
    and, as ``morphnet-params``, for model size.
    Deviations: the strength is found by hand there; here the shrunk network is the one that has
    come closest to ``left`` of its resource, one half (NeuralScale's comparison leaves half of the
    filters, about a quarter of the multiply-accumulates). Training is the search's short one; both
    limits hold and not that of the resource alone; no width exceeds `allocate.max_width` times the
    base.

    Attributes:
        resource: what a channel costs: multiply-accumulates (the paper's FLOPs, halved) or
            parameters.
        strengths: of the regulariser, each tried in a training; see `Sparsifying`.
        left: share of the resource that the shrunk network should have.
        iterations: shrinkings, each followed by widening.
    """

    name: str = "morphnet"
    resource: Literal["macs", "params"] = "macs"
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0)
    left: float = 0.5
    iterations: int = 1
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.strengths or not 0 < self.left < 1:
            raise ValueError("iterations and strengths must not be none, left must be in (0, 1)")

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        check_scales(question.graph, question.base.resolution)
        spec = question.base
        for _ in range(self.iterations):
            spec = self._widened(question, self._shrunk(question, spec))
        return spec

    def _shrunk(self, question: Question, seed: NetworkSpec) -> NetworkSpec:
        tasks = [
            shrinking_task(question, seed, Sparsifying(resource=self.resource, strength=strength))
            for strength in self.strengths
        ]
        found = [seed.with_widths(row.path[-1].widths) for row in question.train(tasks) if row.path]
        if not found:
            raise UserError(
                f"{self.name}: no training with the regulariser was left with a usable network; "
                "see the run's failed trainings"
            )
        goal = self.left * self._cost(question, seed)
        return min(found, key=lambda spec: abs(self._cost(question, spec) - goal))

    def _cost(self, question: Question, spec: NetworkSpec) -> int:
        cost = question.graph.cost(spec)
        return cost.macs if self.resource == "macs" else cost.params

    def _widened(self, question: Question, shrunk: NetworkSpec) -> NetworkSpec:
        base = question.base.width_of

        def make(multiplier: float) -> NetworkSpec:
            return valid(question, {g: width * multiplier for g, width in shrunk.widths})

        # With this multiplier every group is at its widest.
        most = question.max_width * max(base[g] / width for g, width in shrunk.widths)
        return question.largest(make, _NARROWEST, most, self.limits)
