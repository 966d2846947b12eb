"""A larger input, the same widths."""

from dataclasses import dataclass

from engine.peers.contract import BOTH, Method, Question, Resource, Trainings
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ThenResolution:
    """What another method answers, at the largest resolution that the limits allow its widths.

    No parameter depends on the resolution. A method that is ended by the limit of parameters
    leaves latency over, which nothing else can use.

    Attributes:
        method: keeps both limits.
    """

    method: Method
    limits: tuple[Resource, ...] = BOTH

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.method.name}-resolution"

    @property
    def rests_on(self) -> tuple[Trainings, ...]:
        """Those of the other method."""
        return self.method.rests_on

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        found, step = self.method.propose(question), question.round_to
        for resolution in range(
            (found.resolution // step + 1) * step,
            int(question.base.resolution * LARGEST) + 1,
            step,
        ):
            if not question.keeps(found.at(resolution), self.limits):
                break
            found = found.at(resolution)
        return found
