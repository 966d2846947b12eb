"""Where a training runs."""

import ctypes
import socket

import torch

from engine.errors import UserError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of ``mallopt`` in glibc's malloc.h."""
_KEPT_BYTES = 2**31 - 1
_LARGEST_BLOCKS = 2**30, 2**25
"""Kept blocks at most, of glibc now and of earlier ones, which refuse more."""


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
        any(mallopt(_MMAP_THRESHOLD, largest) for largest in _LARGEST_BLOCKS)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


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


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns a tensor of the CPU on ``device``, without waiting for what that has yet to compute.

    A GPU works off what it is given in order, and ``tensor.to(device)`` comes back when all of that
    is done. Copies from page-locked memory queue up with the rest, so that the next batch is
    gathered while this one is trained on.
    """
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def check_precision(precision: str, device: torch.device) -> None:
    """Checks that a device trains in a precision.

    PyTorch takes bfloat16 on GPUs before Ampere too, and then has no convolutions for it.

    Raises:
        UserError: it does not.
    """
    if precision != "bfloat16" or device.type != "cuda":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16; set precision to float32 in "
            "train, alpha.training and sample.training"
        )
