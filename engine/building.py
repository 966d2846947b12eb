"""From a traced network and concrete widths to a module."""

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx, nn

from engine.costs import NetworkCost
from engine.errors import UserError
from engine.tracing import Traced
from engine.weights import resize

NORM_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of norms that every training begins anew."""


def skeleton(traced: Traced, cost: NetworkCost, lengths: Mapping[str, int]) -> fx.GraphModule:
    """Returns the network at the widths of ``cost`` on the meta device, in training mode.

    Args:
        traced: the network.
        cost: of its ops, at the widths wanted.
        lengths: of the parameters used outside of layers, by name.
    """
    module = copy.deepcopy(traced.root)
    for op, layer in zip(traced.ops, cost.layers, strict=True):
        if op.module and not op.repeated:
            resize(module.get_submodule(op.module), layer)
    for name, length in lengths.items():
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        setattr(owner, attribute, _lengthened(traced, name, length))
    return module.train()


def replacements(
    traced: Traced, cost: NetworkCost, lengths: Mapping[str, int], ops: Iterable[int]
) -> dict[str, nn.Module | Tensor]:
    """Returns, by name, what `skeleton` puts in the place of the layers that ``ops`` call."""
    found: dict[str, nn.Module | Tensor] = {}
    for i in ops:
        op = traced.ops[i]
        if op.module and not op.repeated:
            layer = copy.deepcopy(traced.root.get_submodule(op.module)).train()
            resize(layer, cost.layers[i])
            found[op.module] = layer
    return found | {name: _lengthened(traced, name, n) for name, n in lengths.items()}


def _lengthened(traced: Traced, name: str, length: int) -> Tensor:
    old = _tensor(traced.root, name)
    axis = traced.parameters[name][1]
    shape = [length if i == axis else size for i, size in enumerate(old.shape)]
    new = torch.empty(shape, dtype=old.dtype, device="meta")
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def initial_values(module: nn.Module) -> dict[str, Tensor]:
    """Returns all buffers, and of parameters what a training is to begin with.

    That is the value of those whose elements are all equal, and all of those that are frozen.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        flat = parameter.detach().flatten()
        # Most weights already differ among their first elements.
        if len(flat) and all(bool((part == flat[0]).all()) for part in (flat[:64], flat)):
            found[name] = flat[0].cpu()
        elif not parameter.requires_grad:
            found[name] = parameter.detach().cpu()
    found |= {name: buffer.cpu() for name, buffer in module.named_buffers(remove_duplicate=False)}
    return found


def initialise(
    module: fx.GraphModule, traced: Traced, initial: Mapping[str, Tensor], seed: int
) -> fx.GraphModule:
    """Gives a network on the meta device its first weights, on the CPU.

    Weights of convolutions are drawn from He's normal distribution (fan-out; of transposed ones
    fan-in over the product of the strides), those of linear layers uniformly within ±1/√fan-in,
    others with a standard deviation of 0.02 (scales outside of layers), from a generator with
    ``seed``. A parameter whose elements were all equal in the original (ones and zeros of norms,
    zero biases) keeps that value, and so do frozen parameters, and buffers other than the
    statistics of norms. All networks of a run start in this way, so that they can be compared; a
    custom initialisation of the original is not repeated.

    Args:
        module: made by `skeleton`.
        traced: the network it was made from.
        initial: see `initial_values`, of the original.
        seed: of the generator.

    Raises:
        UserError: a buffer or frozen parameter lacks values for some channels.
    """
    module = module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if buffer.shape == initial[name].shape:
                buffer.copy_(initial[name])
        for op in traced.ops:
            if op.module and not op.repeated:
                layer = module.get_submodule(op.module)
                _initialise_layer(layer, op.module, initial, generator)
        for name in traced.parameters:
            _initialise_tensor(name, _tensor(module, name), initial, generator)
    return module


def _initialise_layer(
    layer: nn.Module, path: str, initial: Mapping[str, Tensor], generator: torch.Generator
) -> None:
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        layer.reset_parameters()  # pyright: ignore[reportCallIssue]
    for name, parameter in layer.named_parameters():
        constant = initial.get(f"{path}.{name}")
        if constant is not None:
            _keep(f"{path}.{name}", parameter, constant)
        elif isinstance(layer, nn.Conv2d) and name == "weight":
            fan_out = parameter[0, 0].numel() * layer.out_channels // layer.groups
            parameter.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
        elif isinstance(layer, nn.ConvTranspose2d) and name == "weight":
            # Each output pixel sums over the inputs that the stride lets reach it.
            fan_in = parameter.numel() / layer.out_channels / math.prod(layer.stride)
            parameter.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            bound = 1.0 / math.sqrt(layer.weight.numel() / width)
            parameter.uniform_(-bound, bound, generator=generator)


def _initialise_tensor(
    name: str, tensor: Tensor, initial: Mapping[str, Tensor], generator: torch.Generator
) -> None:
    value = initial.get(name)
    if value is None:
        tensor.normal_(0.0, 0.02, generator=generator)
    else:
        _keep(name, tensor, value)


def _keep(name: str, tensor: Tensor, value: Tensor) -> None:
    """Gives a tensor the values of the original's."""
    if value.shape == tensor.shape or bool((value == value.flatten()[0]).all()):
        tensor.copy_(value if value.shape == tensor.shape else value.flatten()[0])
        return
    what = "frozen parameter" if isinstance(tensor, nn.Parameter) else "buffer"
    raise UserError(
        f"{what} {name} holds other values for each of its {value.numel()} elements, so that "
        "there are none for further channels; exclude the groups it is used with"
    )


def _tensor(module: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    return getattr(module.get_submodule(path), attribute)
