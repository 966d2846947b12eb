"""PyTorch as it is."""

from torch import Tensor, fx

from engine.bench import Subject, TorchSubject, stopwatch
from engine.recipe import Device


def eager(module: fx.GraphModule, images: Tensor, device: Device) -> Subject:
    """Returns ``module``, which PyTorch runs op by op; see `engine.runtimes.Runtime`."""
    return TorchSubject(module, images, stopwatch(device.accelerator, device.threads))
