"""Networks with more layers: by depth alone, and by depth, width and resolution together."""

from dataclasses import dataclass

from engine.errors import UserError
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.scaling import deepened
from engine.spec import NetworkSpec

DEEPEST = 4.0
"""Times the repeats of every stage."""
STEP = 16
"""Depth multipliers are multiples of 1/16, which is one block of 16 as ResNet-34 and -50 have."""


def deeper(question: Question, depth: float, width: float, resolution: int) -> NetworkSpec:
    """Returns the base network with multiples of its depth and widths, at a resolution.

    Raises:
        UserError: the network's family has no depth to be multiplied.
    """
    multiplier = max(STEP, round(depth * STEP)) / STEP
    return deepened(question.graph, question.base, multiplier, width, resolution)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthOnly:
    """More blocks (`engine.depth.repeats`), as many as the limits allow."""

    name: str = "depth"
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""

        def make(depth: float) -> NetworkSpec:
            return deeper(question, depth, 1.0, question.base.resolution)

        return question.largest(make, 1.0, DEEPEST, self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compound:
    """Depth d^φ, width w^φ and resolution r^φ with the largest φ that keeps the limits.

    Source: Eq. 3, EfficientNet (Tan and Le 2019), whose d, w, r = 1.2, 1.1, 1.15 are the
    defaults: each unit of φ about doubles the multiply-accumulates. Fast compound scaling (Dollár
    et al. 2021, dWr with α = 0.8) has d = s^0.1, w = s^0.4, r = s^0.05: `FAST_COMPOUND`.
    Deviations: widths are any that the network may have (published: multiples of 8), resolutions
    multiples of ``alpha.round_to``; more blocks are dealt to the stages one by one
    (`engine.depth.repeats`; published: each stage's rounded, up in EfficientNet); the number of
    groups of a grouped convolution stays.
    """

    name: str = "efficientnet"
    depth: float = 1.2
    width: float = 1.1
    resolution: float = 1.15
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def __post_init__(self) -> None:
        if min(self.depth, self.width, self.resolution) < 1:
            raise ValueError("the factors of compound scaling must be at least 1")

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        base = question.base.resolution

        def make(phi: float) -> NetworkSpec:
            resolution = question.rounded(base * self.resolution**phi)
            return deeper(question, self.depth**phi, self.width**phi, resolution)

        return question.largest(make, 0.0, _largest_phi(self), self.limits)


FAST_COMPOUND = Compound(name="fast-compound", depth=2**0.1, width=2**0.4, resolution=2**0.05)
"""A unit of φ is a doubling of s."""


def _largest_phi(compound: Compound) -> float:
    """At which d·w²·r², about the multiply-accumulates, has grown 64 times."""
    growth = compound.depth * compound.width**2 * compound.resolution**2
    if growth <= 1:
        raise UserError("compound scaling needs a factor above 1")
    phi, reached = 0.0, 1.0
    while reached < 64:
        phi, reached = phi + 1, reached * growth
    return phi
