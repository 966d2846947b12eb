"""A data set as tensors, on the device that trains on it where it has room for them.

Moved there once, not once a trial. What takes more than half of the memory that a GPU has left
stays in that of the machine, and each batch is moved.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.data import ImageData, ImageSet
from trainables.device import moved

Split = tuple[Tensor, Tensor]
"""Images, uint8 N×C×H×W, and labels, int64 N."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorData:
    """The three splits in one place.

    Attributes:
        source: the data set they are of.
        device: what trains on them; they may lie elsewhere, see `take`.
    """

    source: ImageData
    device: torch.device
    train: Split
    validation: Split
    test: Split

    @classmethod
    def on(cls, source: ImageData, device: torch.device) -> "TensorData":
        """Returns ``source`` as tensors; on the CPU they share the arrays' memory."""
        parts = (source.train, source.validation, source.test)
        size = sum(part.images.nbytes + part.labels.nbytes for part in parts)
        place = device if size <= _room(device) else torch.device("cpu")
        return cls(source, device, *(_split(part, place) for part in parts))

    def take(self, split: Split, rows: Tensor | slice) -> Split:
        """Returns some images and labels of a split on the device that trains.

        Args:
            split: one of the three.
            rows: which, as indices on any device or as a slice.
        """
        images, labels = split
        if isinstance(rows, Tensor):
            rows = moved(rows, images.device)
        some, theirs = images[rows], labels[rows]
        if isinstance(rows, slice):
            # Never a view of the labels: a loss or metric of the user may write to them.
            theirs = theirs.clone()
        return moved(some, self.device), moved(theirs, self.device)


def _room(device: torch.device) -> float:
    """Bytes that images may take on a device."""
    return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else math.inf


def _split(images: ImageSet, place: torch.device) -> Split:
    return _tensor(images.images).to(place), _tensor(images.labels).to(place)


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
