"""A set of labelled images."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSet:
    """Images with labels, as plain arrays: they travel through Ray's object store.

    Attributes:
        images: uint8, N×C×H×W with C of 1 (grey) or 3 (RGB) and H = W.
        labels: int64, N, class numbers from 0; or, for a task of the user's own, targets of any
            shape N×…, int64 or float32.
        original: median side of the squares before they were resized, in pixels; None if it is not
            known.

    Raises:
        ValueError: another type or shape, no image at all, a negative class number, or a target
            that is not finite.
    """

    images: np.ndarray
    labels: np.ndarray
    original: int | None = None

    def __post_init__(self) -> None:
        check_images(self.images)
        shape = self.images.shape
        if shape[1] not in (1, 3) or shape[2] != shape[3]:
            raise ValueError(f"images must be N×C×H×W with C of 1 or 3 and H = W, not {shape}")
        if self.labels.dtype.type not in (np.int64, np.float32):
            raise ValueError(f"labels must be int64 or float32, not {self.labels.dtype}")
        if len(self.images) != len(self.labels):
            raise ValueError(f"there are {len(self.images)} images but {len(self.labels)} labels")
        if not len(self.labels):
            raise ValueError("there is no image")
        if not np.isfinite(self.labels).all():
            raise ValueError("targets must be finite")
        if self.has_classes and self.labels.min() < 0:
            row = int(np.argmax(self.labels < 0))
            raise ValueError(f"labels must not be negative, but row {row} has {self.labels[row]}")

    @property
    def has_classes(self) -> bool:
        """Whether the labels are class numbers."""
        return self.labels.dtype == np.int64 and self.labels.ndim == 1

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "ImageSet":
        """Returns a copy of some rows."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws rows at random, each class in proportion to its size if there are classes.

        A class of n of the N images gives ⌊n·count/N⌋ rows; those still missing come from the
        classes with the largest remainders, lower classes first.

        Returns:
            The drawn rows and all others, both ascending.
        """
        strata = self.labels if self.has_classes else np.zeros(len(self), np.int64)
        _, classes, sizes = np.unique(strata, return_inverse=True, return_counts=True)
        quota, remainder = np.divmod(sizes * count, len(self))
        quota[np.argsort(-remainder, kind="stable")[: count - quota.sum()]] += 1
        drawn = np.zeros(len(self), bool)
        for label, take in enumerate(quota):
            drawn[rng.permutation(np.flatnonzero(classes == label))[:take]] = True
        return np.flatnonzero(drawn), np.flatnonzero(~drawn)


def check_images(images: np.ndarray) -> None:
    """Checks what holds for images in every layout.

    Raises:
        ValueError: not uint8, not four axes, or images without pixels.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 from 0 to 255, not {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"images must have 4 axes (N×C×H×W or N×H×W×C), not {images.ndim}")
    if 0 in images.shape[1:]:
        raise ValueError(f"images must have pixels, not the shape {images.shape}")
