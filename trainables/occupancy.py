"""What one training takes of a GPU: measured, so that several can share it."""

import tempfile
import time
from dataclasses import dataclass, replace

import torch

from engine.bench import is_out_of_memory
from engine.rows import TrainingTask
from engine.store import RunStore
from trainables.data import ImageData
from trainables.loop import NetworkTraining
from trainables.tensors import TensorData

_SECONDS = 2.0
"""NVML's utilisation is that of the last sixth of a second to a second."""

_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """One training on a GPU of its own.

    Attributes:
        used_bytes: memory that the GPU has no longer free: tensors at their peak with what
            PyTorch keeps for reuse, the data, the CUDA context.
        total_bytes: memory of the GPU.
        utilisation: share of the time in which some kernel ran; None where NVML does not say.
    """

    used_bytes: int
    total_bytes: int
    utilisation: float | None


def measure_occupancy(task: TrainingTask, source: ImageData) -> Occupancy:
    """Trains some steps of ``task`` on the GPU of this process and returns what they took.

    Nothing is kept of the training. One that runs out of memory takes all there is.
    """
    device = torch.device("cuda")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            anew = replace(task, start=None)  # other weights take no other memory
            training = NetworkTraining(anew, TensorData.on(source, device), RunStore(scratch))
            began = time.monotonic()
            while time.monotonic() - began < _SECONDS:
                training.rehearse(_STEPS)
                torch.cuda.synchronize(device)
        utilisation = _utilisation(device)
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        _, total = torch.cuda.mem_get_info(device)
        return Occupancy(used_bytes=total, total_bytes=total, utilisation=None)
    return Occupancy(used_bytes=total - free, total_bytes=total, utilisation=utilisation)


def _utilisation(device: torch.device) -> float | None:
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # no NVML, an old driver, a slice of a GPU: each has an error of its own
        return None
