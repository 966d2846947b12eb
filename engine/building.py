"""From a traced network and concrete widths to a fresh module."""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn

from engine.costs import LayerCost, NetworkCost
from engine.ops import Op


def build_module(
    root: fx.GraphModule,
    ops: Sequence[Op],
    cost: NetworkCost,
    constants: Mapping[str, float],
    seed: int,
) -> fx.GraphModule:
    """Returns ``root`` with every layer at the widths of ``cost``, freshly initialised.

    Weights of convolutions are drawn from He's normal distribution (fan-out), those of linear
    layers uniformly within ±1/√fan-in, from a generator with ``seed``. A parameter whose elements
    were all equal in the original (ones and zeros of norms, zero biases) keeps that value. All
    networks of a run start in this way, so that they can be compared; a custom initialisation of
    the original is not repeated.
    """
    module = copy.deepcopy(root)  # on the meta device: no weights are copied
    generator = torch.Generator().manual_seed(seed)
    for op, layer in zip(ops, cost.layers, strict=True):
        if not op.module or op.repeated:
            continue
        original = root.get_submodule(op.module)
        fresh = _at_width(original, layer)
        if fresh is not None:
            fresh.train(original.training)
            _initialise(fresh, op.module, constants, generator)
            module.set_submodule(op.module, fresh)
    return module.train()


def _at_width(original: nn.Module, layer: LayerCost) -> nn.Module | None:
    """A layer like ``original`` at the given widths, uninitialised; None if it has no width."""
    match original:
        case nn.Conv2d():
            return nn.utils.skip_init(
                nn.Conv2d,
                layer.cin,
                layer.cout,
                original.kernel_size,
                stride=original.stride,
                padding=original.padding,
                dilation=original.dilation,
                groups=layer.groups,
                bias=original.bias is not None,
                padding_mode=original.padding_mode,
            )
        case nn.Linear():
            return nn.utils.skip_init(
                nn.Linear, layer.cin, layer.cout, bias=original.bias is not None
            )
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            return type(original)(
                layer.cout,
                eps=original.eps,
                momentum=original.momentum,
                affine=original.affine,
                track_running_stats=original.track_running_stats,
            )
        case _:
            return None


def _initialise(
    module: nn.Module, path: str, constants: Mapping[str, float], generator: torch.Generator
) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            constant = constants.get(f"{path}.{name}")
            if constant is not None:
                parameter.fill_(constant)
            elif isinstance(module, nn.Conv2d) and name == "weight":
                fan_out = parameter[0, 0].numel() * module.out_channels // module.groups
                parameter.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
            else:
                weight = module.get_parameter("weight")
                bound = 1.0 / math.sqrt(weight[0].numel()) if weight.ndim > 1 else 1.0
                parameter.uniform_(-bound, bound, generator=generator)
