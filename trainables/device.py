"""Where a training runs."""

import socket

import torch

from engine.errors import UserError


def device_for(gpus: float) -> torch.device:
    """Returns the device of a training that has booked so much of a GPU, or nothing.

    What is booked decides, and not what is there: Ray shows all GPUs of a node to a worker that
    booked none.

    Raises:
        UserError: PyTorch cannot use what is booked.
    """
    if gpus and not torch.cuda.is_available():
        raise UserError(
            f"a GPU is booked for a training, but PyTorch {torch.__version__} finds no CUDA device "
            f"on {socket.gethostname()}; install a build with CUDA there, or set "
            "cluster.gpus_per_trial=0"
        )
    return torch.device("cuda" if gpus else "cpu")
