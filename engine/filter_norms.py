"""How large the filters of a trained network are: what says which of them can go."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.graph import NetworkGraph
from engine.ops import WRITERS
from engine.spec import NetworkSpec


@torch.no_grad()
def filter_norms(
    state: Mapping[str, Tensor], graph: NetworkGraph, spec: NetworkSpec
) -> dict[str, Tensor]:
    """Returns ‖Θ‖² of every channel of every width group.

    The filter Θ of a channel is all weights that write it, without biases: where several layers
    write a group, as around a residual sum, their kernels together, so that a channel has one norm
    and is kept or dropped in all of them.

    Source: the filters that NetAdapt (Yang et al. 2018) keeps are those of largest L2 norm, of
    one layer; the sum over the writers of a group is ours (LeGR's code sums scores alike).

    Args:
        state: ``state_dict`` of a module with the widths of ``spec``.
        graph: of the network.
        spec: the network.

    Returns:
        By group, float64, (channels,), on the CPU.
    """
    norms = {group: torch.zeros(width, dtype=torch.float64) for group, width in spec.widths}
    skeleton = graph.skeleton(spec)
    for op in graph.traced.ops:
        if op.kind not in WRITERS or op.repeated:
            continue
        written = _by_kernel(skeleton.get_submodule(op.module), state[f"{op.module}.weight"])
        ahead = 0
        for segment in graph.traced.variables.resolve(op.cout):
            length = graph.count((segment,)).at(spec.width_of)
            group = graph.group_of(segment)
            if group is not None:
                kernels = written[ahead : ahead + length].unflatten(0, (-1, segment.times))
                norms[group] += kernels.sum(1)
            ahead += length
    return norms


def _by_kernel(layer: nn.Module, weight: Tensor) -> Tensor:
    """‖Θ‖² of every kernel of a convolution or linear layer, in the order of its outputs."""
    squares = weight.to("cpu", torch.float64).square()
    if isinstance(layer, nn.ConvTranspose2d):
        # (read, written of a group, …) → (groups, written of a group, read of a group, …)
        squares = squares.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return squares.flatten(1).sum(1)
