"""PyTorch on CUDA without the time that it takes to launch kernels."""

import torch
from torch import Tensor, fx

from engine.bench import WARM_UP, CudaStopwatch, Subject, TorchSubject, is_out_of_memory
from engine.errors import UserError, first_line
from engine.recipe import Device


def cuda_graph(module: fx.GraphModule, images: Tensor, device: Device) -> Subject:
    """Returns ``module`` captured as a CUDA graph; see `engine.runtimes.Runtime`.

    Events inside a graph cannot be read, so the ops are timed eagerly, and the latency model is
    calibrated to the whole graph.

    Raises:
        UserError: the network waits for the GPU in its forward, or does what no graph can hold.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # cuDNN chooses its algorithms before the capture
        for _ in range(WARM_UP):
            module(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            module(images)
    except RuntimeError as error:
        # What ends the capture has an error of its own, which comes instead of its cause.
        cause = error.__context__ if isinstance(error.__context__, Exception) else error
        if is_out_of_memory(cause):
            raise cause from None
        why = first_line(cause)
        raise UserError(
            f"the network cannot be captured as a CUDA graph: {why}; set device.runtime to eager"
        ) from error
    return TorchSubject(module, images, CudaStopwatch(), lambda _: graph.replay())
