"""Sparsifying during a training: scales of batch norm are pushed to zero by what they cost."""

import itertools
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from engine.gates import ChannelGates
from engine.graph import NetworkGraph
from engine.shrinking import Shrunk, Sparsifying
from engine.spec import NetworkSpec
from engine.training import Training
from trainables.schedule import learning_rate


class Sparsifier:
    """Adds the gradient of λ·G to that of the loss, where G = Σ_groups F_g · Σ_channels |γ|.

    F_g is what one more channel of group g costs at the widths that are left, in the layers that
    write it and in those that read it: for a layer that reads i and writes j of the channels
    that are left, G has C·j·Σ|γ_in| + C·i·Σ|γ_out| with C its cost per pair of channels. Of
    several norms over the same channel (of a residual group) the largest |γ| counts. A channel is
    left while that is above the threshold. λ is such that the push alone would move the scale of a
    channel of mean cost by ``strength`` in the whole training, Σ learning rate / (1 − momentum).

    Source: the regulariser of MorphNet (Gordon et al. 2018), where λ is found by hand.
    Deviation: the last channel of a group is always left; there a layer may vanish. Groups without
    batch norm keep their widths.

    Args:
        sparsifying: of what resource, and how strongly.
        graph: of the network.
        spec: its widths before.
        gates: of the network.
        steps: of an epoch.
        training: its learning rates and momentum.
    """

    def __init__(
        self,
        sparsifying: Sparsifying,
        graph: NetworkGraph,
        spec: NetworkSpec,
        gates: ChannelGates,
        steps: int,
        training: Training,
    ) -> None:
        self._resource, self._threshold = sparsifying.resource, sparsifying.threshold
        self._graph, self._spec, self._gates = graph, spec, gates
        self._steps_per_epoch = steps
        rates = sum(
            learning_rate(training, (k + 0.5) / steps) for k in range(steps * training.epochs)
        )
        firsts = [0, *itertools.accumulate(gates.counts)][:-1]
        self._firsts = torch.tensor(firsts, device=gates.opened().device)
        self._known: dict[tuple[int, ...], Tensor] = {}
        mean_cost = float(self._costs(spec.width_of).mean())
        reach = rates / (1 - training.momentum)
        self._factor = sparsifying.strength / (reach * mean_cost)
        self._steps = 0
        self.path: tuple[Shrunk, ...] = ()

    def before_step(self) -> None:
        """Adds the gradient of the regulariser to that of the scales."""
        gammas = self._gates.scale_parameters()
        gradients = torch.autograd.grad(self.penalty(), gammas)
        for gamma, gradient in zip(gammas, gradients, strict=True):
            assert gamma.grad is not None
            gamma.grad += gradient

    def penalty(self) -> Tensor:
        """Returns λ·G, differentiable in the scales."""
        scales = self._gates.scales()
        pushed = scales.isfinite()
        costs = self._costs(self._left(scales.detach()))
        return self._factor * torch.where(pushed, costs * scales, 0.0).sum()

    def after_step(self) -> None:
        """Records what is left at the end of an epoch."""
        self._steps += 1
        if self._steps % self._steps_per_epoch == 0:
            widths = self._left(self._gates.scales().detach())
            params = self._graph.cost(self._spec.with_widths(widths)).params
            self.path += (Shrunk(params=params, widths=widths),)

    def _left(self, scales: Tensor) -> dict[str, int]:
        """The channels that are left, by group; always the one of the largest scale."""
        opened = scales > self._threshold
        largest = torch.stack([part.argmax() for part in scales.split(self._gates.counts)])
        opened[largest + self._firsts] = True
        return self._gates.widths(opened)

    def _costs(self, widths: dict[str, int]) -> Tensor:
        """What the channels of one more gate cost, for every gate: (gates,)."""
        key = tuple(widths.values())
        if key not in self._known:
            before = self._cost(widths)
            more = zip(widths.items(), self._gates.sizes, strict=True)
            added = [self._cost(widths | {g: width + size}) - before for (g, width), size in more]
            counts = torch.tensor(self._gates.counts)
            costs = torch.tensor(added, dtype=torch.float32).repeat_interleave(counts)
            self._known = {key: costs.to(self._gates.opened().device)}
        return self._known[key]

    def _cost(self, widths: dict[str, int]) -> int:
        cost = self._graph.cost(self._spec.with_widths(widths))
        return cost.macs if self._resource == "macs" else cost.params

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep beside the network."""
        return {"steps": self._steps, "path": [asdict(shrunk) for shrunk in self.path]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from ``state``."""
        self._steps = state["steps"]
        self.path = tuple(Shrunk(**shrunk) for shrunk in state["path"])
