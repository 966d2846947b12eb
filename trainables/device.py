"""Where a training runs."""

import socket

import torch

from engine.errors import UserError

_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "NOT_INITIALIZED")
"""What CUDA's libraries say that take memory beside PyTorch's own."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that a GPU has no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    of_cuda = isinstance(error, RuntimeError) and ("CUDA" in str(error) or "CUDNN" in str(error))
    return of_cuda and any(word in str(error) for word in _NO_MEMORY)


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
