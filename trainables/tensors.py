"""A data set as tensors on the device that trains on it: moved there once, not once a trial."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.data import ImageData, ImageSet

Split = tuple[Tensor, Tensor]
"""Images, uint8 N×C×H×W, and labels, int64 N."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorData:
    """The three splits on one device.

    Attributes:
        source: the data set they are of.
    """

    source: ImageData
    device: torch.device
    train: Split
    validation: Split
    test: Split

    @classmethod
    def on(cls, source: ImageData, device: torch.device) -> "TensorData":
        """Returns ``source`` as tensors; on the CPU they share the arrays' memory."""
        splits = (_split(part, device) for part in (source.train, source.validation, source.test))
        return cls(source, device, *splits)


def _split(images: ImageSet, device: torch.device) -> Split:
    return _tensor(images.images).to(device), _tensor(images.labels).to(device)


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
