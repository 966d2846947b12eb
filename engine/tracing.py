"""From an ``nn.Module`` to ops with symbolic channel axes, by torch.fx."""

import copy
import inspect
import keyword
import operator
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from engine.assertions import AssertingTracer
from engine.channels import Channels, ChannelVariables, Refusal
from engine.errors import UserError, first_line
from engine.following import Following
from engine.functions import function_name, function_value
from engine.layers import CHANNEL_LAYERS, is_known, layer_value, passes
from engine.layout import Value
from engine.ops import Op
from engine.shapes import BaseRun, NodeFailed, first_tensor, place

_DROPOUTS: dict[Any, Callable[[float], nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout2d: nn.Dropout2d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.dropout: nn.Dropout,
}

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A network as ops.

    Attributes:
        root: the traced module on the meta device, every leaf module at its own width.
        ops: in execution order.
        variables: the channel variables that the ops' axes refer to.
        parameters: of those used outside of a layer, by name: the channels and where they lie.
        positions: of every linear layer whose number of features depends on the resolution, the
            height × width that it was written for.
        unused: layers that the network has but does not call in evaluation mode.
    """

    root: fx.GraphModule
    ops: tuple[Op, ...]
    variables: ChannelVariables
    parameters: dict[str, tuple[Channels, int | None]]
    positions: dict[str, int]
    unused: tuple[str, ...]


class _Tracer(AssertingTracer):
    """Takes layers of torch.nn as they are, also subclasses and what only acts in training."""

    proxy_buffer_attributes = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # Found beforehand: what is called while tracing is recorded.
        self._leaves = {
            id(m) for m in module.modules() if isinstance(m, CHANNEL_LAYERS) or passes(m)
        }

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self._leaves or super().is_leaf_module(m, module_qualified_name)


def trace(
    module: nn.Module, channels: int, resolution: int, name: str, pool: int | None = None
) -> Traced:
    """Traces ``module`` in evaluation mode and follows its channel axes.

    Args:
        module: takes images N×``channels``×H×W and returns one tensor.
        channels: of the images.
        resolution: side of the images it is looked at with.
        name: how messages call it.
        pool: average features to this height and width before they are flattened, where these
            depend on the resolution.

    Raises:
        UserError: control flow that depends on data, or an op or coupling that cannot be followed;
            the message names the node.
    """
    root = _symbolic(module.eval(), name)
    _keep_single_images(root, channels, resolution)
    followed = _follow(root, channels, resolution, name)
    if pool is not None:
        for node in followed.flattens:
            features = node.all_input_nodes[0]
            layer = _inserted(root, node, "pool", features, nn.AdaptiveAvgPool2d(pool))
            node.replace_input_with(features, layer)
        root.recompile()
        followed = _follow(root, channels, resolution, name)
    called = {str(node.target) for node in root.graph.nodes if node.op == "call_module"}
    used = {*called, *(path.rpartition(".")[0] for path in followed.parameters)}
    unused = (
        path
        for path, layer in module.named_modules()
        if path not in used and any(True for _ in layer.parameters(recurse=False))
    )
    return Traced(
        root=root,
        ops=tuple(followed.ops),
        variables=followed.variables,
        parameters=followed.parameters,
        positions=followed.positions,
        unused=tuple(unused),
    )


def _symbolic(module: nn.Module, name: str) -> fx.GraphModule:
    """Records the calls of ``module``; the result is on the meta device."""
    _check_parameters(module, name)
    inputs = list(inspect.signature(module.forward).parameters.values())
    required = [str(p) for p in inputs if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if len(required) != 1 or required[0].startswith("*"):
        raise UserError(
            f"model {name!r} must take one batch of images, not ({', '.join(required)})"
        )
    tracer = _Tracer(module)
    try:
        graph = tracer.trace(module, _defaults(module))
    except Exception as error:
        raise UserError(
            f"model {name!r}{_where(tracer, error)}: it cannot be traced: "
            f"{' '.join(str(error).split())}; torch.fx must be able to: no control flow on tensors "
            "or shapes"
        ) from error
    _erase_options(graph)
    _check_names(graph, name)
    _check_tensors(module, graph, name)
    try:
        root = _without_values(fx.GraphModule(module, graph))
    except Exception as error:  # of copy.deepcopy, from anywhere in the user's module
        raise UserError(
            f"model {name!r} cannot be copied ({first_line(error).partition('.')[0]}): keep "
            "tensors as parameters or buffers, and remove reparametrisations as "
            "torch.nn.utils.weight_norm"
        ) from error
    for node in list(root.graph.nodes):
        _normalise(root, node)
    root.recompile()
    return root


def _keep_single_images(root: fx.GraphModule, channels: int, resolution: int) -> None:
    """Names the axes of every squeeze of all that are 1 long, which takes that of the batch too."""
    bare = [
        node
        for node in root.graph.nodes
        if node.op in ("call_function", "call_method")
        and function_name(node) == "squeeze"
        and (len(node.args), len(node.kwargs)) == (1, 0)
    ]
    if not bare:
        return
    run = BaseRun(root)
    with suppress(NodeFailed), torch.no_grad():  # which is told where the network is followed
        run.values(channels, resolution)
    for node in bare:
        tensor = run.env.get(node.args[0])
        if isinstance(tensor, Tensor):
            axes = tuple(i for i, size in enumerate(tensor.shape) if i and size == 1)
            node.args = (node.args[0], axes)
    root.recompile()


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Values of the inputs beside the images."""
    _, *options = inspect.signature(module.forward).parameters.values()
    return {p.name: p.default for p in options if isinstance(p.default, _PLAIN)}


def called_by_mode(module: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Returns the functions, and their layers, that a network calls in one mode only.

    Those of training, which are left out, and those of evaluation, which trainings call too. None
    if it cannot be traced in training mode.
    """
    calls: list[Counter[str]] = []
    for training in (False, True):
        tracer = _Tracer(module.eval())
        try:
            graph = tracer.trace(module.train(training), _defaults(module))
        except Exception:  # control flow on tensors, for one
            return None
        calls.append(Counter(_calls(graph)))
    evaluation, training_mode = calls
    return tuple(training_mode - evaluation), tuple(evaluation - training_mode)


def _calls(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op in ("call_function", "call_method"):
            layer = next(reversed(node.meta.get("nn_module_stack", {})), "").partition("@")[0]
            yield f"{function_name(node)} in {layer}" if layer else function_name(node)


def _erase_options(graph: fx.Graph) -> None:
    """Erases inputs beside the images, and the checks that they are what was recorded.

    They were recorded with their defaults: nothing of what the network computes depends on them.
    """
    _, *options = graph.find_nodes(op="placeholder")
    for option in options:
        reached = [option]
        for node in graph.nodes:
            if any(before in reached for before in node.all_input_nodes):
                reached.append(node)
        if all(node.op != "output" for node in reached):
            for node in reversed(reached):
                graph.erase_node(node)


def _check_names(graph: fx.Graph, name: str) -> None:
    """Names that Python reserves cannot stand in the program that torch.fx writes."""
    for node in graph.nodes:
        path = str(node.target) if node.op in ("call_module", "get_attr") else ""
        reserved = next(filter(keyword.iskeyword, path.split(".")), None)
        if reserved is not None:
            raise UserError(
                f"model {name!r}, layer {path}: torch.fx cannot write a name that Python "
                f"reserves; call {reserved!r} otherwise, {reserved + '_'!r} for one"
            )


def _check_tensors(module: nn.Module, graph: fx.Graph, name: str) -> None:
    """A tensor that is a plain attribute would be lost where the network is built anew."""
    known = {path for path, _ in module.named_parameters(remove_duplicate=False)}
    known |= {path for path, _ in module.named_buffers(remove_duplicate=False)}
    for node in graph.find_nodes(op="get_attr"):
        path = str(node.target)
        if path not in known and not path.startswith("_tensor_constant"):
            owner, _, attribute = path.rpartition(".")
            raise UserError(
                f"model {name!r}{f', layer {owner}' if owner else ''}: {attribute} is a tensor but "
                "no parameter and no buffer; register it as a buffer"
            )


def _where(tracer: fx.Tracer, error: Exception) -> str:
    """The layer and the line of the user's code at which tracing ended."""
    layer = next(reversed(tracer.module_stack), "").partition("@")[0]
    torch_files = str(Path(torch.__file__).parent)
    ours = (__file__, inspect.getfile(AssertingTracer))
    lines = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(torch_files) and frame.filename not in ours
    ]
    return "".join(
        f", {where}" for where in (f"layer {layer}" if layer else "", *lines[-1:]) if where
    )


def _without_values(root: fx.GraphModule) -> fx.GraphModule:
    """A copy on the meta device; the layers of ``root`` are the user's own."""
    memo: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in root.buffers()}
    for parameter in root.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
    return copy.deepcopy(root, memo)


def _check_parameters(module: nn.Module, name: str) -> None:
    owners: dict[int, str] = {}
    for path, layer in module.named_modules():
        for parameter in layer.parameters(recurse=False):
            if is_lazy(parameter):
                raise UserError(f"model {name!r}, layer {path}: give a lazy layer its channels")
            owner = owners.setdefault(id(parameter), path)
            if owner != path:
                raise UserError(
                    f"model {name!r}, layer {path}: it shares a parameter with {owner}; call one "
                    "layer twice instead"
                )


def _normalise(root: fx.GraphModule, node: fx.Node) -> None:
    """Takes out of a node what would keep the network from training, or from other widths."""
    if node.target not in (*_DROPOUTS, F.layer_norm):
        return
    graph = root.graph
    given: dict[str, Any]
    if node.target is torch.dropout:
        given = {**dict(zip(("input", "p", "train"), node.args, strict=False)), **node.kwargs}
        given["training"] = given.pop("train")
    else:
        normalised = node.normalized_arguments(root, normalize_to_only_use_kwargs=True)
        assert normalised is not None
        given = dict(normalised.kwargs)
    dropout = _DROPOUTS.get(node.target)
    if dropout is None:
        if isinstance(given["normalized_shape"], fx.Node):
            return  # computed, from the shape of the input as a rule
        # The number of channels stands in the program; it also is what the input has.
        with graph.inserting_before(node):
            sizes = graph.call_function(getattr, (given["input"], "shape"))
            last = slice(-len(given["normalized_shape"]), None)
            shape = graph.call_function(operator.getitem, (sizes, last))
        node.args, node.kwargs = (), {**given, "normalized_shape": shape}
    elif given["training"] is False:
        # Evaluation mode was recorded as a constant: a training would not drop anything.
        layer = dropout(given["p"])
        node.replace_all_uses_with(_inserted(root, node, "layer", given["input"], layer))
        graph.erase_node(node)


def _inserted(
    root: fx.GraphModule, before: fx.Node, what: str, features: fx.Node, layer: nn.Module
) -> fx.Node:
    """Adds a layer that takes ``features``, and a call of it in front of a node."""
    path = f"{before.name}_{what}"
    while hasattr(root, path):  # the user's own
        path += "_"
    root.add_submodule(path, layer.eval())
    with root.graph.inserting_before(before):
        return root.graph.call_module(path, (features,))


def _follow(root: fx.GraphModule, channels: int, resolution: int, name: str) -> Following:
    try:
        with torch.no_grad():
            returned = BaseRun(root).values(channels, resolution)
    except NodeFailed as error:
        raise UserError(
            f"model {name!r} cannot take {channels}×{resolution}×{resolution} images: {error}; "
            "give images of another size or number of channels"
        ) from None
    f = Following(returned, _for_larger_images(root, channels, resolution))
    for node in root.graph.nodes:
        if node.op == "call_module" and not is_known(root.get_submodule(str(node.target))):
            kind = type(root.get_submodule(str(node.target))).__name__
            raise _refused(name, node, Refusal(f"layers of type {kind} are not known"))
    for node in root.graph.nodes:
        try:
            _follow_node(f, root, node, returned[node])
        except Refusal as error:
            raise _refused(name, node, error) from None
        except Exception as error:  # arguments in a form that is not known
            why = f"it cannot be followed in the form that it is called in ({error!r})"
            raise _refused(name, node, Refusal(why)) from error
    return f


def _for_larger_images(
    root: fx.GraphModule, channels: int, resolution: int
) -> Mapping[fx.Node, Any]:
    """What nodes return for images whose side is 8 times as long.

    So much that strides of the network do not hide the difference. One that cannot take them
    stops on the way.
    """
    run = BaseRun(root)
    with suppress(NodeFailed), torch.no_grad():
        run.values(channels, 8 * resolution)
    return run.env


def _refused(name: str, node: fx.Node, error: Refusal) -> UserError:
    return UserError(f"model {name!r}, {place(node)}: {error}")


def _follow_node(f: Following, root: fx.GraphModule, node: fx.Node, returned: object) -> None:
    tensor = first_tensor(returned)
    if node.op == "output":
        (result,) = node.args
        value = f.values.get(result) if isinstance(result, fx.Node) else None
        if not isinstance(value, Value):
            raise Refusal("the network must return one tensor")
        f.variables.fix(f.all_channels(value), "the network's output")
    elif tensor is None:
        return  # sizes and the like: what is made of them shows in the shapes of tensors
    elif node.op == "placeholder":
        axis = f.variables.new(tensor.shape[1])
        f.variables.fix(axis, "the network's input")
        f.values[node] = Value(-1, tuple(tensor.shape), axis)
    elif node.op == "get_attr":
        f.values[node] = _parameter(f, str(node.target), tensor)
    elif node.op == "call_module":
        f.values[node] = layer_value(f, node, root.get_submodule(str(node.target)))
    else:
        f.values[node] = function_value(f, node)


def _parameter(f: Following, name: str, tensor: Tensor) -> Value:
    """A parameter or buffer outside of a layer, such as the scale of a residual branch."""
    if name.startswith("_tensor_constant"):
        raise Refusal("a tensor is made while running; register it as a buffer")
    if name not in f.parameters:
        axes = [i for i, size in enumerate(tensor.shape) if size > 1]
        if len(axes) > 1:
            raise Refusal(
                f"it is used outside of a layer and has the shape {tuple(tensor.shape)}; only one "
                "axis, that of the channels, may be longer than 1"
            )
        channels = f.variables.new(tensor.numel()) if axes else f.scalar()
        f.parameters[name] = (channels, axes[0] if axes else None)
    channels, axis = f.parameters[name]
    learnt = (name,) if isinstance(tensor, nn.Parameter) else ()
    return Value(None, tuple(tensor.shape), channels, axis, learnt=learnt)
