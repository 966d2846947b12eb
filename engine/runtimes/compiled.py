"""torch.compile with inductor. Compiling takes 10 to 60 s a network: profile few."""

import torch
from torch import Tensor, fx

from engine.bench import Subject, TorchSubject, is_out_of_memory, stopwatch
from engine.errors import UserError, first_line
from engine.recipe import Device


def compiled(module: fx.GraphModule, images: Tensor, device: Device) -> Subject:
    """Returns ``module`` compiled for the shape of ``images``; see `engine.runtimes.Runtime`.

    Inductor fuses ops, so that none has a time of its own: they are timed eagerly, and the latency
    model is calibrated to the whole compiled network.

    Raises:
        UserError: inductor cannot compile the network, or finds no compiler.
    """
    whole = torch.compile(module, dynamic=False, fullgraph=True)
    try:
        whole(images)
    except Exception as error:
        if is_out_of_memory(error):
            raise  # `engine.measure` says what to do about it
        why = first_line(error)
        raise UserError(
            f"torch.compile cannot compile the network: {why}; set device.runtime to eager"
        ) from error
    return TorchSubject(module, images, stopwatch(device.accelerator, device.threads), whole)
