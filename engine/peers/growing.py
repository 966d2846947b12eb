"""The base network, grown step by step to the limits."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.errors import UserError
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.peers.inherited import FineTuning, trained_to_start_from
from engine.peers.steps import Steps, best_trained, limits_of, used
from engine.rows import Row
from engine.spec import NetworkSpec

_WORTHWHILE = 0.25
"""Share of a step that a network must use to be worth a training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetAdaptGrowing:
    """NetAdapt in reverse: one width group is widened at a time, whichever gains most accuracy.

    In every iteration each resource may grow by a tenth of what lies between the base network and
    its limit. For every group a network is made in which that group alone is as wide as that
    allows; all are trained for a short time from the weights of the iteration before, whose
    function they begin with (`engine.carry`), and the one of most (accuracy gained + 1e-6) /
    (usage added + 1e-5) is taken.

    Source: ours, after Yang et al., ECCV 2018 (`engine.peers.netadapt`); here are its differences.

    - A step is a share of the room up to the limits, not of R₀, and does not decay: a small budget
      would else be one step, and a large one out of reach.
    - It is bounded in latency, parameters and memory at once: a group that is cheap in one must
      not take all of another. The usage that is added is the largest of the shares.
    - It ends where no group can use a quarter of a step any more. Where no group's next width fits
      into a step, but into the limits, that width is tried.
    """

    name: str = "netadapt-growing"
    steps: Steps = field(default_factory=lambda: Steps(first=0.1, decay=1.0))
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        spec = question.base
        if not question.keeps(spec):
            raise UserError("the base network does not keep the limits; raise them")
        stated = limits_of(replace(question, limit=question.stated_limit))
        room = {r: stated[r] - usage for r, usage in used(question, spec).items()}
        row: Row | None = None
        iteration = 1
        while wider := widened(question, spec, room, self.steps.share(iteration)):
            row = row or trained_to_start_from(question, spec)
            row = best_trained(question, self.fine_tuning, row, wider, direction=1)
            spec = row.task.spec
            iteration += 1
        return spec


def widened(
    question: Question, spec: NetworkSpec, room: Mapping[str, float], share: float
) -> dict[NetworkSpec, float]:
    """Returns the networks of one iteration with the usage that each adds, none at the end.

    Args:
        spec: that of the iteration before.
        room: what of every resource lies between the base network and the limits as stated.
        share: of the room that one iteration may use.
    """
    before = used(question, spec)

    def added(spec: NetworkSpec) -> float:
        after = used(question, spec)
        return max((after[r] - before[r]) / room[r] for r in room if room[r] > 0)

    fitting: dict[NetworkSpec, float] = {}
    following: dict[NetworkSpec, float] = {}
    for group, width in spec.widths:

        def made(to: int, group: str = group) -> NetworkSpec:
            return spec.with_widths({group: to})

        widths = [w for w in question.widths(group) if w > width]
        kept = widths[: bisect_left(widths, True, key=lambda w: not question.keeps(made(w)))]
        within = kept[: bisect_left(kept, True, key=lambda w: added(made(w)) > share)]
        if within:
            fitting[made(within[-1])] = added(made(within[-1]))
        elif kept:
            following[made(kept[0])] = added(made(kept[0]))
    worth = {s: a for s, a in fitting.items() if a >= _WORTHWHILE * share}
    return worth or following
