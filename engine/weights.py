"""Which axes of a layer's weights are channels, and layers of other widths."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from engine.costs import LayerCost
from engine.layers import BATCH_NORMS

Role = Literal["in", "out", "in of a group", "out of a group", ""]
"""What an axis of a weight runs over; "" if that does not change with the widths."""


def roles(layer: nn.Module) -> dict[str, tuple[Role, ...]]:
    """Returns the role of every axis of the parameters and buffers that change with the widths."""
    found: dict[str, tuple[Role, ...]]
    match layer:
        case nn.ConvTranspose2d():
            found = {"weight": ("in", "out of a group", "", ""), "bias": ("out",)}
        case nn.Conv2d():
            found = {"weight": ("out", "in of a group", "", ""), "bias": ("out",)}
        case nn.Linear():
            found = {"weight": ("out", "in"), "bias": ("out",)}
        case nn.PReLU(num_parameters=1):
            found = {}
        case _:
            names = ("weight", "bias", "running_mean", "running_var")
            found = {name: ("out",) for name in names}
    return {name: axes for name, axes in found.items() if getattr(layer, name, None) is not None}


def kernels(weight: Tensor, axes: Sequence[Role], groups: int) -> Tensor:
    """A view of a weight as groups × written × read × kernel."""
    grouped = weight.unflatten(0, (groups, -1))
    return grouped if axes[0] == "out" else grouped.transpose(1, 2)


def resize(layer: nn.Module, cost: LayerCost) -> None:
    """Gives ``layer``, on the meta device, the widths of ``cost``."""
    groups = cost.groups
    sizes = {
        "in": cost.cin,
        "out": cost.cout,
        "in of a group": cost.cin // groups,
        "out of a group": cost.cout // groups,
    }
    for name, axes in roles(layer).items():
        old: Tensor = getattr(layer, name)
        shape = [sizes.get(role, size) for role, size in zip(axes, old.shape, strict=True)]
        new = torch.empty(shape, dtype=old.dtype, device="meta")
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        setattr(layer, name, new)
    match layer:
        case nn.Conv2d() | nn.ConvTranspose2d():
            layer.in_channels, layer.out_channels, layer.groups = cost.cin, cost.cout, groups
        case nn.Linear():
            layer.in_features, layer.out_features = cost.cin, cost.cout
        case nn.GroupNorm():
            if layer.num_groups == layer.num_channels:
                layer.num_groups = cost.cout
            layer.num_channels = cost.cout
        case nn.LayerNorm():
            layer.normalized_shape = (cost.cout,)
        case nn.PReLU():
            layer.num_parameters = 1 if layer.num_parameters == 1 else cost.cout
        case _:
            assert isinstance(layer, BATCH_NORMS)
            layer.num_features = cost.cout
