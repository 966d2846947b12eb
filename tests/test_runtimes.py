from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import fx

from engine.bench import WARM_UP, is_out_of_memory
from engine.errors import UserError
from engine.graph import NetworkGraph, load_graph
from engine.profile_key import ProfileKey
from engine.recipe import Device
from engine.runtimes import make_subject
from engine.runtimes.cuda_graph import cuda_graph
from engine.runtimes.onnx_runtime import op_times
from engine.spec import ModelRef


def network(name: str, width: float) -> tuple[NetworkGraph, fx.GraphModule, torch.Tensor]:
    graph = load_graph(ModelRef(name=name, classes=10), 32)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return graph, graph.build(graph.spec(32, width), seed=0).eval(), images


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_onnx_runtime_computes_the_network_and_times_its_ops(name: str):
    graph, module, images = network(name, 0.25)
    subject = make_subject(module, images, Device(runtime="onnxruntime"))
    with torch.inference_mode():
        found = subject._session.run(None, {"images": images.numpy()})[0]  # type: ignore[attr-defined]
        torch.testing.assert_close(torch.from_numpy(found), module(images), rtol=1e-3, atol=1e-4)
    reading = subject.read(3, True)
    layers = graph.cost(graph.spec(32, 0.25)).layers
    assert list(reading.layer_ms) == [layer.name for layer in layers]
    for layer in layers:
        # Batch norm is folded into the convolution before it; that one does work of its own.
        if layer.kind == "norm":
            assert reading.layer_ms[layer.name] == 0
        if layer.macs:
            assert reading.layer_ms[layer.name] > 0
    assert sum(reading.layer_ms.values()) > 0
    assert len(reading.counted_ms) == 3


def test_what_onnx_runtime_fused_belongs_to_the_first_op():
    """A chain conv → norm → relu, a second reader of relu, and their sum."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    first = graph.call_module("conv", (x,))
    norm = graph.call_module("norm", (first,))
    relu = graph.call_module("relu", (norm,))
    second = graph.call_module("conv2", (relu,))
    graph.output(graph.call_function(torch.add, (relu, second)))
    heads = {"conv", "conv2"}
    fused = {"/relu/Relu_output_0_nchwc": 2.0, "/conv2/Conv": 0.5, "ReorderOutput_token_3": 9.0}
    assert op_times(graph, heads, fused) == {
        "conv": 2.0, "norm": 0, "relu": 0, "conv2": 0.5, "add": 0
    }  # fmt: skip
    # A norm that was folded into its convolution, and a relu that ran by itself.
    folded = {"/conv/Conv": 2.0, "/relu/Relu": 1.0, "/add/Add": 0.25, "fused /conv2/Conv": 0.5}
    assert op_times(graph, heads, folded) == {
        "conv": 2.0, "norm": 0, "relu": 1.0, "conv2": 0.5, "add": 0.25
    }  # fmt: skip


def test_channels_last_reaches_weights_and_input():
    _, module, images = network("resnet18", 0.1)
    expected = module(images)
    subject = make_subject(module, images, Device(layout="channels_last"))
    seen: list[bool] = []
    module.get_submodule("layer1.0.conv1").register_forward_hook(
        lambda layer, args, out: seen.append(
            args[0].is_contiguous(memory_format=torch.channels_last)
            and layer.weight.is_contiguous(memory_format=torch.channels_last)
        )
    )
    subject.warm(1)
    assert seen == [True]
    torch.testing.assert_close(module(images), expected)


@pytest.mark.slow
def test_a_compiled_network_is_timed_whole_and_its_ops_eagerly():
    graph, module, images = network("vgg11", 0.05)
    with torch.inference_mode():
        subject = make_subject(module, images, Device(runtime="compile"))
        subject.warm(2)
        reading = subject.read(3, True)
    assert list(reading.layer_ms) == [c.name for c in graph.cost(graph.spec(32, 0.05)).layers]
    assert reading.ms > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_is_timed_whole_and_its_ops_eagerly():
    graph, module, images = network("vgg11", 0.25)
    with torch.inference_mode():
        subject = make_subject(module, images, Device(runtime="cuda-graph", accelerator="cuda"))
        subject.warm(2)
        reading = subject.read(3, True)
    assert list(reading.layer_ms) == [c.name for c in graph.cost(graph.spec(32, 0.25)).layers]
    assert 0 < reading.ms < sum(reading.layer_ms.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_network_that_waits_for_the_gpu_is_refused_as_a_cuda_graph():
    class Waiting(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[images > 0]  # how many there are is known once they are computed

    module, images = fx.symbolic_trace(Waiting()), torch.randn(1, 3, 8, 8)
    with torch.inference_mode(), pytest.raises(UserError, match=r"CUDA graph: .*; set device"):
        make_subject(module, images, Device(runtime="cuda-graph", accelerator="cuda"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runtime": "cuda-graph"}, "runtime cuda-graph needs accelerator cuda, not 'cpu'"),
        ({"runtime": "onnxruntime", "accelerator": "cuda"}, "onnxruntime needs accelerator cpu"),
        ({"runtime": "onnxruntime", "layout": "channels_last"}, "layout must be contiguous"),
        ({"runtime": "compile", "place": "offline"}, "measured with runtime eager"),
        ({"place": "there"}, "place must be here, offline or node:RESOURCE, not 'there'"),
        ({"place": "node:"}, "place must be here, offline or node:RESOURCE"),
    ],
)
def test_a_device_that_cannot_be_is_refused(fields: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        Device(**fields)  # type: ignore[arg-type]


def test_a_profile_of_another_key_is_refused_and_the_difference_named():
    key = ProfileKey.of(Device(batch=4), "Board 3000")
    key.check(key, "p.json")
    for device, name, message in (
        (
            Device(batch=1),
            "Board 3000",
            "p.json is of batch 4, but 1 is asked for; set device.batch",
        ),
        (Device(batch=4, runtime="onnxruntime"), "Board 3000", "is of runtime 'eager', but 'onnx"),
        (Device(batch=4, layout="channels_last"), "Board 3000", "is of layout 'contiguous', but"),
        (Device(batch=4, threads=2), "Board 3000", "is of threads 1, but 2 is asked for"),
        (Device(batch=4), "Laptop", "is of device 'Board 3000', but 'Laptop' is asked for"),
    ):
        with pytest.raises(UserError, match=message):
            key.check(ProfileKey.of(device, name), "p.json")


@pytest.mark.parametrize(
    ("cause", "expected", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError, "CUDA out of memory"),
        (RuntimeError("operation not permitted"), UserError, "captured .* operation not permitted"),
    ],
)
def test_what_ends_a_capture_is_told_and_not_that_it_ended(
    cause: Exception, expected: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch raises its own error when it ends a capture in which another one was raised."""
    stream = SimpleNamespace(wait_stream=lambda other: None)

    @contextmanager
    def capture(graph: object) -> Generator[None]:
        try:
            yield
        finally:
            raise RuntimeError("capture was invalidated")

    calls = 0

    def forward(images: object) -> None:
        nonlocal calls
        calls += 1
        if calls > WARM_UP:
            raise cause

    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    with pytest.raises(expected, match=said) as caught:
        cuda_graph(cast(fx.GraphModule, forward), torch.zeros(1), Device())
    assert is_out_of_memory(caught.value) == (expected is RuntimeError)
