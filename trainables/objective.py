"""What a training minimises and is judged by: cross-entropy and accuracy, or the user's own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.errors import UserError
from engine.networks import import_function
from engine.rows import TrainingTask

_Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Objective:
    """Loss and metric of one task, both functions of outputs and targets.

    Attributes:
        loss: what is minimised, the mean over the batch. A user's that returns anything but one
            number raises UserError.
        plain_loss: the same without label smoothing, to judge with.
        metric: a score for every image, N, in [0, 1]. A user's that returns anything else raises
            UserError; it is not asked where outputs are not finite, which are worth 0.
    """

    loss: _Function
    plain_loss: _Function
    metric: _Function

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean loss of a batch and the score of every image."""
        return self.plain_loss(outputs, targets.clone()), self.metric(outputs, targets)


def make_objective(task: TrainingTask) -> Objective:
    """Returns the loss and metric that a task names.

    Raises:
        UserError: a function of the user cannot be imported.
    """
    smoothing = task.training.label_smoothing

    def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    if task.loss == "cross-entropy":
        loss, plain_loss = smoothed, F.cross_entropy
    else:
        own = import_function(task.loss, "task.loss")

        def checked(outputs: Tensor, targets: Tensor) -> Tensor:
            found = own(outputs, targets)
            if not isinstance(found, Tensor):
                raise UserError(f"task.loss must return a tensor, not {type(found).__name__}")
            if found.ndim != 0:
                shape = tuple(found.shape)
                raise UserError(f"task.loss must return one number, not a shape of {shape}")
            return found

        loss = plain_loss = checked
    if task.metric == "accuracy":
        return Objective(loss, plain_loss, _hits)
    own_metric = import_function(task.metric, "task.metric")

    def scored(outputs: Tensor, targets: Tensor) -> Tensor:
        finite = outputs.reshape(len(outputs), -1).isfinite().all(1)
        if not finite.all():  # a network that diverges is none of the metric's
            return torch.zeros(len(targets), dtype=torch.float64, device=outputs.device)
        scores = own_metric(outputs, targets)
        if not isinstance(scores, Tensor):
            raise UserError(f"task.metric must return a tensor, not {type(scores).__name__}")
        if scores.shape != (len(targets),):
            raise UserError(
                f"task.metric must return one score for each of {len(targets)} images, not a shape "
                f"of {tuple(scores.shape)}"
            )
        wrong = scores[~((scores >= 0) & (scores <= 1))]
        if len(wrong):
            raise UserError(
                f"task.metric must return scores from 0 to 1, more for better, not {wrong[0]:.4g}; "
                "scale them, and say what an image without anything to find is worth"
            )
        return scores

    return Objective(loss, plain_loss, scored)


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).to(torch.float64)
