"""The base network, grown step by step to the limits."""

from bisect import bisect_left
from dataclasses import dataclass, field

from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.peers.inherited import FineTuning, trained_to_start_from
from engine.peers.steps import Steps, best_trained, used
from engine.rows import Row
from engine.spec import NetworkSpec

_WORTHWHILE = 0.25
"""Share of a step that a network must use to be worth a training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetAdaptGrowing:
    """NetAdapt in reverse: one width group is widened at a time, whichever gains most accuracy.

    In iteration i no usage R may exceed R_{i−1} + 0.1·R₀·0.96^(i−1), nor its limit. For every
    group a network is made in which that group alone is as wide as that allows; all are trained
    for a short time from the weights of the iteration before, whose function they begin with
    (`engine.carry`), and the one of most (accuracy gained + 1e-6) / (usage added + 1e-5) is taken.

    Source: ours, after Yang et al., ECCV 2018 (`engine.peers.netadapt`); here are its differences.

    - A step is bounded in latency, parameters and memory at once: a group that is cheap in one
      must not take all of another in one step. The usage that is added is the largest of them.
    - It ends where no group can use a quarter of a step any more. Where no group's next width fits
      into a step, but into the limits, that width is tried.
    """

    name: str = "netadapt-growing"
    steps: Steps = field(default_factory=Steps)
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`.

        Raises:
            UserError: the base network breaks a limit, or trainings failed.
        """
        spec = question.largest(lambda _: question.base, 1.0, 1.0, self.limits)
        first = used(question, spec)
        row: Row | None = None
        iteration = 1
        while wider := widened(question, spec, self.steps.share(iteration), first):
            row = row or trained_to_start_from(question, spec)
            row = best_trained(question, self.fine_tuning, row, wider, direction=1)
            spec = row.task.spec
            iteration += 1
        return spec


def widened(
    question: Question, spec: NetworkSpec, share: float, first: dict[str, float]
) -> dict[NetworkSpec, float]:
    """Returns the networks of one iteration with the usage that each adds, none at the end.

    Args:
        spec: that of the iteration before.
        share: of the ``first`` usage, which is what may be added of each resource.
    """
    before = used(question, spec)

    def added(spec: NetworkSpec) -> float:
        after = used(question, spec)
        return max((after[r] - before[r]) / first[r] for r in first)

    fitting: dict[NetworkSpec, float] = {}
    following: dict[NetworkSpec, float] = {}
    for group, width in spec.widths:
        made = [spec.with_widths({group: w}) for w in question.widths(group) if w > width]
        kept = bisect_left(made, True, key=lambda spec: not question.keeps(spec))
        within = bisect_left(made[:kept], True, key=lambda spec: added(spec) > share)
        if within:
            fitting[made[within - 1]] = added(made[within - 1])
        elif kept:
            following[made[0]] = added(made[0])
    return {s: a for s, a in (fitting or following).items() if a >= _WORTHWHILE * share}
