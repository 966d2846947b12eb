"""One iteration of NetAdapt: how far it goes, and which of its networks is taken."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from engine.limits import Usage
from engine.peers.contract import Question
from engine.peers.inherited import FineTuning, only
from engine.rows import Row
from engine.spec import NetworkSpec

_LEAST_DECAY = 0.25
"""No step is smaller than this share of the first, so that every limit is reached: the published
series alone ends at 1 − 0.025 / 0.04 = 37.5 % of the first usage. It differs from the 35th step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How much of the first usage R₀ each iteration may change.

    Attributes:
        first: share of the first iteration; 0.025 is published. The number of trainings is
            in proportion to 1/first.
        decay: of that share from one iteration to the next.
    """

    first: float = 0.1
    decay: float = 0.96

    def __post_init__(self) -> None:
        if not (0 < self.first < 1 and 0 < self.decay <= 1):
            raise ValueError("a step must be a share in (0, 1), and its decay in (0, 1]")

    def share(self, iteration: int) -> float:
        """Returns the share of an iteration, the first of which is 1."""
        return self.first * max(self.decay ** (iteration - 1), _LEAST_DECAY)


PUBLISHED = Steps(first=0.025)


def limits_of(question: Question) -> dict[str, float]:
    """Returns the limits that there are, in the order in which they are looked at."""
    return _by_resource(question.limit)


def used(question: Question, spec: NetworkSpec) -> dict[str, float]:
    """Returns what a network uses of every limited resource, in the same order."""
    usage = _by_resource(question.usage_of(spec))
    return {resource: usage.get(resource, math.inf) for resource in limits_of(question)}


def _by_resource(usage: Usage) -> dict[str, float]:
    found: dict[str, float] = {"latency_ms": usage.latency_ms, "params": usage.params}
    return found if usage.memory_bytes is None else found | {"memory_bytes": usage.memory_bytes}


def best_trained(
    question: Question,
    fine_tuning: FineTuning,
    parent: Row,
    candidates: Mapping[NetworkSpec, float],
    direction: Literal[1, -1],
) -> Row:
    """Trains networks from the weights of one, and returns the row of the best.

    That is, of a network that shrinks (−1), the one of least (accuracy lost + 1e-6) / (usage
    saved + 1e-5), as in the code of NetAdapt; of one that grows (1), the one of most (accuracy
    gained + 1e-6) / (usage added + 1e-5). The accuracy of ``parent`` is that before fine-tuning:
    where it was trained for a short time only, what another epoch brings by itself is in the
    ratio of every candidate, which favours those that save or add little.

    Args:
        candidates: networks with the usage that they save or add, as a share of R₀.

    Raises:
        UserError: all trainings failed.
    """
    tasks = [fine_tuning.task(question, spec, parent) for spec in candidates]
    rows = only(question.train([replace(task, keep_weights=True) for task in tasks]))

    def worth(row: Row) -> float:
        change = direction * (row.last.val_accuracy - parent.last.val_accuracy)
        return direction * (change + 1e-6) / (candidates[row.task.spec] + 1e-5)

    best = max(rows, key=worth)
    question.release([row for row in rows if row is not best])
    return best
