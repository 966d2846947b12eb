"""Where a training runs."""

import ctypes
import socket

import torch

from engine.errors import UserError

_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "NOT_INITIALIZED")
"""What CUDA's libraries say that take memory beside PyTorch's own."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of ``mallopt`` in glibc's malloc.h."""
_KEPT_BYTES, _LARGEST_BLOCK = 2**31 - 1, 2**30


def use_cpus(cpus: int) -> None:
    """Makes this process one that trains on so many cores.

    Every step of a training asks for the same blocks of activations and frees them again. The C
    library gives freed blocks above 32 MB, and the end of its heap, back to the system, which has
    to clear every page when they are asked for anew. Here they stay with the process
    (docs/cluster.md says what that is worth).
    """
    torch.set_num_threads(cpus)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


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
