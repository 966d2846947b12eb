"""Which channels functions of torch and methods of tensors read and write."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from engine.channels import Channels, Refusal
from engine.following import Following, Values
from engine.layout import Value, regrouped
from engine.ops import Kind


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ACTIVATIONS = _names(
    "abs celu clamp clamp_max clamp_min clip elu erf exp gelu hardshrink hardsigmoid hardswish "
    "hardtanh leaky_relu log log1p logsigmoid mish neg pow reciprocal relu relu6 rrelu rsqrt selu "
    "sigmoid silu softplus softshrink softsign sqrt square tanh tanhshrink threshold"
)
_MIXING = _names("local_response_norm log_softmax normalize softmax")
_IDENTITIES = _names(
    "alpha_dropout clone contiguous detach dropout dropout2d feature_alpha_dropout float half to "
    "type"
)
_SUMS = _names("add iadd isub sub subtract")
_PRODUCTS = _names("div divide imul itruediv maximum minimum mul multiply true_divide truediv")
_REDUCTIONS = _names("amax amin logsumexp max mean min norm sum")
_NORMS = _names("batch_norm group_norm instance_norm")


def function_value(f: Following, node: fx.Node) -> Values:
    """Follows a call of a function or method.

    Raises:
        Refusal: it is not known, or used in a way that cannot be followed.
    """
    name = function_name(node)
    if name == "getitem" and isinstance(node.args[0], fx.Node):
        source = f.values[node.args[0]]
        if isinstance(source, tuple):
            return source[f.argument(node, 1, "index")]
    if name in ("cat", "concat", "concatenate"):
        return _concatenate(f, node)
    x = f.first(node)
    if name in ("max", "min") and len(f.tensors(node)) > 1:
        name = {"max": "maximum", "min": "minimum"}[name]
    if name in _SUMS:
        return _elementwise(f, node, "add", "summed")
    if name in _PRODUCTS:
        return _elementwise(f, node, "mul", "multiplied")
    if name in _ACTIVATIONS:
        if len(f.tensors(node)) > 1:  # a learnt exponent or bound
            return _elementwise(f, node, "activation", "combined")
        return f.emit(node, "activation", x, [x])
    if name in _MIXING:
        return f.emit(node, "activation", x, [x], mixes=True)
    if name in _IDENTITIES:
        return f.emit(node, "reshape", x, [x])
    if name in _REDUCTIONS:
        return _reduce(f, node, x, name)
    if name in _HANDLERS:
        return _HANDLERS[name](f, node, x)
    if name in _NORMS:
        raise Refusal(f"{name} is called as a function; make it a layer of torch.nn")
    if name == "getattr":
        raise Refusal(f"the attribute {node.args[1]} of a tensor is not known")
    raise Refusal(f"the op {name} is not known")


def function_name(node: fx.Node) -> str:
    """The name of a function of PyTorch, or of a method, without the _ of one in place."""
    if isinstance(node.target, str):
        name = node.target
    else:
        name = getattr(node.target, "__name__", str(node.target))
        package = (getattr(node.target, "__module__", None) or "torch").partition(".")[0]
        if package not in ("torch", "_operator", "builtins"):
            name = f"{package}.{name}"
    return name.rstrip("_")


# Several tensors -----------------------------------------------------------------------------


def _elementwise(f: Following, node: fx.Node, kind: Kind, verb: str) -> Value:
    operands = f.tensors(node)
    shape = f.shape(node)
    carriers = [v for v in operands if v.axis is not None]
    if not carriers:
        return f.emit(node, kind, operands[0].shaped(shape), operands)
    # Shapes are aligned at their ends.
    axes = {len(v.shape) - v.axis for v in carriers if v.axis is not None}
    parts_axes = {len(v.shape) - v.parts_axis for v in carriers if v.parts_axis is not None}
    if len(axes) != 1 or len(parts_axes) > 1:
        raise Refusal("the channels of its operands lie on different axes")
    widest = max(carriers, key=lambda v: (f.variables.width(v.channels), v.parts))
    for other in carriers:
        if f.variables.width(other.channels) == 1 < f.variables.width(widest.channels):
            f.variables.fix(other.channels, f"one channel for all others at {node.name}")
        else:
            reason = f"{f.written_by(widest, other)}: {verb} at {node.name}"
            f.variables.equate(widest.channels, other.channels, reason)
    after = replace(
        widest,
        shape=shape,
        axis=len(shape) - axes.pop(),
        parts_axis=len(shape) - parts_axes.pop() if parts_axes else None,
    )
    return f.emit(node, kind, after, operands, cin=f.all_channels(widest))


def _concatenate(f: Following, node: fx.Node) -> Value:
    values = f.tensors(node)
    first = values[0]
    dim = _axis(f.argument(node, 1, "dim", 0), first)
    if dim == 0 or any(v.axis != first.axis or v.parts > 1 for v in values):
        raise Refusal("only tensors whose channels lie on the same axis can be joined")
    if dim == first.axis:
        channels = tuple(segment for v in values for segment in v.channels)
    else:
        channels = first.channels
        for other in values[1:]:
            reason = f"{f.written_by(first, other)}: joined at {node.name}"
            f.variables.equate(channels, other.channels, reason)
    return f.emit(node, "cat", first.shaped(f.shape(node), channels), values, cin=channels)


# Parts of one --------------------------------------------------------------------------------


def _chunk(f: Following, node: fx.Node, x: Value) -> Values:
    return _parts(f, node, x, _axis(f.argument(node, 2, "dim", 0), x), equal=True)


def _split(f: Following, node: fx.Node, x: Value) -> Values:
    size = f.literal(node, 1, "split_size", f.literal(node, 1, "split_size_or_sections"))
    computed = isinstance(size, fx.Node)
    return _parts(f, node, x, _axis(f.argument(node, 2, "dim", 0), x), equal=computed)


def _parts(f: Following, node: fx.Node, x: Value, dim: int, equal: bool) -> Values:
    """Several tensors along ``dim``; if not ``equal``, the program gives their channels."""
    shapes = f.several(node)
    if dim == 0 or x.parts > 1:
        raise Refusal("it mixes the images of a batch or parts of channels")
    if dim != x.axis:
        return tuple(x.shaped(shape) for shape in shapes)
    if equal:
        part = f.variables.equal_parts(
            x.channels, len(shapes), f"{len(shapes)} equal parts at {node.name}"
        )
        return tuple(x.shaped(shape, part) for shape in shapes)
    f.variables.fix(x.channels, f"split by number at {node.name}")
    values: list[Value] = []
    rest = x.channels
    for shape in shapes:
        part, rest = f.variables.split(rest, shape[dim])
        values.append(x.shaped(shape, part))
    return tuple(values)


def gate(f: Following, node: fx.Node, x: Value, dim: int) -> Value:
    """Follows a gated linear unit: one half times the sigmoid of the other."""
    channels = x.channels
    if _axis(dim, x) == x.axis:
        channels = f.variables.equal_parts(channels, 2, f"halves of the gate {node.name}")
    return f.emit(node, "activation", x.shaped(f.shape(node), channels), [x])


def _getitem(f: Following, node: fx.Node, x: Value) -> Value:
    index = f.literal(node, 1, "index")
    index = list(index) if isinstance(index, tuple | list) else [index]
    given = sum(i is not None and i is not Ellipsis for i in index)
    if Ellipsis not in index:
        index.append(Ellipsis)
    at = index.index(Ellipsis)
    index[at : at + 1] = [slice(None)] * (len(x.shape) - given)
    to: dict[int, int] = {}
    channels, before, after = x.channels, 0, 0
    for item in index:
        if item is None:
            after += 1
            continue
        if not isinstance(item, slice | int):
            raise Refusal("only an index of numbers and slices can be followed")
        if before == x.axis:
            channels = _picked(f, node, x, item)
        if isinstance(item, slice):
            to[before] = after
            after += 1
        before += 1
    return f.emit(node, "reshape", replace(x, channels=channels).moved(to, f.shape(node)), [x])


def _picked(f: Following, node: fx.Node, x: Value, item: slice | int) -> Channels:
    """The channels that an index picks. As many as a number in it counts off cannot change."""
    if item == slice(None):
        return x.channels
    width = f.variables.width(x.channels)
    if isinstance(item, int):
        item = slice(item, item + 1 or None)
    start, stop, step = f.concrete(item).indices(width)
    if x.parts > 1 or step != 1:
        raise Refusal("channels are picked in a way that cannot be followed")
    bounds = [b for b in (item.start, item.stop) if b is not None]
    if any(isinstance(b, fx.Node) for b in bounds):
        unit = math.gcd(width, start, stop)
        reason = f"{width // unit} equal parts at {node.name}"
        part = f.variables.equal_parts(x.channels, width // unit, reason)
        return part * ((stop - start) // unit)
    for bound in bounds:
        head, tail = f.variables.split(x.channels, slice(bound).indices(width)[1])
        f.variables.fix(head if bound >= 0 else tail, f"picked by number at {node.name}")
    return f.variables.split(f.variables.split(x.channels, stop)[0], start)[1]


# Shapes --------------------------------------------------------------------------------------


def view(f: Following, node: fx.Node, x: Value, constants: Sequence[int]) -> Value:
    """Follows a change of shape; ``constants`` are the axes whose size the program gives."""
    after = regrouped(x, f.shape(node), constants, f.variables)
    if after.axis is not None and x.space and not after.space:
        if f.is_sized(x):
            positions = math.prod(x.shape[i] for i in x.space)
            after = replace(after, channels=f.variables.repeated(after.channels, positions))
        else:
            f.flattens.append(node)
    shuffles = x.swapped and after.parts < x.parts
    return f.emit(node, "reshape", after, [x], mixes=shuffles)


def _reshape(f: Following, node: fx.Node, x: Value) -> Value:
    sizes = _spread(f, node, "shape")
    return view(f, node, x, [i for i, s in enumerate(sizes) if isinstance(s, int) and s > 0])


def _flatten(f: Following, node: fx.Node, x: Value) -> Value:
    return view(f, node, x, ())


def _unsqueeze(f: Following, node: fx.Node, x: Value) -> Value:
    at = f.argument(node, 1, "dim") % (len(x.shape) + 1)
    to = {i: i + (i >= at) for i in range(len(x.shape))}
    shape = f.shape(node)
    after = x.moved(to, shape)
    if x.axis is None:  # an axis for the single channel that was picked
        after = replace(after, axis=at)
    return f.emit(node, "reshape", after, [x])


def _expand(f: Following, node: fx.Node, x: Value) -> Value:
    shape = f.shape(node)
    if x.axis is None or len(shape) != len(x.shape) or shape[x.axis] != x.shape[x.axis]:
        raise Refusal("an expansion of the channels; multiply or add instead, which expands too")
    if function_name(node) == "expand" and not f.variables.is_fixed(x.channels):
        size = _spread(f, node, "size")
        if len(size) > 1 and isinstance(size[x.axis], int) and size[x.axis] > 0:
            raise Refusal(f"the constant {size[x.axis]} fixes the number of channels; write -1")
    return f.emit(node, "reshape", x.shaped(shape), [x])


def _permute(f: Following, node: fx.Node, x: Value) -> Value:
    order = [_axis(d, x) for d in f.concrete(_spread(f, node, "dims"))]
    return _reordered(f, node, x, order)


def _transpose(f: Following, node: fx.Node, x: Value) -> Value:
    order = list(range(len(x.shape)))
    one, other = (_axis(f.argument(node, 1 + i, f"dim{i}"), x) for i in range(2))
    order[one], order[other] = other, one
    return _reordered(f, node, x, order)


def _reordered(f: Following, node: fx.Node, x: Value, order: Sequence[int]) -> Value:
    to = {old: new for new, old in enumerate(order)}
    return f.emit(node, "reshape", x.moved(to, f.shape(node)), [x])


def _pad(f: Following, node: fx.Node, x: Value) -> Value:
    pads = f.literal(node, 1, "pad")
    channels = x.channels
    place = None if x.axis is None else 2 * (len(x.shape) - 1 - x.axis)
    if place is not None and place < len(pads) and any(pads[place : place + 2]):
        before, behind = pads[place : place + 2]
        if not (isinstance(before, int) and isinstance(behind, int)) or min(before, behind) < 0:
            raise Refusal("channels can only be padded by numbers")
        empty = [f.variables.new(n) if n else () for n in (before, behind)]
        for axis in empty:
            f.variables.fix(axis, f"zeros of {node.name}")
        channels = (*empty[0], *channels, *empty[1])
    return f.emit(node, "reshape", x.shaped(f.shape(node), channels), [x])


# Height and width ----------------------------------------------------------------------------


def pool(f: Following, node: fx.Node, x: Value, kernel: Any, stride: Any) -> Value:
    """Follows a pooling with a window; no stride is one of the size of the kernel."""
    check_image(x)
    stride = kernel if stride is None or stride == [] else stride
    after = x.shaped(f.shape(node))
    if f.makes_sized(node.name) and not f.is_sized(x) and after.shape[2:] == (1, 1):
        return f.emit(node, "global_pool", after, [x])  # its window is as large as the image
    return f.emit(node, "pool", after, [x], kernel=pair(kernel), stride=pair(stride))


def adaptive_pool(f: Following, node: fx.Node, x: Value, size: Any) -> Value:
    """Follows a pooling to a given height and width; None keeps one of them."""
    check_image(x)
    kind = "global_pool" if pair(size) == (1, 1) else "pool"
    return f.emit(node, kind, x.shaped(f.shape(node)), [x])


def resize(f: Following, node: fx.Node, x: Value) -> Value:
    """Follows an interpolation."""
    check_image(x)
    return f.emit(node, "resize", x.shaped(f.shape(node)), [x])


def _pool(f: Following, node: fx.Node, x: Value) -> Value:
    return pool(f, node, x, f.argument(node, 1, "kernel_size"), f.argument(node, 2, "stride"))


def _adaptive_pool(f: Following, node: fx.Node, x: Value) -> Value:
    return adaptive_pool(f, node, x, f.argument(node, 1, "output_size"))


def _reduce(f: Following, node: fx.Node, x: Value, name: str) -> Values:
    dims = f.argument(node, 2 if name == "norm" else 1, "dim")
    if x.op is None:
        raise Refusal(f"{name} of a parameter cannot be followed; make it of the images' features")
    if not isinstance(dims, int | list | tuple) or dims == []:
        raise Refusal(f"{name} over anything but given axes cannot be followed")
    gone = {_axis(d, x) for d in ([dims] if isinstance(dims, int) else dims)}
    if 0 in gone:
        raise Refusal("it mixes the images of a batch")
    shape, after = f.shape(node), x
    if x.axis in gone:
        after = replace(x, channels=f.scalar(), parts=1, parts_axis=None, parts_last=False)
    elif x.parts_axis in gone:  # the parts become one
        after = replace(x, parts=1, parts_axis=None, parts_last=False)
    kept = [i for i in range(len(x.shape)) if i not in gone or len(shape) == len(x.shape)]
    after = after.moved({old: new for new, old in enumerate(kept)}, shape)
    everywhere = set(x.space) <= gone
    kind = "global_pool" if everywhere and x.axis not in gone else "pool"
    value = f.emit(node, kind, after, [x], mixes=x.axis in gone)
    return (value, value) if f.several(node) else value


# Channels ------------------------------------------------------------------------------------


def pixel_shuffle(f: Following, node: fx.Node, x: Value, factor: int) -> Value:
    """Follows a rearrangement of factor² channels into one that is as much larger."""
    check_image(x)
    reason = f"{node.name}: {factor**2} channels make one"
    channels = f.variables.divided(x.channels, factor**2, reason)
    return f.emit(node, "reshape", x.shaped(f.shape(node), channels), [x])


def pixel_unshuffle(f: Following, node: fx.Node, x: Value, factor: int) -> Value:
    """Follows the opposite of `pixel_shuffle`."""
    check_image(x)
    channels = f.variables.repeated(x.channels, factor**2)
    return f.emit(node, "reshape", x.shaped(f.shape(node), channels), [x])


def channel_shuffle(f: Following, node: fx.Node, x: Value, groups: int) -> Value:
    """Follows a transposition of groups with their channels; the groups become equal."""
    check_image(x)
    reason = f"{groups} equal parts at {node.name}"
    part = f.variables.equal_parts(x.channels, groups, reason)
    return f.emit(node, "reshape", x.shaped(f.shape(node), part * groups), [x], mixes=True)


def _glu(f: Following, node: fx.Node, x: Value) -> Value:
    return gate(f, node, x, f.argument(node, 1, "dim", -1))


def _pixel_shuffle(f: Following, node: fx.Node, x: Value) -> Value:
    return pixel_shuffle(f, node, x, f.argument(node, 1, "upscale_factor"))


def _pixel_unshuffle(f: Following, node: fx.Node, x: Value) -> Value:
    return pixel_unshuffle(f, node, x, f.argument(node, 1, "downscale_factor"))


def _channel_shuffle(f: Following, node: fx.Node, x: Value) -> Value:
    return channel_shuffle(f, node, x, f.argument(node, 1, "groups"))


def _layer_norm(f: Following, node: fx.Node, x: Value) -> Value:
    if len(f.argument(node, 1, "normalized_shape")) != 1 or x.axis != len(x.shape) - 1:
        raise Refusal("only a norm over the channels can be followed")
    inputs = f.tensors(node)
    for parameter in inputs[1:]:
        f.variables.equate(x.channels, parameter.channels, f"parameters of {node.name}")
    return f.emit(node, "norm", x, inputs, mixes=True)


_Handler = Callable[[Following, fx.Node, Value], Values]
_HANDLERS: dict[str, _Handler] = {
    "adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    "avg_pool2d": _pool,
    "channel_shuffle": _channel_shuffle,
    "chunk": _chunk,
    "expand": _expand,
    "expand_as": _expand,
    "flatten": _flatten,
    "getitem": _getitem,
    "glu": _glu,
    "interpolate": resize,
    "layer_norm": _layer_norm,
    "max_pool2d": _pool,
    "pad": _pad,
    "permute": _permute,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "reshape": _reshape,
    "split": _split,
    "squeeze": _flatten,
    "swapaxes": _transpose,
    "swapdims": _transpose,
    "transpose": _transpose,
    "unsqueeze": _unsqueeze,
    "upsample": resize,
    "view": _reshape,
}


# Help ----------------------------------------------------------------------------------------


def check_image(x: Value) -> None:
    """Raises a Refusal if ``x`` is not N×C×H×W."""
    if len(x.shape) != 4 or x.axis != 1 or x.op is None:
        raise Refusal("it needs images N×C×H×W")


def pair(value: Any) -> tuple[Any, Any]:
    """A size along both axes, given once or twice."""
    return (value, value) if value is None or isinstance(value, int) else (value[0], value[-1])


def _axis(dim: int, x: Value) -> int:
    return dim % len(x.shape)


def _spread(f: Following, node: fx.Node, name: str) -> Sequence[Any]:
    """Sizes or axes given one by one or in a sequence, as they stand in the program."""
    given = node.args[1:] if len(node.args) > 1 else (f.literal(node, 1, name),)
    return given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given  # pyright: ignore[reportReturnType]
