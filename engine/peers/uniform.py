"""All widths times one number, at the base resolution."""

from dataclasses import dataclass

from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """The width multiplier of Wide ResNet and MobileNet, as large as the limits allow.

    Source: Zagoruyko and Komodakis 2016.
    """

    name: str = "uniform"
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        return question.largest(question.multiplied, 1.0, question.max_width, self.limits)
