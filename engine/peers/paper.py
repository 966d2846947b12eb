"""HACScale as it is printed: its α search, and its loop of Algorithm 1."""

from dataclasses import dataclass, replace
from statistics import fmean

from engine.peers.algorithm1 import allocated
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.peers.resolutions import REPEATS, by_resolution
from engine.scaling import at_equal_compute
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperHACScale:
    """The resolution of the most accurate network of equal compute, then the printed loop.

    Uniform networks of s times the base's multiply-accumulates, one for every resolution that
    leaves the base widths room, are trained for a short time. The widths then grow from the base's
    by importance, ten channels a step, until a step does not fit.

    Source: HACScale (Kong et al. 2022). Deviations: s is the recipe's (``alpha.budget``; the paper
    prints no value); every resolution is tried in place of samples of α; importance is that of the
    run, whatever its resolution; no group becomes wider than ``allocate.max_width`` times its base,
    beyond which no latency model holds, and then the next one grows. The resolution is found once,
    at the limits as they were stated.

    Attributes:
        repeats: trainings of each candidate, of which the mean accuracy counts.
    """

    name: str = "hacscale-paper"
    repeats: int = REPEATS
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ("samples",)

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        stated = replace(question, limit=question.stated_limit)
        graph, base, budget = question.graph, question.base, question.budget
        room = [r for r in question.resolutions if stated.keeps(base.at(r))]
        found = (at_equal_compute(graph, base, resolution, budget) for resolution in room)
        candidates = [spec for spec in found if spec is not None]
        rows = by_resolution(question, candidates, self.repeats)
        means = {r: fmean(row.last.val_accuracy for row in of_one) for r, of_one in rows.items()}
        best = max(means, key=lambda resolution: means[resolution])
        return allocated(question, best, mode="paper", choice="importance")
