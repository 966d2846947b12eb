"""All widths times one number."""

from dataclasses import dataclass

from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """The width multiplier of Wide ResNet and MobileNet, as large as the limits allow.

    Source: Zagoruyko and Komodakis 2016.

    Attributes:
        searched: at the resolution of the α search, not at the base's.
    """

    name: str = "uniform"
    searched: bool = False
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        resolution = question.resolution if self.searched else question.base.resolution

        def make(width: float) -> NetworkSpec:
            return question.multiplied(width, resolution)

        return question.largest(make, 1.0, question.max_width, self.limits)
