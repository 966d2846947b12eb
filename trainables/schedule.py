"""The learning rate as a function of time: no state, so a resumed training has the same one."""

import math

from engine.training import Training


def learning_rate(training: Training, epoch: float) -> float:
    """Returns the learning rate ``epoch`` (a fraction) epochs after the start.

    ``one-cycle``: linear from 0 over the warm-up, then half a cosine to 0. ``step``: ÷10 at every
    milestone. ``exponential``: lr·ratio^(t/T) (HACScale section IV: 2.0·0.02^(t/T)). Every
    schedule warms up linearly.
    """
    if epoch < training.warmup_epochs:
        return training.lr * epoch / training.warmup_epochs
    match training.schedule:
        case "one-cycle":
            span = training.epochs - training.warmup_epochs
            done = (epoch - training.warmup_epochs) / span if span > 0 else 1.0
            return training.lr * 0.5 * (1.0 + math.cos(math.pi * done))
        case "step":
            return training.lr * 0.1 ** sum(epoch >= m for m in training.milestones)
        case "exponential":
            return training.lr * training.final_lr_ratio ** (epoch / training.epochs)
