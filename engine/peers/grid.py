"""Compound scaling whose factors are searched for on the base network."""

from dataclasses import dataclass
from itertools import product

from engine.errors import UserError
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.peers.depth import Compound, deeper
from engine.peers.inherited import only
from engine.spec import NetworkSpec

Factors = tuple[float, float, float]
"""Of depth, width and resolution."""

DEPTHS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
WIDTHS = (1.0, 1.1, 1.2, 1.3, 1.4)
RESOLUTIONS = (1.0, 1.15, 1.3, 1.4)
_TOLERANCE = 0.1


def grid() -> tuple[Factors, ...]:
    """Returns the factors of depth, width and resolution with d·w²·r² within 5 % of 2.

    The published (1.2, 1.1, 1.15) are among them.
    """
    return tuple(
        (d, w, r)
        for d, w, r in product(DEPTHS, WIDTHS, RESOLUTIONS)
        if abs(d * w**2 * r**2 - 2) <= _TOLERANCE
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompoundGrid:
    """Compound scaling with the factors that suit the base network best.

    The base network is scaled by every point of a small grid of factors that about double the
    multiply-accumulates (φ = 1), each is trained for a short time, and the factors of the least
    validation loss are raised to the largest φ that keeps the limits. Of a network without a known
    depth, these are points without depth.

    Source: section 3.3 of EfficientNet (Tan and Le 2019). Ours: the grid (`grid`), which the paper
    does not print, the short training of the search, and the loss in place of the accuracy.
    """

    name: str = "efficientnet-grid"
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        base = question.base.resolution
        factors: dict[NetworkSpec, Factors] = {}
        refused: UserError | None = None
        for depth, width, resolution in grid():
            try:
                spec = deeper(question, depth, width, question.rounded(base * resolution))
            except UserError as error:  # this depth is none of the network's
                refused = error
            else:
                factors.setdefault(spec, (depth, width, resolution))
        if refused is not None and not factors:
            raise refused
        rows = only(question.train([question.short(spec) for spec in factors]))
        best = min(rows, key=lambda row: row.last.val_loss)
        depth, width, resolution = factors[best.task.spec]
        compound = Compound(depth=depth, width=width, resolution=resolution, limits=self.limits)
        return compound.propose(question)
