"""A network too large, shrunk step by step to the limits."""

from bisect import bisect_right
from dataclasses import dataclass, field

from engine.errors import UserError
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.peers.inherited import FineTuning, oversized, trained_to_start_from
from engine.peers.steps import Steps, best_trained, limits_of, used
from engine.rows import Row
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NetAdapt:
    """NetAdapt V1: one width group is narrowed at a time, whichever costs least accuracy.

    In iteration i the usage R must come down to R_{i−1} − 0.025·R₀·0.96^(i−1). For every group a
    network is made in which that group alone has as few channels less as that takes, its filters
    of largest L2 norm kept; all are trained for a short time from the weights of the iteration
    before, and the one of least (accuracy lost + 1e-6) / (usage saved + 1e-5) is taken.

    Source: Algorithm 1 of Yang et al., ECCV 2018; the ratio and the steps are those of the
    authors' code, where the paper takes the highest accuracy. Deviations:

    - The task is to scale up: it begins with a network beyond the limits
      (`engine.peers.inherited.OVERSIZE`), trained like the sampled ones and not to its end.
    - The first step is four times the published one, for a quarter of the trainings (`Steps`).
      The last target is the limit itself.
    - The resource is the latency that the run's model predicts and, once that is kept, the
      parameters, then the memory. In the ratio it is a share of R₀, so that 1e-5 has no unit.
    - Channels go one valid width at a time, not 8, down to the latency model's narrowest. Where
      no group alone reaches the target, each that can be narrowed goes down to there.
    - The long fine-tuning at the end is the comparison's own training: the answers of all methods
      are trained from new weights alike.
    """

    name: str = "netadapt"
    steps: Steps = field(default_factory=Steps)
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        spec = oversized(question)
        first, limit = used(question, spec), limits_of(question)
        row: Row | None = None
        iterations = dict.fromkeys(limit, 0)
        while over := [r for r, usage in used(question, spec).items() if usage > limit[r]]:
            resource = over[0]
            iterations[resource] += 1
            step = self.steps.share(iterations[resource]) * first[resource]
            narrower = narrowed(question, spec, resource, step, first[resource])
            row = row or trained_to_start_from(question, spec)
            row = best_trained(question, self.fine_tuning, row, narrower, direction=-1)
            spec = row.task.spec
        return spec


def narrowed(
    question: Question, spec: NetworkSpec, resource: str, step: float, unit: float
) -> dict[NetworkSpec, float]:
    """Returns the networks of one iteration with the usage that each saves, in ``unit``.

    Args:
        spec: that of the iteration before.
        resource: what must come down, by ``step`` or to the limit.

    Raises:
        UserError: no group can be narrower.
    """

    def usage(spec: NetworkSpec) -> float:
        return used(question, spec)[resource]

    before = usage(spec)
    target = max(limits_of(question)[resource], before - step)
    reached: dict[NetworkSpec, float] = {}
    narrowest: dict[NetworkSpec, float] = {}
    for group, width in spec.widths:

        def made(to: int, group: str = group) -> NetworkSpec:
            return spec.with_widths({group: to})

        widths = [w for w in question.widths(group) if w < width]
        if not widths:
            continue
        fitting = bisect_right(widths, target, key=lambda w: usage(made(w)))
        candidate = made(widths[max(fitting - 1, 0)])
        saved = before - usage(candidate)
        if saved > 0:
            (reached if fitting else narrowest)[candidate] = saved / unit
    if not (reached or narrowest):
        raise UserError(
            "the limits are broken by the narrowest network that the latency model knows; raise "
            "them or lower profile.min_width"
        )
    return reached or narrowest
