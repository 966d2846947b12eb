"""A network as one file of plain PyTorch that people can read: ``model.py`` of an export."""

import builtins
import inspect
import keyword
import math
import operator
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from string import Template
from types import EllipsisType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from engine.assertions import AssertingTracer
from engine.errors import UserError
from engine.layers import passes

_INDENT = " " * 4

_INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
_NAMESPACES = (("F.", F), ("torch.", torch), ("operator.", operator), ("", builtins))

_PER_AXIS = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")
"""Arguments of layers that may be given once for all axes."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls the types of tensors."""

_BLOCK = '''
class Block(nn.Module):
    """Layers, parameters and buffers under their names; the network's forward uses them."""

    def __init__(self, /, **members: nn.Module | torch.Tensor) -> None:
        super().__init__()
        for name, member in members.items():
            if isinstance(member, nn.Module | nn.Parameter):
                setattr(self, name, member)
            else:
                self.register_buffer(name, member)

'''

_FILE = Template('''\
"""A network scaled by hacscale. It needs PyTorch and nothing else.

    network = load("weights.safetensors")
    logits = network(prepare(images))  # images: uint8, N×$channels×H×W
"""

import json$operator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

RESOLUTION = $resolution
STORED = $stored  # side at which the images of the training were kept
MEAN = $mean
STD = $std

_DTYPES = {$dtypes}

$block
class Network(nn.Module):
    """The network in evaluation mode; training it further works too, without stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
$members

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits, N×$classes, for a batch that `prepare` has made."""
$statements


def build() -> nn.Module:
    """Returns the network without its trained weights."""
    return Network()


def load(path: str | Path) -> nn.Module:
    """Returns the trained network in evaluation mode; ``path`` is a safetensors file.

    Such a file is the length of its header, the header in JSON, and the bytes of the tensors.
    """
    data = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    weights = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        dtype = _DTYPES[entry["dtype"]]
        weights[name] = torch.frombuffer(data[begin:end], dtype=dtype).reshape(entry["shape"])
    network = build()
    network.load_state_dict(weights)
    return network.eval()


def prepare(images: torch.Tensor) -> torch.Tensor:
    """Turns uint8 images, N×$channels×H×W, into the network's input as its training did.

    That is the largest centred square, resized and normalised.
    """
    if images.dtype != torch.uint8 or images.shape[-3] != $channels:
        found = f"{images.dtype} of {tuple(images.shape)}"
        raise ValueError(f"prepare takes uint8 images, N×$channels×H×W, not {found}")
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = images[..., top : top + side, left : left + side].float()
    if side != STORED:
        pixels = _resized(pixels, STORED).round()
    pixels = _resized(pixels / 255, RESOLUTION)
    mean, std = (torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (MEAN, STD))
    return (pixels - mean) / std


def _resized(pixels: torch.Tensor, side: int) -> torch.Tensor:
    if pixels.shape[-1] == side:
        return pixels
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
''')


class _PlainTracer(AssertingTracer):
    """Looks into every layer that is not one of torch.nn."""

    proxy_buffer_attributes = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Found beforehand: what is called while tracing is recorded.
        self._passing = {id(layer) for layer in network.modules() if passes(layer)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or id(m) in self._passing


def plain_network(network: fx.GraphModule) -> fx.GraphModule:
    """Returns ``network``, in evaluation mode, made of layers of torch.nn alone.

    Layers of other packages are taken apart into what they do. One that returns its input in
    evaluation mode, such as stochastic depth, becomes the identity. Assertions are left out, and
    arguments that only they use. The result shares its weights with ``network`` and keeps their
    names.

    Raises:
        UserError: a layer's control flow depends on tensors.
    """
    network = network.eval()
    try:
        with _any_shape():
            graph = _PlainTracer(network).trace(network)
    except Exception as error:
        raise UserError(
            f"a layer of the network cannot be taken apart for model.py: "
            f"{' '.join(str(error).split())}; use layers of torch.nn in its place"
        ) from error
    _drop_assertions(graph)
    plain = fx.GraphModule(network, graph)
    for path, layer in list(plain.named_modules()):
        if path and not type(layer).__module__.startswith("torch.nn") and passes(layer):
            plain.set_submodule(path, nn.Identity())
    return plain.eval()


@contextmanager
def _any_shape() -> Generator[None]:
    """Batch norms ask for the shape of what a class of the user's own passes on to them."""

    def passes(norm: nn.Module, input: Tensor) -> None:
        """Any shape will do."""

    with (
        patch.object(nn.BatchNorm1d, "_check_input_dim", passes),
        patch.object(nn.BatchNorm2d, "_check_input_dim", passes),
    ):
        yield


def _drop_assertions(graph: fx.Graph) -> None:
    unused: set[fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        asserts = getattr(node.target, "__name__", "") in ("_assert", "_assert_is_none")
        if not node.users and (asserts or node in unused or node.op == "placeholder"):
            unused.update(node.all_input_nodes)
            graph.erase_node(node)


def why_not_plain(network: fx.GraphModule, classes: int, channels: int) -> str:
    """Returns why a network, also one without values, cannot be written as plain PyTorch; or ""."""
    try:
        plain = plain_network(network)
        bare_source(plain, classes=classes, channels=channels, resolution=1)
    except UserError as error:
        return str(error)
    return ""


def bare_source(network: fx.GraphModule, *, classes: int, channels: int, resolution: int) -> str:
    """Writes a `plain_network` for images that are prepared already.

    Raises:
        UserError: as in `model_source`.
    """
    return model_source(
        network,
        classes=classes,
        channels=channels,
        resolution=resolution,
        stored=resolution,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


def all_weights(network: nn.Module) -> dict[str, Tensor]:
    """Returns the ``state_dict`` and those buffers that are no part of it but of the network."""
    return {**network.state_dict(), **dict(network.named_buffers())}


def model_source(
    network: fx.GraphModule,
    *,
    classes: int,
    channels: int,
    resolution: int,
    stored: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> str:
    """Writes ``network`` as a Python file that needs nothing but PyTorch.

    The file has ``build()``, ``load(path)`` and ``prepare(images)``; ``build().state_dict()`` has
    the names of `all_weights`. Runs of layers that are the whole of a sequence become one call.

    Args:
        network: made by `plain_network`.
        classes: number of logits.
        channels: of the images.
        resolution: side of the network's input, in pixels.
        stored: side at which the images of the training were kept.
        mean, std: of each channel, for pixels in [0, 1].

    Raises:
        UserError: a layer, function or argument has no name in PyTorch.
    """
    layout = _Layout(network)
    members = "\n".join(layout.members())
    statements = "\n".join(_statements(layout, _joined(layout)))
    used = {tensor.dtype for tensor in all_weights(network).values()}
    return _FILE.substitute(
        classes=classes,
        channels=channels,
        resolution=resolution,
        stored=stored,
        mean=tuple(mean),
        std=tuple(std),
        dtypes=", ".join(f'"{name}": {dtype}' for dtype, name in _DTYPES.items() if dtype in used),
        operator="\nimport operator" if "operator." in statements else "",
        block=_BLOCK if "Block(" in members else "",
        members=members,
        statements=statements,
    )


class _Layout:
    """How the layers of a network are nested: what is a layer, a sequence, or a block."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.network = network
        self._modules = dict(network.named_modules())
        self._layers = {n.target for n in network.graph.nodes if n.op == "call_module"}

    def sequence(self, path: str) -> list[str]:
        """Paths of the members of an ``nn.Sequential``, [] if ``path`` is none.

        Where the network does not use a member there is nothing at its path.
        """
        module = self._modules[path]
        names = [name for name, _ in module.named_children()]
        numbered = all(name.isdecimal() and str(int(name)) == name for name in names)
        if not path or not names or not numbered or path in self._layers or _tensors(module):
            return []
        return [f"{path}.{i}" for i in range(1 + max(map(int, names)))]

    def sequences(self) -> list[str]:
        """Paths of all sequences, inner ones first."""
        return sorted(filter(self.sequence, self._modules), key=lambda path: -path.count("."))

    def members(self) -> Iterable[str]:
        """Statements that make everything in the network."""
        for name, tensor in _tensors(self.network).items():
            made = _tensor(tensor)
            if isinstance(tensor, nn.Parameter):
                yield f"{_INDENT * 2}self.{name} = {made}"
            else:
                yield f"{_INDENT * 2}self.register_buffer({name!r}, {made})"
        for name, _ in self.network.named_children():
            made = self._definition(name, 2)
            if _is_name(name):
                yield f"{_INDENT * 2}self.{name} = {made}"
            else:
                yield f"{_INDENT * 2}self.add_module({name!r}, {made})"

    def _definition(self, path: str, depth: int) -> str:
        if path not in self._modules:
            return "nn.Identity()"
        module = self._modules[path]
        if path in self._layers:
            return layer_call(path, module)
        sequence = self.sequence(path)
        if sequence:
            return _call(
                "nn.Sequential(", [self._definition(p, depth + 1) for p in sequence], depth
            )
        made = {name: _tensor(tensor) for name, tensor in _tensors(module).items()}
        for name, _ in module.named_children():
            made[name] = self._definition(f"{path}.{name}", depth + 1)
        if all(map(_is_name, made)):
            return _call("Block(", [f"{name}={value}" for name, value in made.items()], depth)
        items = [f"{name!r}: {value}" for name, value in made.items()]
        return _call("Block(**{", items, depth, close="})")

    def reach(self, path: str) -> str:
        """The expression for the layer or tensor at ``path``."""
        expression, above = "self", ""
        for name in path.split("."):
            if self.sequence(above):
                expression += f"[{name}]"
            elif _is_name(name):
                expression += f".{name}"
            else:
                expression = f"getattr({expression}, {name!r})"
            above = f"{above}.{name}".lstrip(".")
        return expression


def _call(opened: str, arguments: Iterable[str], depth: int, close: str = ")") -> str:
    """A call with one argument on each line."""
    lines = "".join(f"{_INDENT * (depth + 1)}{argument},\n" for argument in arguments)
    return f"{opened}\n{lines}{_INDENT * depth}{close}"


def _is_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def _tensors(module: nn.Module) -> Mapping[str, Tensor]:
    return {
        **dict(module.named_parameters(recurse=False)),
        **dict(module.named_buffers(recurse=False)),
    }


def _tensor(tensor: Tensor) -> str:
    """Makes zeros like ``tensor``: their values come with the weights."""
    dtype = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    zeros = f"torch.zeros({tuple(tensor.shape)}{dtype})"
    return f"nn.Parameter({zeros})" if isinstance(tensor, nn.Parameter) else zeros


def layer_call(path: str, layer: nn.Module) -> str:
    """Returns the call that makes a layer, without the arguments that have their default.

    Raises:
        UserError: it is no layer of torch.nn, or an argument cannot be written.
    """
    kind = type(layer)
    if getattr(nn, kind.__name__, None) is not kind:
        raise UserError(f"layer {path}: {kind.__module__}.{kind.__name__} is no layer of torch.nn")
    arguments: list[str] = []
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in ("device", "dtype") or not hasattr(layer, name):
            continue
        value = getattr(layer, name)
        if isinstance(value, Tensor) or (value is None and isinstance(parameter.default, bool)):
            value = value is not None  # such as a convolution's bias
        if name in _PER_AXIS and isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]
        if parameter.default is parameter.empty:
            arguments.append(literal(value, {}))
        elif value != parameter.default:
            arguments.append(f"{name}={literal(value, {})}")
    return f"nn.{kind.__name__}({', '.join(arguments)})"


# The forward ---------------------------------------------------------------------------------


def _joined(layout: _Layout) -> fx.Graph:
    """The network's graph with one call in place of those of all members of a sequence."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(layout.network.graph, {}))
    for path in layout.sequences():
        members = layout.sequence(path)
        for first in graph.find_nodes(op="call_module", target=members[0]):
            calls = _chain(first, members)
            if calls:
                with graph.inserting_before(first):
                    whole = graph.call_module(path, first.args)
                calls[-1].replace_all_uses_with(whole)
                for call in reversed(calls):
                    graph.erase_node(call)
    return graph


def _chain(first: fx.Node, members: Sequence[str]) -> list[fx.Node]:
    """The calls of ``members`` one right after another, [] if something comes between them."""
    calls = [first]
    for member in members[1:]:
        last, follower = calls[-1], calls[-1].next
        if follower.target != member or follower.args != (last,) or list(last.users) != [follower]:
            return []
        calls.append(follower)
    return calls


def _statements(layout: _Layout, graph: fx.Graph) -> Iterable[str]:
    """One line for each node. A variable is used again as soon as its value is not needed."""
    last_use = {source: node for node in graph.nodes for source in node.all_input_nodes}
    text: dict[fx.Node, str] = {}
    held: dict[fx.Node, int] = {}
    for node in graph.nodes:
        for source in [s for s in held if last_use[s] is node]:
            del held[source]
        if node.op == "output":
            line = f"return {text[node.args[0]]}"
        elif node.op == "get_attr":
            text[node] = layout.reach(node.target)
            continue
        else:
            line = _expression(layout, node, text)
            if node.users:
                held[node] = next(i for i in range(len(held) + 1) if i not in held.values())
                text[node] = f"x{held[node] or ''}"
                line = f"{text[node]} = {line}"
        if node.op != "placeholder":
            yield _INDENT * 2 + line


def _expression(layout: _Layout, node: fx.Node, text: Mapping[fx.Node, str]) -> str:
    if node.op == "placeholder":
        return ""
    values = [literal(value, text) for value in node.args]
    named = [f"{name}={literal(value, text)}" for name, value in node.kwargs.items()]
    listed = ", ".join([*values, *named])
    if node.op == "call_module":
        return f"{layout.reach(str(node.target))}({listed})"
    if node.op == "call_method":
        return f"{values[0]}.{node.target}({', '.join([*values[1:], *named])})"
    infix = _INFIX.get(node.target)  # pyright: ignore[reportArgumentType]
    if infix is not None:
        left, right = (f"({value})" if value.startswith("-") else value for value in values)
        return f"{left} {infix} {right}"
    if node.target is operator.getitem:
        return f"{values[0]}[{_index(node.args[1], text)}]"
    if node.target is getattr and len(values) == 2:
        return f"{values[0]}.{node.args[1]}"
    return f"{_function(node)}({listed})"


def _function(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", "")
    for prefix, namespace in _NAMESPACES:
        if getattr(namespace, name, None) is node.target:
            return prefix + name
    raise UserError(f"node {node.name}: the function {node.target} has no public name in PyTorch")


def _index(value: Any, text: Mapping[fx.Node, str]) -> str:
    if isinstance(value, tuple) and value:
        return ", ".join(_index(item, text) for item in value)
    if isinstance(value, slice):
        ends = ["" if end is None else literal(end, text) for end in (value.start, value.stop)]
        step = "" if value.step is None else f":{literal(value.step, text)}"
        return ":".join(ends) + step
    return literal(value, text)


def literal(value: Any, text: Mapping[fx.Node, str]) -> str:
    """Returns an argument as it is written in a program; ``text`` has the nodes' variables.

    Raises:
        UserError: it is of a type that has no notation.
    """
    match value:
        case fx.Node():
            return text[value]
        case list():
            return f"[{', '.join(literal(item, text) for item in value)}]"
        case tuple():
            items = ", ".join(literal(item, text) for item in value)
            return f"({items},)" if len(value) == 1 else f"({items})"
        case slice():
            return f"slice({literal((value.start, value.stop, value.step), text)[1:-1]})"
        case float() if not math.isfinite(value):
            return f'float("{value}")'
        case None | bool() | int() | float() | str():
            return repr(value)
        case EllipsisType():
            return "..."
        case torch.dtype() | torch.memory_format():
            return str(value)
        case torch.device():
            return repr(str(value))
        case _:
            raise UserError(
                f"an argument of type {type(value).__name__} cannot be written into model.py"
            )
