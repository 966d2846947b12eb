"""The data of a run: fixed splits, what identifies them, and the order of the batches."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from engine.errors import UserError
from engine.recipe import Data
from trainables.images import ImageSet
from trainables.sources import Source, read_source

_IMAGES_PER_COUNT = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageData:
    """A data set in its three splits.

    Every decision of a run is made on the validation split; the test split is for the end.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        mean, std: of each channel over the training split, for pixels in [0, 1].
        digest: 16 hex digits of the SHA-256 of images, labels and split: the identity of the data.
        name: where the images are from, for people.
        original: of the training images, as for `ImageSet`.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    name: str
    original: int | None = None


def load_data(config: Data, any_targets: bool = False) -> ImageData:
    """Reads a data set and splits it; the same arguments always give the same arrays.

    The validation split is a stratified draw from the training images. ``train_images`` then
    draws from what remains, so it does not change the validation split.

    Args:
        config: what to read, and how to split it.
        any_targets: whether a function may give targets that are no class numbers. Such a set
            has 0 classes and its splits are drawn without strata.

    Raises:
        UserError: the source is unknown, missing or damaged, its labels are not 0 to K−1 with
            K ≥ 2, or a split leaves a class without training images.
    """
    source = read_source(config.source, config.stored, any_targets)
    classes = _count_classes(source) if source.train.has_classes else 0
    train, validation = _split(source.train, config, classes)
    channels = train.images.shape[1]
    if source.test.images.shape[1] != channels:
        raise UserError(
            f"{source.name}: the training images have {channels} channels but the test images "
            f"{source.test.images.shape[1]}; convert one of them"
        )
    ours, theirs = (f"{s.labels.dtype} with {s.labels.ndim} axes" for s in (train, source.test))
    if ours != theirs:
        raise UserError(
            f"{source.name}: the training targets are {ours} but those of the test split {theirs}; "
            "make them alike"
        )
    mean, std = _mean_and_std(train.images)
    return ImageData(
        train=train,
        validation=validation,
        test=source.test,
        classes=classes,
        channels=channels,
        mean=mean,
        std=std,
        digest=_digest(train, validation, source.test),
        name=source.name,
        original=source.train.original,
    )


def batches(
    n: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> Iterator[torch.Tensor]:
    """Returns the rows of each batch of one epoch, as one of ``world`` workers sees them.

    The n rows are permuted by (seed, epoch) and cut into global batches; the last incomplete one
    is dropped. Each global batch is cut into consecutive parts, one for each worker (`part_of`), so
    that together they see exactly what a single one would.

    Args:
        n: images of the training split.
        batch_size: of the global batch.
        seed: of the row, not negative.
        epoch: from 0.
        rank: this worker, from 0.
        world: number of workers.

    Returns:
        n // batch_size int64 tensors, each with the rows of this worker's part.

    Raises:
        UserError: fewer images than one batch, or more workers than images in one.
    """
    if n < batch_size:
        raise UserError(
            f"the {n} training images do not fill one batch of {batch_size}; "
            f"lower batch_size to at most {n}"
        )
    part = part_of(batch_size, rank, world)
    order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))
    whole = order[: n - n % batch_size].split(batch_size)
    return (batch[part.start : part.stop] for batch in whole)


def part_of(batch_size: int, rank: int, world: int) -> range:
    """Returns which rows of every batch a worker has: sizes differ by one at the most.

    Raises:
        UserError: more workers than rows.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank must lie in 0 to {world - 1}, not {rank}")
    if world > batch_size:
        raise UserError(
            f"{world} workers cannot share a batch of {batch_size}; lower cluster.final_workers"
        )
    return range(batch_size * rank // world, batch_size * (rank + 1) // world)


def _count_classes(source: Source) -> int:
    present = np.unique(source.train.labels)
    classes = len(present)
    if classes < 2:
        raise UserError(f"{source.name}: all training images have the label {present[0]}; give two")
    if present[-1] != classes - 1:
        missing = int(np.argmax(present != np.arange(classes)))
        raise UserError(
            f"{source.name}: labels go to {present[-1]} but no training image has the label "
            f"{missing}; number the classes from 0 without gaps, or give targets that are no "
            "classes as float32"
        )
    highest = source.test.labels.max()
    if highest >= classes:
        raise UserError(
            f"{source.name}: row {np.argmax(source.test.labels)} of the test split has the label "
            f"{highest}, but the training labels are 0 to {classes - 1}"
        )
    return classes


def _split(full: ImageSet, config: Data, classes: int) -> tuple[ImageSet, ImageSet]:
    """The training and the validation split."""
    rng = np.random.default_rng(config.seed)
    held_out = round(config.validation_share * len(full))
    if not 0 < held_out < len(full):
        raise UserError(
            f"data.validation_share {config.validation_share} of {len(full)} training images "
            f"leaves one of the two splits empty; bring it nearer to 0.5 or give more images"
        )
    held_out_rows, rows = full.draw(held_out, rng)
    train, validation = full.take(rows), full.take(held_out_rows)
    if config.train_images is not None:
        if config.train_images > len(train):
            raise UserError(
                f"data.train_images {config.train_images} is more than the {len(train)} images "
                "that the validation split leaves; lower it or leave it out"
            )
        train = train.take(train.draw(config.train_images, rng)[0])
    lost = np.setdiff1d(np.arange(classes), train.labels) if classes else np.empty(0)
    if len(lost):
        raise UserError(
            f"no training image of class {lost[0]} is left ({len(lost)} of {classes} classes lost);"
            " raise data.train_images, lower data.validation_share or give more images"
        )
    return train, validation


def _mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """By channel, exact: from the counts of the 256 values."""
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in images.swapaxes(0, 1):
        counts = np.zeros(256, np.int64)
        for i in range(0, len(channel), _IMAGES_PER_COUNT):
            counts += np.bincount(channel[i : i + _IMAGES_PER_COUNT].ravel(), minlength=256)
        mean = np.average(values, weights=counts)
        means.append(float(mean))
        stds.append(float(np.average((values - mean) ** 2, weights=counts) ** 0.5))
    return tuple(means), tuple(stds)


def _digest(*splits: ImageSet) -> str:
    sha = hashlib.sha256()
    for split in splits:
        sha.update(repr(split.images.shape).encode())
        sha.update(np.ascontiguousarray(split.images).data)
        sha.update(split.labels.astype(split.labels.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()[:16]
