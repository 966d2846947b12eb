"""What methods share that take channels away in a training and scale what is left."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from engine.peers.contract import Question, Resource
from engine.rows import TrainingTask
from engine.shrinking import Pruning, Sparsifying
from engine.spec import NetworkSpec

_HALVINGS = 40


def shrinking_task(
    question: Question, spec: NetworkSpec, shrink: Pruning | Sparsifying
) -> TrainingTask:
    """Returns the short training of a network, with channels taken away.

    Weights are not averaged in it: those of before and after a channel has gone have no mean.
    """
    task = question.short(spec)
    return replace(task, shrink=shrink, training=replace(task.training, swa_share=0.0))


def valid(question: Question, widths: Mapping[str, float]) -> NetworkSpec:
    """Returns the base network with other widths, rounded and none above its widest."""
    most = question.multiplied(question.max_width).width_of
    rounded = {g: question.graph.round_width(g, width) for g, width in widths.items()}
    return question.base.with_widths({g: min(width, most[g]) for g, width in rounded.items()})


def at_params(
    question: Question,
    make: Callable[[float], NetworkSpec],
    low: float,
    high: float,
    params: int,
) -> float:
    """Returns the largest parameter of a family whose network has no more than ``params``.

    Args:
        question: of the base network.
        make: from the parameter to other widths of the base network, which never fall with it.
        low, high: range of the parameter; ``low`` is the answer if it has too many already.
        params: the budget.
    """
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if question.graph.cost(make(middle)).params <= params:
            low = middle
        else:
            high = middle
    return low


def within_limits(
    question: Question,
    make: Callable[[float], NetworkSpec],
    low: float,
    high: float,
    limits: tuple[Resource, ...],
) -> NetworkSpec:
    """Returns the largest network of a family that keeps the limits, as `Question.largest`.

    Parameters are counted first: a network is asked for its latency, which may have to be
    measured, only where it has few enough of them.

    Raises:
        UserError: not even ``make(low)`` keeps the limits.
    """
    most = at_params(question, make, low, high, question.limit.params)
    best = make(most)
    return best if question.keeps(best, limits) else question.largest(make, low, most, limits)
