"""A multiplicative gate on every channel of a width group: its gradient, and closing it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn

from engine.channels import Segment
from engine.errors import UserError
from engine.graph import NetworkGraph, SizedOp
from engine.layers import BATCH_NORMS
from engine.ops import WRITERS
from engine.spec import NetworkSpec
from engine.weights import kernels, roles


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring channels of a layer: ``parts`` times the gates, each ``times`` in a row."""

    channels: slice
    gates: slice
    parts: int
    times: int


class ChannelGates:
    """The gates of a network, one for each channel of each group, all at one.

    A group's gates stand behind every norm over its channels and at the output of every layer
    that writes them without a norm behind it, so that a channel whose gate is closed reaches no
    layer. Channels that must stay a multiple m, as for grouped convolutions, share a gate: one
    channel of each of the m parts.

    A layer is linear in its weights and biases, so the derivative of the loss in a gate on its
    output channel k is Σ w·∂L/∂w over the weights and biases of k (Euler's theorem); behind a
    norm it is γ·∂L/∂γ + β·∂L/∂β. A gate that stands in several places has their sum. Closing it
    sets those weights to zero. So nothing is put into the network.

    Where channels are mixed this holds by half: a norm over several channels still averages over
    one whose gate is closed, and a channel shuffle puts it in the place of another.

    Args:
        graph: of the network.
        spec: its widths.
        module: the network, on the device it is trained on.

    Attributes:
        counts: gates of every group, in the order of the spec.
        sizes: channels behind each gate of a group.

    Raises:
        UserError: as `check_gates`.
    """

    def __init__(self, graph: NetworkGraph, spec: NetworkSpec, module: nn.Module) -> None:
        check_gates(graph, spec.resolution)
        self._groups = tuple(group for group, _ in spec.widths)
        self.sizes = tuple(graph.group(group).multiple for group in self._groups)
        self.counts = tuple(w // m for (_, w), m in zip(spec.widths, self.sizes, strict=True))
        self._layers: dict[str, nn.Module] = {}
        self._runs: dict[str, list[_Run]] = {}
        for sized in _gated(graph, spec.resolution):
            path = sized.op.module
            self._layers[path] = module.get_submodule(path)
            self._runs[path] = self._find_runs(graph, spec, sized)

    def _find_runs(self, graph: NetworkGraph, spec: NetworkSpec, sized: SizedOp) -> list[_Run]:
        ends = list(accumulate(self.counts))
        gates = {
            g: slice(end - n, end)
            for g, n, end in zip(self._groups, self.counts, ends, strict=True)
        }
        parts = dict(zip(self._groups, self.sizes, strict=True))
        runs: list[_Run] = []
        start = 0
        for segment in graph.traced.variables.resolve(sized.op.cout):
            count = graph.count((Segment(segment.var),))
            times = segment.times * sized.fold_out
            stop = start + count.at(spec.width_of) * times
            for group, _ in count.terms:
                runs.append(_Run(slice(start, stop), gates[group], parts[group], times))
            start = stop
        return runs

    def opened(self) -> Tensor:
        """Returns a mask with all gates open: (gates,) bool, group after group."""
        device = next(next(iter(self._layers.values())).parameters()).device
        return torch.ones(sum(self.counts), dtype=torch.bool, device=device)

    @torch.no_grad()
    def gradients(self) -> Tensor:
        """Returns the derivative of the loss in every gate: (gates,) float64.

        Call it after ``loss.backward()`` and before ``optimizer.step()``.

        Raises:
            UserError: a layer took no part in the loss, so it has no gradient.
        """
        total = torch.zeros_like(self.opened(), dtype=torch.float64)
        for path, layer in self._layers.items():
            found: Tensor | None = None
            for weight, view in _weights(layer):
                if weight.grad is None:
                    raise UserError(
                        f"layer {path!r} has no gradient, so its channels cannot be judged: it is "
                        "frozen or takes no part in the loss; use a model whose every layer is "
                        "trained"
                    )
                product = view(weight).double() * view(weight.grad)
                sums = product.reshape(product.shape[0] * product.shape[1], -1).sum(1)
                found = sums if found is None else found + sums
            assert found is not None
            for run in self._runs[path]:
                several = found[run.channels].reshape(run.parts, -1, run.times)
                total[run.gates] += several.sum((0, 2))
        return total

    @torch.no_grad()
    def close(self, opened: Tensor) -> None:
        """Sets to zero what writes the channels whose gates are not open in the mask."""
        for path, layer in self._layers.items():
            for weight, view in _weights(layer):
                channels = view(weight)
                factors = weight.new_ones(channels.shape[0] * channels.shape[1])
                for run in self._runs[path]:
                    several = opened[run.gates][None, :, None].expand(run.parts, -1, run.times)
                    factors[run.channels] = several.reshape(-1).to(factors)
                rest = (1,) * (channels.dim() - 2)
                channels.mul_(factors.view(*channels.shape[:2], *rest))

    def scale_parameters(self) -> list[nn.Parameter]:
        """Returns γ of every batch norm that has one."""
        scales = (_scale(layer) for layer in self._layers.values())
        return [scale for scale in scales if scale is not None]

    def scales(self) -> Tensor:
        """Returns the largest |γ| of every gate's batch norms: (gates,), differentiable.

        Gates of groups without batch norm have infinity.
        """
        largest = torch.full_like(self.opened(), -torch.inf, dtype=torch.float32)
        for path, layer in self._layers.items():
            if (scale := _scale(layer)) is not None:
                for run in self._runs[path]:
                    several = scale[run.channels].abs().reshape(run.parts, -1, run.times)
                    found = several.amax((0, 2))
                    pads = (run.gates.start, len(largest) - run.gates.stop)
                    found = nn.functional.pad(found, pads, value=-torch.inf)
                    largest = torch.maximum(largest, found)
        return largest.where(largest >= 0, torch.inf)

    def widths(self, opened: Tensor) -> dict[str, int]:
        """Returns the channels of every group whose gates are open in the mask."""
        # Read at once: a GPU is waited for each time.
        left = torch.stack([part.sum() for part in opened.split(self.counts)]).tolist()
        return {g: n * m for g, n, m in zip(self._groups, left, self.sizes, strict=True)}


def check_gates(graph: NetworkGraph, resolution: int) -> None:
    """Checks that all groups can have gates.

    Raises:
        UserError: one cannot: it is only written in front of norms that learn no scale.
    """
    for group in _without(graph, _gated(graph, resolution)):
        raise UserError(
            f"model {graph.ref.name!r}: the channels of {group} cannot be judged, because the "
            "norm behind them learns no scale; use affine=True, or exclude the group"
        )


def check_scales(graph: NetworkGraph, resolution: int) -> None:
    """Checks that some group has a batch norm with a scale.

    Raises:
        UserError: none has.
    """
    norms = [s for s in _gated(graph, resolution) if _scale(_layer(graph, s)) is not None]
    if len(_without(graph, norms)) == len(graph.groups):
        raise UserError(
            f"model {graph.ref.name!r} has no batch norm with learnt scales over channels that may "
            "change, and these scales are what is made sparse; leave the method out"
        )


def _gated(graph: NetworkGraph, resolution: int) -> list[SizedOp]:
    """The layers that gates stand behind, each once."""
    ops = graph.sized_ops(resolution)
    readers: list[list[str]] = [[] for _ in ops]
    for sized in ops:
        for i in sized.op.inputs:
            if i >= 0:
                readers[i].append(sized.op.kind)
    found: dict[str, SizedOp] = {}
    for sized, kinds in zip(ops, readers, strict=True):
        op = sized.op
        if not op.module or not graph.count(op.cout).terms:
            continue
        if op.kind == "norm":
            gated = isinstance(getattr(_layer(graph, sized), "weight", None), nn.Parameter)
        else:
            # In front of a norm a gate has no effect: the norm takes the scale away.
            gated = op.kind in WRITERS and not (kinds and set(kinds) == {"norm"})
        if gated:
            found.setdefault(op.module, sized)
    return list(found.values())


def _without(graph: NetworkGraph, layers: list[SizedOp]) -> list[str]:
    """The groups that none of the layers has channels of."""
    having = {group for sized in layers for group, _ in graph.count(sized.op.cout).terms}
    return [group.name for group in graph.groups if group.name not in having]


def _scale(layer: nn.Module) -> nn.Parameter | None:
    """γ of a batch norm, None if it has none or is another layer."""
    return getattr(layer, "weight", None) if isinstance(layer, BATCH_NORMS) else None


def _layer(graph: NetworkGraph, sized: SizedOp) -> nn.Module:
    return graph.traced.root.get_submodule(sized.op.module)


def _weights(layer: nn.Module) -> Iterator[tuple[nn.Parameter, Callable[[Tensor], Tensor]]]:
    """Weights and biases, each with what views it as groups × written × rest."""
    groups = getattr(layer, "groups", 1)
    for name, axes in roles(layer).items():
        weight = getattr(layer, name)
        if isinstance(weight, nn.Parameter):
            if axes == ("out",):
                yield weight, lambda tensor: tensor[None]
            else:
                yield weight, partial(kernels, axes=axes, groups=groups)
