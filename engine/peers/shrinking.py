"""What methods share that take channels away in a training and scale what is left."""

from collections.abc import Mapping
from dataclasses import replace

from engine.peers.contract import Question
from engine.rows import TrainingTask
from engine.shrinking import Pruning, Sparsifying
from engine.spec import NetworkSpec


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
