"""Trainings that start from the weights of another network, as methods that prune have them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.errors import UserError
from engine.peers.contract import Question
from engine.rows import Row, Start, TrainingTask
from engine.spec import NetworkSpec

OVERSIZE = 1.5
"""Widths of the network that is shrunk, over those that uniform scaling gives within the limits.

What is only shrunk ends with no group wider than it began. With 1.5 a group may have half as many
channels again as uniform scaling gives it, and a network of about 1.5² = 2.25 times the limits is
shrunk to less than a half, as far as the papers shrink MobileNet and ResNet.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """A short training that starts from trained weights.

    Attributes:
        epochs: of it.
        lr_ratio: its peak learning rate over that of the search's short training.
    """

    epochs: int = 1
    lr_ratio: float = 0.1

    def task(self, question: Question, spec: NetworkSpec, parent: Row) -> TrainingTask:
        """Returns the training of ``spec`` from the weights of ``parent``."""
        short = question.short(spec)
        training = short.training.for_epochs(self.epochs)
        return replace(
            short,
            training=replace(training, lr=training.lr * self.lr_ratio),
            start=Start(row=parent.task.id, spec=parent.task.spec),
        )


def oversized(question: Question) -> NetworkSpec:
    """Returns the network that methods shrink: uniformly widened, `OVERSIZE` beyond the limits.

    It depends on the limits as they were stated, not on what the device corrected.

    Raises:
        UserError: the base network breaks a limit.
    """
    stated = replace(question, limit=question.stated_limit)
    uniform = stated.largest(question.multiplied, 1.0, question.max_width)
    return uniform.with_widths(
        {
            group: min(
                question.graph.round_width(group, width * OVERSIZE), question.widths(group)[-1]
            )
            for group, width in uniform.widths
        }
    )


def trained_to_start_from(question: Question, spec: NetworkSpec) -> Row:
    """Trains a network like those of the search, and keeps its weights and filter norms.

    Raises:
        UserError: the training failed.
    """
    task = replace(question.short(spec), keep_weights=True, filter_norms=True)
    return only(question.train([task]))[0]


def only(rows: Sequence[Row]) -> Sequence[Row]:
    """Returns the rows of trainings without any of which a method cannot go on.

    Raises:
        UserError: there is none.
    """
    if not rows:
        raise UserError("every training of a step failed; repeat with --retry-failed")
    return rows
