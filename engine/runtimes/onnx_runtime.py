"""ONNX Runtime on the CPU; its profile of nodes gives the time of every op."""

import io
import json
import re
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.bench import REWARM, Reading, Subject, stopwatch
from engine.errors import UserError, first_line
from engine.export_formats import OPSET, require_tools
from engine.recipe import Device

_NODE = re.compile(r"(?:^|[ _])/(\w+)/")
"""The op in the name that a node has in ONNX Runtime: ``/layer1_0_conv1/Conv``."""
_EVENT = "_kernel_time"
_HEADS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def onnx_runtime(module: fx.GraphModule, images: Tensor, device: Device) -> Subject:
    """Returns ``module`` as ONNX Runtime runs it; see `engine.runtimes.Runtime`.

    Raises:
        UserError: it cannot be written as ONNX.
    """
    require_tools()
    return _OnnxSubject(module, images, device)


class _OnnxSubject:
    def __init__(self, module: fx.GraphModule, images: Tensor, device: Device) -> None:
        self._graph = module.graph
        self._heads = {
            node.name
            for node in module.graph.nodes
            if node.op == "call_module"
            and isinstance(module.get_submodule(str(node.target)), _HEADS)
        }
        self._model = _exported(module, images)
        self._images = {"images": images.numpy()}
        self._threads = device.threads
        self._watch = stopwatch("cpu", device.threads)
        self._session = self._make_session()

    def warm(self, forwards: int) -> None:
        for _ in range(forwards):
            self._session.run(None, self._images)

    def read(self, calls: int, layers: bool) -> Reading:
        for _ in range(calls):
            self._watch.begin()
            self._session.run(None, self._images)
            self._watch.mark()
        gaps = self._watch.take()
        return Reading(
            counted_ms=tuple(gaps.counted),
            cpu_ms=tuple(gaps.cpu),
            wall_ms=tuple(gaps.wall),
            layer_ms=self._read_layers(calls) if layers else {},
        )

    def _read_layers(self, calls: int) -> dict[str, float]:
        """Times nodes in a session of its own, because profiling slows every call down.

        What ONNX Runtime made one node of several ops has the time at the first of them, and 0 at
        the others. What it inserts, to reorder data, belongs to none.
        """
        with tempfile.TemporaryDirectory() as directory:
            session = self._make_session(str(Path(directory, "profile")))
            for _ in range(REWARM + calls):
                session.run(None, self._images)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        times: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith(_EVENT):
                times[event["name"].removesuffix(_EVENT)].append(event["dur"] / 1e3)
        node_ms = {name: min(series[REWARM:]) for name, series in times.items()}
        return op_times(self._graph, self._heads, node_ms)

    def _make_session(self, profile: str | None = None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        return onnxruntime.InferenceSession(
            self._model, options, providers=["CPUExecutionProvider"]
        )


def op_times(
    graph: fx.Graph, heads: Collection[str], node_ms: Mapping[str, float]
) -> dict[str, float]:
    """Returns the time of every op of ``graph``, in ms, from those of ONNX Runtime's nodes.

    A fused node has the name of its last op. It belongs to the convolution or linear layer that
    leads there through ops that did not run, or else to the op whose name it has.

    Args:
        graph: of the network.
        heads: names of the convolutions and linear layers, which others are fused into.
        node_ms: by the node's name, ``/OP/…``.
    """
    ops = {node.name: node for node in graph.nodes if node.op.startswith("call")}
    ran: dict[str, float] = defaultdict(float)
    for name, ms in node_ms.items():
        match = _NODE.search(name)
        if match and match[1] in ops:
            ran[match[1]] += ms
    found = dict.fromkeys(ops, 0.0)
    for name, ms in ran.items():
        first = ops[name]
        while first.name not in heads and len(first.all_input_nodes) == 1:
            first = first.all_input_nodes[0]
            if first.name not in ops or first.name in ran or len(first.users) > 1:
                break
        head = first.name in heads and first.name not in ran
        found[first.name if head else name] += ms
    return found


def _exported(module: fx.GraphModule, images: Tensor) -> bytes:
    """The network as ONNX in which every node is called after its op.

    By PyTorch's exporter of before, which takes 0.4 s for a ResNet-18 where the new one takes 9 s
    and which folds batch norm into convolutions.
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _named(module),
                (images,),
                buffer,  # pyright: ignore[reportArgumentType]
                input_names=["images"],
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:
        why = first_line(error)
        raise UserError(
            f"the network cannot be written for ONNX Runtime: {why}; set device.runtime to eager"
        ) from error
    return buffer.getvalue()


class _Function(nn.Module):
    """A function as a layer, so that the exporter calls its nodes after it."""

    def __init__(self, target: Any) -> None:
        """Args: ``target`` is a function or the name of a method."""
        super().__init__()
        self._target = target

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._target, str):
            return getattr(args[0], self._target)(*args[1:], **kwargs)
        return self._target(*args, **kwargs)


class _Wrapper(nn.Module):
    """A layer under a name of its own for every call."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.forward(*args, **kwargs)


def _named(module: fx.GraphModule) -> fx.GraphModule:
    """The network with one layer for every op, which has the op's name."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    layers: dict[str, Any] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value: Any = module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            layers[node.name], node.target = value, node.name
        elif node.op == "call_module":
            layers[node.name] = _Wrapper(module.get_submodule(str(node.target)))
            node.target = node.name
        elif node.op in ("call_function", "call_method"):
            with graph.inserting_before(node):
                called = graph.create_node(
                    "call_module", node.name, node.args, node.kwargs, name=f"{node.name}_"
                )
            layers[node.name] = _Function(node.target)
            node.replace_all_uses_with(called)
            graph.erase_node(node)
    root = nn.Module()
    for name, layer in layers.items():
        if isinstance(layer, nn.Module):
            root.add_module(name, layer)
        elif isinstance(layer, nn.Parameter):
            root.register_parameter(name, layer)
        else:
            root.register_buffer(name, layer)
    return fx.GraphModule(root, graph).eval()
