"""PyTorch on CUDA without the time that it takes to launch kernels."""

import torch
from torch import Tensor, fx

from engine.bench import WARM_UP, CudaStopwatch, Subject, TorchSubject
from engine.recipe import Device


def cuda_graph(module: fx.GraphModule, images: Tensor, device: Device) -> Subject:
    """Returns ``module`` captured as a CUDA graph; see `engine.runtimes.Runtime`.

    Events inside a graph cannot be read, so the ops are timed eagerly, and the latency model is
    calibrated to the whole graph.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # cuDNN chooses its algorithms before the capture
        for _ in range(WARM_UP):
            module(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        module(images)
    return TorchSubject(module, images, CudaStopwatch(), lambda _: graph.replay())
