"""Networks that take turns at the steps of one training, and the importance of each.

Source: slimmable networks (Yu et al. 2019; Yu and Huang 2019, of any widths): one set of weights,
of which a network of other widths uses the first channels of every layer. They train several
widths at each step and keep apart the statistics of each for batch norm; here every step has one
network, and every batch is normalised by its own statistics, also where a network is judged.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.carry import carry_weights
from engine.graph import NetworkGraph
from engine.importance import ImportanceMeter
from engine.rows import Sampling, TrainingTask
from engine.spec import NetworkSpec

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class SharedNetworks(nn.Module):
    """The networks of a `Sampling`, as one network whose widths change from step to step.

    Called as a network, it is the one whose turn it is, and in evaluation mode the largest. Called
    as a meter (`update`), it collects that one's importance, hands its gradients to the shared
    weights and gives the turn to the next. With ``initial`` nothing is shared: no gradient is
    handed on, so that the optimizer leaves everything as it is.

    Beside the networks it keeps the place of each of their weights among the shared ones, four
    bytes for each.

    Args:
        task: whose ``sampling`` this is.
        sampling: the networks.
        graph: of all of them.
        shared: the task's network on the device, whose weights are trained.
    """

    def __init__(
        self, task: TrainingTask, sampling: Sampling, graph: NetworkGraph, shared: nn.Module
    ) -> None:
        super().__init__()
        self.learns = sampling.source == "slimmable"
        """Whether the weights are trained."""
        # Kept from nn.Module, which would count its parameters among those of the networks.
        self._weights = dict(shared.named_parameters())
        first = next(iter(self._weights.values()))
        self._networks = nn.ModuleList(
            graph.build(spec, task.seed).to(first.device).to(memory_format=torch.channels_last)
            for spec in sampling.networks
        )
        self._places = [
            _places(graph, task.spec, spec, first.device) if self.learns else {}
            for spec in sampling.networks
        ]
        writers = {group.name: group.writers for group in graph.groups}
        self._meters = [ImportanceMeter(network, writers) for network in self._networks]
        sizes = [sum(p.numel() for p in network.parameters()) for network in self._networks]
        self._largest = sizes.index(max(sizes))
        self._turn = 0

    # As a network ----------------------------------------------------------------------------

    def forward(self, batch: Tensor) -> Tensor:
        """Returns the outputs for a batch, N×C×H×W."""
        number = self._number if self.training else self._largest
        network = self._networks[number]
        self._fetch(number)
        if len(batch) == 1 and not self.training:
            # Statistics of a batch need two values.
            return network(torch.cat([batch, batch]))[:1]
        return network(batch)

    def train(self, mode: bool = True) -> "SharedNetworks":
        """Changes the mode of everything but the norms, which always see the batch."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _NORMS):
                module.training = True
        return self

    @property
    def _number(self) -> int:
        return self._turn % len(self._networks)

    @torch.no_grad()
    def _fetch(self, number: int) -> None:
        """Gives a network its part of the shared weights."""
        own = dict(self._networks[number].named_parameters())
        for name, places in self._places[number].items():
            values = self._weights[name].flatten().index_select(0, places)
            own[name].copy_(values.view_as(own[name]))

    # As a meter ------------------------------------------------------------------------------

    @torch.no_grad()
    def update(self) -> None:
        """Ends a step after ``loss.backward()`` and before ``optimizer.step()``.

        Raises:
            UserError: a layer took no part in the loss.
        """
        network = self._networks[self._number]
        self._meters[self._number].update()
        own = dict(network.named_parameters())
        for name, places in self._places[self._number].items():
            gradient = own[name].grad
            if gradient is not None:
                whole = self._weights[name]
                spread = gradient.new_zeros(whole.numel())
                spread[places] = gradient.flatten()
                whole.grad = spread.view_as(whole)
        network.zero_grad(set_to_none=True)
        self._turn += 1

    def means(self) -> tuple[dict[str, float], ...]:
        """Returns Eq. 5 by width group of every network, averaged over its steps.

        Raises:
            ValueError: a network had no step.
        """
        return tuple(meter.means() for meter in self._meters)

    def state(self) -> dict[str, Tensor]:
        """Returns a copy of what a checkpoint must keep beside the shared weights."""
        states = [meter.state() for meter in self._meters]
        return {
            "turn": torch.tensor(self._turn),
            **{name: torch.stack([state[name] for state in states]) for name in states[0]},
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues from ``state``, on any device."""
        self._turn = int(state["turn"])
        for number, meter in enumerate(self._meters):
            meter.load_state({k: v[number] for k, v in state.items() if k != "turn"})


def _places(
    graph: NetworkGraph, shared: NetworkSpec, spec: NetworkSpec, device: torch.device
) -> dict[str, Tensor]:
    """Returns where every weight of ``spec`` is among the flattened ones of ``shared``, by name.

    Weights that are their own number are carried into the narrower network.
    """
    # Whole numbers are exact in float64 up to 2⁵³, in float32 only up to 2²⁴.
    numbers = {
        name: torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)
        for name, tensor in graph.skeleton(shared).state_dict().items()
    }
    module = graph.build(spec, seed=0).double()
    carry_weights(numbers, graph, shared, spec, module)
    return {
        name: parameter.detach().flatten().to(device, torch.int32)
        for name, parameter in module.named_parameters()
    }
