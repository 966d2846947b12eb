"""Resolution chosen last: among networks whose widths Algorithm 1 has already fitted to it."""

from dataclasses import dataclass, replace
from statistics import fmean

from engine.peers.algorithm1 import allocated
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.peers.resolutions import REPEATS, by_resolution
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class JointResolution:
    """Algorithm 1 at every resolution that leaves it room; short trainings choose among them.

    The α search of HACScale compares networks of equal multiply-accumulates whose widths grow
    alike. It knows no limit of parameters, although widths cost parameters and resolution costs
    none, and its networks are not those that Algorithm 1 makes of their resolutions. Here every
    candidate keeps all limits and uses them up. Importance is that of the run, whatever its
    resolution.

    The resolution is found at the limits as they were stated, among those at which the base network
    keeps a corrected limit as well.

    Attributes:
        repeats: trainings of each candidate, of which the mean loss counts.
    """

    name: str = "hacscale-joint"
    repeats: int = REPEATS
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ("alpha", "samples")

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        stated = replace(question, limit=question.stated_limit)
        candidates = [
            allocated(stated, resolution)
            for resolution in question.resolutions
            if all(asked.keeps(question.base.at(resolution)) for asked in (stated, question))
        ]
        rows = by_resolution(question, candidates, self.repeats)
        losses = {r: fmean(row.last.val_loss for row in of_one) for r, of_one in rows.items()}
        return allocated(question, min(losses, key=lambda resolution: losses[resolution]))
