"""A larger input, the same widths."""

from dataclasses import dataclass

from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.spec import NetworkSpec

LARGEST = 4.0
"""Times the base resolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionOnly:
    """The base network at the largest resolution that the limits allow; parameters stay.

    A control that the tables of HACScale lack on CIFAR: its rows there use up to 17 times the
    multiply-accumulates at 2.29 times the parameters.
    """

    name: str = "resolution"
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""

        def make(factor: float) -> NetworkSpec:
            return question.base.at(question.rounded(question.base.resolution * factor))

        return question.largest(make, 1.0, LARGEST, self.limits)
