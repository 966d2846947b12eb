"""Pruning during a training: the channels that the loss depends on least go first."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from engine.gates import ChannelGates
from engine.graph import NetworkGraph
from engine.shrinking import Pruning, Shrunk
from engine.spec import NetworkSpec


class Pruner:
    """Closes gates by the mean of their squared gradients since the last time.

    The score of a channel is the mean over the batches of (g·z)², where z = 1 is a gate on the
    channel and g the derivative of the loss in it. A gate that was closed stays closed. Once every
    group has lost a channel, `path` gets the widths that are left each time.

    Source: the gate form of Taylor-FO (Molchanov et al. 2019) as NeuralScale uses it.

    Args:
        pruning: how much, and how often.
        graph: of the network.
        spec: its widths before.
        gates: of the network.
        steps: of an epoch.
        epochs: of the training.
    """

    def __init__(
        self,
        pruning: Pruning,
        graph: NetworkGraph,
        spec: NetworkSpec,
        gates: ChannelGates,
        steps: int,
        epochs: int,
    ) -> None:
        self._graph, self._spec, self._gates = graph, spec, gates
        self._goals = goals(pruning, sum(width for _, width in spec.widths), steps, epochs)
        self._first = round(pruning.warmup * steps * epochs)
        self._opened = gates.opened()
        self._pruned = False
        self._sums = torch.zeros_like(self._opened, dtype=torch.float64)
        self._updates = self._steps = 0
        self._ended = False
        self.path: tuple[Shrunk, ...] = ()

    def before_step(self) -> None:
        """Adds the squared gradients of a step."""
        if not self._ended and self._steps >= self._first:
            self._sums += self._gates.gradients().square()
            self._updates += 1

    def after_step(self) -> None:
        """Prunes if it is time, and keeps what writes pruned channels at zero."""
        self._steps += 1
        if self._steps in self._goals and not self._ended:
            self._prune(self._goals[self._steps])
        if self._pruned:
            self._gates.close(self._opened)

    def _prune(self, goal: int) -> None:
        """Prunes until ``goal`` channels are gone; no more if a group would lose its last."""
        gates = self._gates
        scores = self._sums / self._updates
        opened = prune(scores, self._opened, gates.counts, gates.sizes, goal)
        self._sums.zero_()
        self._updates = 0
        if opened is None:
            self._ended = True
            return
        self._opened, self._pruned = opened, True
        widths = gates.widths(opened)
        if all(widths[group] < width for group, width in self._spec.widths):
            params = self._graph.cost(self._spec.with_widths(widths)).params
            self.path += (Shrunk(params=params, widths=widths),)

    def state(self) -> dict[str, Any]:
        """Returns a copy of what a checkpoint must keep."""
        return {
            "opened": self._opened.clone(),
            "sums": self._sums.clone(),
            "updates": self._updates,
            "steps": self._steps,
            "ended": self._ended,
            "path": [asdict(shrunk) for shrunk in self.path],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from ``state``."""
        self._opened.copy_(state["opened"])
        self._pruned = not bool(self._opened.all())
        self._sums.copy_(state["sums"])
        self._updates, self._steps = state["updates"], state["steps"]
        self._ended = state["ended"]
        self.path = tuple(Shrunk(**shrunk) for shrunk in state["path"])


def goals(pruning: Pruning, channels: int, steps: int, epochs: int) -> dict[int, int]:
    """Returns after how many steps how many channels are to be gone.

    Args:
        pruning: how much, and how often.
        channels: of all groups.
        steps: of an epoch.
        epochs: of the training.
    """
    total = steps * epochs
    first = round(pruning.warmup * total)
    rest = total - first
    last = int(channels * pruning.share)
    times = min(rest, last, max(pruning.times, round(pruning.per_epoch * rest / steps)))
    return {first + rest * k // times: last * k // times for k in range(1, times + 1)}


def prune(
    scores: Tensor, opened: Tensor, counts: Sequence[int], sizes: Sequence[int], goal: int
) -> Tensor | None:
    """Closes the open gates of the lowest scores until enough channels are gone.

    Args:
        scores: of all gates, group after group: (gates,). Of equal ones the first goes first.
        opened: mask of the gates that are open: (gates,).
        counts: gates of every group.
        sizes: channels behind each gate of a group.
        goal: channels of the whole network that are gone afterwards, at least.

    Returns:
        The new mask; None if a group would lose its last gate, so that nothing more can go.
    """
    group_of = [group for group, count in enumerate(counts) for _ in range(count)]
    mask: list[bool] = opened.tolist()
    left: list[int] = [int(part.sum()) for part in opened.split(list(counts))]
    gone = sum((n - m) * size for n, m, size in zip(counts, left, sizes, strict=True))
    order: list[int] = scores.argsort(stable=True).tolist()
    for gate in order:
        if gone >= goal:
            break
        group = group_of[gate]
        if not mask[gate]:
            continue
        if left[group] == 1:
            return None
        mask[gate] = False
        left[group] -= 1
        gone += sizes[group]
    return torch.tensor(mask, device=opened.device)
