"""Runtimes that a network can be timed on: each makes a `engine.bench.Subject` of a network."""

from typing import Protocol

import torch
from torch import Tensor, fx

from engine.bench import Subject
from engine.recipe import Device


class Runtime(Protocol):
    """Makes a network ready to be timed."""

    def __call__(self, module: fx.GraphModule, images: Tensor, device: Device) -> Subject:
        """Returns the subject.

        Args:
            module: in evaluation mode, on the device; its nodes are the ops.
            images: an input on the device.
            device: what the figures are for.

        Raises:
            UserError: the runtime cannot take the network.
        """
        ...


def make_subject(module: fx.GraphModule, images: Tensor, device: Device) -> Subject:
    """Returns the network on the runtime and in the layout of ``device``.

    Args:
        module: in evaluation mode, on the CPU; its nodes are the ops.
        images: its input, on the CPU.
        device: what the figures are for.

    Raises:
        UserError: the runtime cannot take the network.
    """
    module, images = module.to(device.accelerator), images.to(device.accelerator)
    if device.layout == "channels_last":
        module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        images = images.contiguous(memory_format=torch.channels_last)
    return _runtime(device.runtime)(module, images, device)


def _runtime(name: str) -> Runtime:
    match name:
        case "eager":
            from engine.runtimes.eager import eager as runtime
        case "compile":
            from engine.runtimes.compiled import compiled as runtime
        case "cuda-graph":
            from engine.runtimes.cuda_graph import cuda_graph as runtime
        case "onnxruntime":
            from engine.runtimes.onnx_runtime import onnx_runtime as runtime
        case _:
            raise ValueError(f"no runtime {name!r} times networks")
    return runtime
