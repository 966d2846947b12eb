"""A larger input, the same widths."""

from dataclasses import dataclass

from engine.errors import UserError
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
        found = _at_largest(question, question.base)
        if found is None:
            raise UserError("the base network keeps the limits at no resolution; raise them")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ThenResolution:
    """What another method answers, at the largest resolution that the limits allow its widths.

    No parameter depends on the resolution in networks that pool before their classifier. A method
    that is ended by the limit of parameters leaves latency over, which nothing else can use.

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
        found = self.method.propose(question)
        return _at_largest(question, found) or found


def _at_largest(question: Question, widths: NetworkSpec) -> NetworkSpec | None:
    """Returns a network at the largest resolution, from its own on, at which it keeps the limits.

    A larger one can be faster, where a device has another algorithm for it: so all are tried that
    the latency model knows. Further ones have to be measured, and the first beyond the limits ends
    it. None if there is none.
    """
    step, found = question.round_to, None
    highest = int(question.base.resolution * LARGEST)
    further = range((widths.resolution // step + 1) * step, highest + 1, step)
    for resolution in (widths.resolution, *further):
        if question.keeps(widths.at(resolution), BOTH):
            found = widths.at(resolution)
        elif resolution > max(question.resolutions):
            break
    return found
