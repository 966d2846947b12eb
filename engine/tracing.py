"""From an ``nn.Module`` to ops with symbolic channel axes, by torch.fx."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from engine.channels import Channels, ChannelVariables, Mismatch
from engine.errors import UserError
from engine.ops import Op, Window

_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
)
_ACTIVATION_FUNCTIONS = {
    torch.relu,
    F.relu,
    F.relu6,
    F.leaky_relu,
    F.elu,
    F.gelu,
    F.silu,
    F.mish,
    F.hardswish,
    F.hardsigmoid,
    torch.sigmoid,
    F.sigmoid,
    torch.tanh,
    F.tanh,
    "relu",
    "relu_",
    "sigmoid",
    "tanh",
}
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d, StochasticDepth)
_IDENTITY_FUNCTIONS = {F.dropout, F.dropout2d, "contiguous", "clone"}
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor while tracing: which op made it, its channel axis, and whether it has H and W."""

    op: int
    channels: Channels
    spatial: bool


@dataclass(frozen=True, slots=True)
class Traced:
    """A network as ops.

    Attributes:
        root: the traced module on the meta device, every leaf module at its own width.
        ops: in execution order.
        output: index of the op that makes the network's output.
        variables: the channel variables that the ops' axes refer to.
        constants: value of every parameter whose elements were all equal at the start, by name.
    """

    root: fx.GraphModule
    ops: tuple[Op, ...]
    output: int
    variables: ChannelVariables
    constants: dict[str, float]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, StochasticDepth) or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module, channels: int, name: str) -> Traced:
    """Traces ``module`` and follows its channel axes.

    Args:
        module: takes images N×``channels``×H×W and returns one tensor.
        name: how messages call it.

    Raises:
        UserError: control flow that depends on data, or an op or coupling that cannot be followed;
            the message names the node.
    """
    module = module.eval()
    constants = {
        key: float(p.detach().flatten()[0])
        for key, p in module.named_parameters()
        if p.numel() and bool((p == p.flatten()[0]).all())
    }
    tracer = _Tracer()
    try:
        graph = tracer.trace(module)
    except Exception as error:
        raise UserError(
            f"model {name!r} cannot be traced: {' '.join(str(error).split())}; control flow that "
            "depends on tensor values must go"
        ) from error
    root = fx.GraphModule(module, graph).to("meta")
    follower = _Follower(root, channels, name)
    for node in graph.nodes:
        follower.follow(node)
    variables = follower.variables
    variables.fix(follower.outputs.channels)
    return Traced(root, tuple(follower.ops), follower.outputs.op, variables, constants)


class _Follower:
    """Walks the nodes in order and appends one `Op` for each that makes a tensor."""

    def __init__(self, root: fx.GraphModule, channels: int, name: str) -> None:
        self.root = root
        self.name = name
        self.variables = ChannelVariables()
        self.ops: list[Op] = []
        self.outputs: _Value
        self._input_channels = channels
        self._values: dict[fx.Node, Any] = {}
        self._called: set[str] = set()

    def follow(self, node: fx.Node) -> None:
        try:
            self._values[node] = self._value_of(node)
        except Mismatch as error:
            raise self._refusal(node, str(error)) from None

    def _value_of(self, node: fx.Node) -> Any:
        match node.op:
            case "placeholder":
                axis = self.variables.new(self._input_channels)
                self.variables.fix(axis)
                return _Value(-1, axis, spatial=True)
            case "output":
                value = (
                    self._values.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
                )
                if not isinstance(value, _Value):
                    raise self._refusal(node, "the network must return one tensor")
                self.outputs = value
                return None
            case "call_module":
                return self._call_module(node, str(node.target))
            case "call_function" | "call_method":
                return self._call_function(node)
            case _:
                raise self._refusal(node, "a parameter used outside of a layer cannot be followed")

    # Modules ---------------------------------------------------------------------------------

    def _call_module(self, node: fx.Node, path: str) -> _Value:
        module = self.root.get_submodule(path)
        x = self._tensor(node, 0)
        draft = Op(
            name=node.name,
            kind="reshape",
            module=path,
            inputs=(x.op,),
            cin=x.channels,
            cout=x.channels,
            repeated=path in self._called,
        )
        self._called.add(path)
        match module:
            case nn.Conv2d():
                return self._conv(node, module, draft, x)
            case nn.Linear():
                return self._linear(node, module, draft, x)
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                return self._emit(
                    replace(draft, kind="norm", affine=2 if module.affine else 0), x.spatial
                )
            case nn.MaxPool2d() | nn.AvgPool2d():
                return self._emit(replace(draft, kind="pool", window=_window(module)), x.spatial)
            case nn.AdaptiveAvgPool2d() | nn.AdaptiveMaxPool2d():
                return self._adaptive_pool(node, draft, module.output_size)
            case nn.Flatten():
                if (module.start_dim, module.end_dim) not in ((1, -1), (1, 3)):
                    raise self._refusal(node, "only Flatten(1) can be followed")
                return self._emit(replace(draft, flattens=x.spatial), spatial=False)
            case _ if isinstance(module, _ACTIVATIONS):
                return self._emit(replace(draft, kind="activation"), x.spatial)
            case _ if isinstance(module, _IDENTITIES):
                return self._emit(draft, x.spatial)
            case _:
                raise self._refusal(node, f"layers of type {type(module).__name__} are not known")

    def _conv(self, node: fx.Node, module: nn.Conv2d, draft: Op, x: _Value) -> _Value:
        if not x.spatial:
            raise self._refusal(node, "a convolution needs height and width")
        if isinstance(module.padding, str):
            raise self._refusal(node, f"padding={module.padding!r}: give it as numbers")
        window = _window(module)
        depthwise = module.groups > 1 and module.groups == module.in_channels
        if depthwise and module.out_channels % module.in_channels == 0:
            times = module.out_channels // module.in_channels
            cout = tuple(replace(s, times=s.times * times) for s in x.channels)
        else:
            depthwise = False
            cout = self._written(draft, module.out_channels)
            if module.groups > 1:
                reason = f"{draft.module}: {module.groups} groups"
                self.variables.require_multiple(x.channels, module.groups, reason)
                self.variables.require_multiple(cout, module.groups, reason)
        return self._emit(
            replace(
                draft,
                kind="conv",
                cout=cout,
                window=window,
                bias=module.bias is not None,
                groups=0 if depthwise else module.groups,
            )
        )

    def _linear(self, node: fx.Node, module: nn.Linear, draft: Op, x: _Value) -> _Value:
        if x.spatial:
            raise self._refusal(node, "a linear layer over height or width cannot be followed")
        cout = self._written(draft, module.out_features)
        op = replace(draft, kind="linear", cout=cout, bias=module.bias is not None)
        return self._emit(op, spatial=False)

    def _written(self, draft: Op, size: int) -> Channels:
        """The output axis of a layer with weights: the same for every call of the layer."""
        for op in self.ops:
            if op.module == draft.module:
                self.variables.equate(op.cin, draft.cin, f"{draft.module}: called more than once")
                return op.cout
        return self.variables.new(size)

    def _adaptive_pool(self, node: fx.Node, draft: Op, output_size: Any) -> _Value:
        size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        if None in size:
            raise self._refusal(node, "adaptive pooling to None cannot be followed")
        kind = "global_pool" if size == (1, 1) else "pool"
        return self._emit(replace(draft, kind=kind, pooled_to=size))

    # Functions and methods -------------------------------------------------------------------

    def _call_function(self, node: fx.Node) -> Any:
        target: Any = node.target
        operands = [self._values[a] for a in node.args if isinstance(a, fx.Node)]
        if target in ("size", "dim") or target is getattr or target is operator.getitem:
            return node  # sizes: they matter only where a reshape uses them
        if target in _ADDITIONS or target in _PRODUCTS:
            return self._elementwise(node, "add" if target in _ADDITIONS else "mul")
        if target in (torch.cat, torch.concat, torch.concatenate):
            return self._concatenate(node)
        if not operands or not isinstance(operands[0], _Value):
            raise self._refusal(node, f"{_label(target)} on something other than a tensor")
        x = operands[0]
        draft = Op(
            name=node.name,
            kind="reshape",
            module="",
            inputs=(x.op,),
            cin=x.channels,
            cout=x.channels,
        )
        if target in _ACTIVATION_FUNCTIONS:
            return self._emit(replace(draft, kind="activation"), x.spatial)
        if target in _IDENTITY_FUNCTIONS:
            return self._emit(draft, x.spatial)
        if target in (F.max_pool2d, torch.max_pool2d, F.avg_pool2d):
            return self._emit(replace(draft, kind="pool", window=_window_of_call(node)))
        if target in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d):
            return self._adaptive_pool(node, draft, _argument(node, 1, "output_size"))
        if target in (torch.mean, "mean"):
            return self._mean(node, draft)
        if target in (torch.flatten, "flatten"):
            if _argument(node, 1, "start_dim", 0) != 1 or _argument(node, 2, "end_dim", -1) != -1:
                raise self._refusal(node, "only flatten(1) can be followed")
            return self._emit(replace(draft, flattens=x.spatial), spatial=False)
        if target in ("view", "reshape", torch.reshape):
            return self._reshape(node, draft, x)
        raise self._refusal(node, f"the op {_label(target)} is not known")

    def _elementwise(self, node: fx.Node, kind: str) -> _Value:
        values = [self._values[a] for a in node.args if isinstance(a, fx.Node)]
        tensors = [v for v in values if isinstance(v, _Value)]
        if not tensors or len(tensors) != len(values):
            raise self._refusal(node, "a sum or product with something other than a tensor")
        first = tensors[0]
        for other in tensors[1:]:
            self.variables.equate(
                first.channels,
                other.channels,
                f"{'summed' if kind == 'add' else 'multiplied'} at {node.name}",
            )
        return self._emit(
            Op(
                name=node.name,
                kind="add" if kind == "add" else "mul",
                module="",
                inputs=tuple(v.op for v in tensors),
                cin=first.channels,
                cout=first.channels,
            ),
            first.spatial,
        )

    def _concatenate(self, node: fx.Node) -> _Value:
        parts = node.args[0]
        values = [self._values[p] for p in parts] if isinstance(parts, list | tuple) else []
        if not values or not all(isinstance(v, _Value) for v in values):
            raise self._refusal(node, "a concatenation of something other than tensors")
        if _argument(node, 1, "dim", 0) not in (1, -3):
            raise self._refusal(node, "only a concatenation of channels (dim=1) can be followed")
        axis = tuple(segment for v in values for segment in v.channels)
        return self._emit(
            Op(
                name=node.name,
                kind="cat",
                module="",
                inputs=tuple(v.op for v in values),
                cin=axis,
                cout=axis,
            ),
            values[0].spatial,
        )

    def _mean(self, node: fx.Node, draft: Op) -> _Value:
        dims = _argument(node, 1, "dim", ())
        dims = sorted(d % 4 for d in dims) if isinstance(dims, list | tuple) else []
        if dims != [2, 3]:
            raise self._refusal(node, "only a mean over height and width can be followed")
        keeps = bool(_argument(node, 2, "keepdim", False))
        return self._emit(replace(draft, kind="global_pool", pooled_to=(1, 1)), spatial=keeps)

    def _reshape(self, node: fx.Node, draft: Op, x: _Value) -> _Value:
        shape = node.args[1:]
        if len(shape) == 1 and isinstance(shape[0], list | tuple):
            shape = tuple(shape[0])
        if len(shape) == 2 and shape[1] == -1:
            return self._emit(replace(draft, flattens=x.spatial), spatial=False)
        constants = [s for s in shape if isinstance(s, int) and s > 1]
        if constants:
            raise self._refusal(
                node,
                f"the shape has the constant {constants[0]}, which fixes the number of "
                "channels; write flatten(1)",
            )
        raise self._refusal(node, f"{_label(node.target)} to this shape cannot be followed")

    # Help ------------------------------------------------------------------------------------

    def _emit(self, op: Op, spatial: bool = True) -> _Value:
        self.ops.append(op)
        return _Value(len(self.ops) - 1, op.cout, spatial)

    def _tensor(self, node: fx.Node, position: int) -> _Value:
        argument = node.args[position] if position < len(node.args) else None
        value = self._values.get(argument) if isinstance(argument, fx.Node) else None
        if not isinstance(value, _Value):
            raise self._refusal(node, "its input is no tensor that could be followed")
        return value

    def _refusal(self, node: fx.Node, why: str) -> UserError:
        where = f"layer {node.target}" if node.op == "call_module" else f"node {node.name}"
        return UserError(f"model {self.name!r}, {where}: {why}")


def _argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name, default)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _window(module: Any) -> Window:
    stride = module.stride if module.stride is not None else module.kernel_size
    return Window(
        kernel=_pair(module.kernel_size),
        stride=_pair(stride),
        padding=_pair(module.padding),
        dilation=_pair(getattr(module, "dilation", 1)),
        ceil_mode=bool(getattr(module, "ceil_mode", False)),
    )


def _window_of_call(node: fx.Node) -> Window:
    kernel = _pair(_argument(node, 1, "kernel_size"))
    stride = _argument(node, 2, "stride") or kernel
    # max_pool2d takes dilation before ceil_mode; avg_pool2d has no dilation.
    is_max = node.target is not F.avg_pool2d
    return Window(
        kernel=kernel,
        stride=_pair(stride),
        padding=_pair(_argument(node, 3, "padding", 0)),
        dilation=_pair(_argument(node, 4, "dilation", 1)) if is_max else (1, 1),
        ceil_mode=bool(_argument(node, 5 if is_max else 4, "ceil_mode", False)),
    )


def _label(target: str | Callable[..., Any]) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
