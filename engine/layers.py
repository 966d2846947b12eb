"""Which channels the layers of torch.nn read and write."""

import torch
from torch import fx, nn

from engine.channels import Channels, Refusal
from engine.following import Following
from engine.functions import (
    adaptive_pool,
    channel_shuffle,
    check_image,
    gate,
    pair,
    pixel_shuffle,
    pixel_unshuffle,
    pool,
    resize,
    view,
)
from engine.layout import Value
from engine.ops import Op

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d)
CHANNEL_LAYERS = (
    *CONVOLUTIONS,
    nn.Linear,
    *BATCH_NORMS,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.PReLU,
)
"""Layers whose parameters depend on the number of channels. A subclass is taken for its base."""

_ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.RReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
_MIXING_ACTIVATIONS = (nn.LocalResponseNorm, nn.LogSoftmax, nn.Softmax, nn.Softmax2d)
_PADS = (
    nn.CircularPad2d,
    nn.ConstantPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
)
_LAYERS = (
    *CHANNEL_LAYERS,
    *_ACTIVATIONS,
    *_MIXING_ACTIVATIONS,
    *_PADS,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.ChannelShuffle,
    nn.Flatten,
    nn.GLU,
    nn.LPPool2d,
    nn.MaxPool2d,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Upsample,
)


def is_known(layer: nn.Module) -> bool:
    """Whether layers of that type can be followed."""
    return isinstance(layer, _LAYERS) or passes(layer)


def passes(layer: nn.Module) -> bool:
    """Whether a layer without weights returns its very input in evaluation mode: a drop path."""
    if any(True for _ in layer.children()) or any(True for _ in layer.parameters()):
        return False
    probe = torch.linspace(-8, 8, 128).view(2, 4, 4, 4)
    before = probe.clone()
    try:
        return layer.forward(probe) is probe and torch.equal(probe, before)
    except Exception:  # user code that takes something else
        return False


def layer_value(f: Following, node: fx.Node, layer: nn.Module) -> Value:
    """Follows a call of a known layer.

    Raises:
        Refusal: it is used in a way that cannot be followed.
    """
    x = f.first(node)
    if f.several(node):
        raise Refusal("it returns the places of the maxima, too; leave return_indices out")
    if isinstance(layer, CHANNEL_LAYERS):
        return _channel_layer(f, node, layer, x)
    match layer:
        case nn.MaxPool2d() | nn.AvgPool2d() | nn.LPPool2d():
            return pool(f, node, x, layer.kernel_size, layer.stride)
        case nn.AdaptiveAvgPool2d() | nn.AdaptiveMaxPool2d():
            return adaptive_pool(f, node, x, layer.output_size)
        case nn.Upsample():
            return resize(f, node, x)
        case nn.PixelShuffle():
            return pixel_shuffle(f, node, x, layer.upscale_factor)
        case nn.PixelUnshuffle():
            return pixel_unshuffle(f, node, x, layer.downscale_factor)
        case nn.ChannelShuffle():
            return channel_shuffle(f, node, x, layer.groups)
        case nn.GLU():
            return gate(f, node, x, layer.dim)
        case nn.Flatten():
            return view(f, node, x, ())
        case _ if isinstance(layer, _PADS) or passes(layer):
            return f.emit(node, "reshape", x.shaped(f.shape(node)), [x])
        case _:
            mixes = isinstance(layer, _MIXING_ACTIVATIONS)
            return f.emit(node, "activation", x, [x], mixes=mixes)


def _channel_layer(f: Following, node: fx.Node, layer: nn.Module, x: Value) -> Value:
    path = str(node.target)
    extra = {name for name, _ in layer.named_parameters()} - {"weight", "bias"}
    if extra:
        base = next(kind for kind in CHANNEL_LAYERS if isinstance(layer, kind)).__name__
        raise Refusal(
            f"it has the parameters {', '.join(sorted(extra))}, which nn.{base} does not have; "
            "remove the parametrisation, or keep parameters of your own in a module around it"
        )
    if x.op is None or x.parts > 1 or x.axis is None:
        raise Refusal("its input's channels lie on no axis of their own")
    before = next((op for op in f.ops if op.module == path), None)
    one_for_all = isinstance(layer, nn.PReLU) and layer.num_parameters == 1
    if before is not None and not one_for_all:
        f.variables.equate(before.cin, x.channels, f"{path}: called more than once")
    match layer:
        case nn.Conv2d() | nn.ConvTranspose2d():
            after = _convolution(f, node, layer, x, before)
        case nn.Linear():
            after = _linear(f, node, layer, x, before)
        case _:
            after = _norm(f, node, layer, x, before)
    # There are no values for further channels.
    if not one_for_all and not all(p.requires_grad for p in layer.parameters()):
        for channels in (x.channels, after.channels):
            f.variables.fix(channels, f"{path}: frozen")
    return after


def _convolution(
    f: Following,
    node: fx.Node,
    layer: nn.Conv2d | nn.ConvTranspose2d,
    x: Value,
    before: Op | None,
) -> Value:
    check_image(x)
    per_input, left_over = divmod(layer.out_channels, layer.in_channels)
    depthwise = layer.groups > 1 and layer.groups == layer.in_channels and not left_over
    if depthwise:
        channels = f.variables.repeated(x.channels, per_input)
        f.variables.explain(x.channels, f"{node.target}: depthwise")
    else:
        channels = before.cout if before else f.variables.new(layer.out_channels)
        if layer.groups > 1:
            reason = f"{node.target}: {layer.groups} groups"
            f.variables.require_multiple(x.channels, layer.groups, reason)
            f.variables.require_multiple(channels, layer.groups, reason)
    return f.emit(
        node,
        "conv_transpose" if isinstance(layer, nn.ConvTranspose2d) else "conv",
        x.shaped(f.shape(node), channels),
        [x],
        module=str(node.target),
        kernel=pair(layer.kernel_size),
        stride=pair(layer.stride),
        groups=0 if depthwise else layer.groups,
        learnt=channels if _has_bias(layer) else (),
        repeated=before is not None,
    )


def _linear(f: Following, node: fx.Node, layer: nn.Linear, x: Value, before: Op | None) -> Value:
    if x.axis != len(x.shape) - 1:
        raise Refusal("a linear layer over height or width; only one over channels is followed")
    positions = _positions(f, x, layer.in_features)
    if len(x.shape) == 2 and not f.is_sized(x):
        f.positions[str(node.target)] = positions
    channels = before.cout if before else f.variables.new(layer.out_features)
    return f.emit(
        node,
        "linear",
        x.shaped(f.shape(node), channels),
        [x],
        module=str(node.target),
        learnt=channels if _has_bias(layer) else (),
        repeated=before is not None,
    )


def _positions(f: Following, x: Value, features: int) -> int:
    """For how many positions of each channel, which a flatten has made features, a layer is."""
    width = f.variables.width(x.channels)
    if features % width or (len(x.shape) > 2 and features != width):
        raise Refusal(f"it takes {features} features where there are {width} channels")
    return features // width


def _has_bias(layer: nn.Module) -> bool:
    return isinstance(layer.bias, nn.Parameter)


def _norm(f: Following, node: fx.Node, layer: nn.Module, x: Value, before: Op | None) -> Value:
    learnt: Channels = x.channels * len(list(layer.parameters()))
    mixes = False
    features = getattr(layer, "num_features", getattr(layer, "num_channels", None))
    if features is not None:
        _positions(f, x, features)
    match layer:
        case nn.GroupNorm():
            mixes = layer.num_groups < layer.num_channels
            if mixes:
                reason = f"{node.target}: norm over {layer.num_groups} groups"
                f.variables.require_multiple(x.channels, layer.num_groups, reason)
        case nn.LayerNorm():
            mixes = True
            _positions(f, x, layer.normalized_shape[-1])
            plain = type(layer) is nn.LayerNorm
            if len(layer.normalized_shape) != 1 or (plain and x.axis != len(x.shape) - 1):
                raise Refusal("only a norm over the channels can be followed")
        case nn.PReLU():
            learnt = f.scalar() if layer.num_parameters == 1 else x.channels
        case _:
            pass
    return f.emit(
        node,
        "activation" if isinstance(layer, nn.PReLU) else "norm",
        x,
        [x],
        module=str(node.target),
        learnt=learnt,
        mixes=mixes,
        repeated=before is not None,
    )
