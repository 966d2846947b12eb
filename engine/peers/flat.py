"""The same width everywhere: what knows nothing of the network."""

from dataclasses import dataclass

from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """Every group gets the same number of channels, as many as the limits allow.

    A control: an allocation that does not beat it has used nothing of what it measured. Groups
    that the base network has wider become narrower.
    """

    name: str = "flat"
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""

        def make(width: float) -> NetworkSpec:
            return question.base.with_widths(
                {
                    group: question.graph.round_width(group, width)
                    for group, _ in question.base.widths
                }
            )

        widest = max(width for _, width in question.base.widths)
        return question.largest(make, 1.0, widest * question.max_width, self.limits)
