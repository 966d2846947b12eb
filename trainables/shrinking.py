"""What takes channels away while a network is trained."""

from typing import Any, Protocol

from torch import nn

from engine.gates import ChannelGates
from engine.graph import NetworkGraph
from engine.rows import TrainingTask
from engine.shrinking import Pruning, Shrunk
from trainables.pruning import Pruner
from trainables.sparsifying import Sparsifier


class Shrinking(Protocol):
    """Takes part in every step of a training, and can be taken up again as the training can."""

    @property
    def path(self) -> tuple[Shrunk, ...]:
        """The networks that were left one after another."""
        ...

    def before_step(self) -> None:
        """Is called when there are gradients, before the optimizer uses them."""
        ...

    def after_step(self) -> None:
        """Is called when the optimizer has changed the weights."""
        ...

    def state(self) -> dict[str, Any]:
        """Returns a copy of what a checkpoint must keep, tensors and plain values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from ``state``."""
        ...


def make_shrinking(
    task: TrainingTask, graph: NetworkGraph, network: nn.Module, steps: int
) -> Shrinking | None:
    """Returns what the task asks for, None if that is a plain training.

    Args:
        task: of the training.
        graph: of the network.
        network: on the device it is trained on.
        steps: of an epoch.

    Raises:
        UserError: the network has channels that cannot be judged.
    """
    if task.shrink is None:
        return None
    gates = ChannelGates(graph, task.spec, network)
    steps = max(1, steps)  # with fewer images than a batch the first epoch is refused
    if isinstance(task.shrink, Pruning):
        return Pruner(task.shrink, graph, task.spec, gates, steps, task.training.epochs)
    return Sparsifier(task.shrink, graph, task.spec, gates, steps, task.training)
