"""From stored uint8 images to what the network sees: augmentation, resizing, normalisation."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from trainables.device import moved

_PAD_SHARE = 8


def to_batch(
    images: torch.Tensor, resolution: int, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Resizes and normalises images on the device they are on.

    Args:
        images: uint8, N×C×H×W.
        resolution: side r of the network's input; bilinear with antialiasing where it is another.
        mean: by channel, for pixels in [0, 1].
        std: likewise. A channel without spread (below 1/255) is centred, not scaled up.

    Returns:
        float32, N×C×r×r: (x/255 − mean) / std.
    """
    pixels = images.float() / 255
    if images.shape[-2:] != (resolution, resolution):
        size = (resolution, resolution)
        pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    scale = [deviation if deviation >= 1 / 255 else 1.0 for deviation in std]
    return (pixels - _by_channel(mean, pixels)) / _by_channel(scale, pixels)


def augment(
    batch: torch.Tensor,
    kind: Literal["none", "shift", "crop-flip", "autoaugment"],
    generator: torch.Generator,
    rows: torch.Tensor | None = None,
    whole: int = 0,
) -> torch.Tensor:
    """Changes every image of a batch at random, as ``engine.training.Training.augment`` names it.

    The images may be some rows of a larger batch: each changes as it would if all were there, so
    that it does not matter how many workers share the larger batch.

    Args:
        batch: N×C×H×W; uint8 for ``autoaugment``, any type for the others.
        kind: ``shift`` is a reflect pad of an eighth of the side and a crop at random;
            ``crop-flip`` mirrors half of the images as well; ``autoaugment`` applies torchvision's
            ImageNet policy after that.
        generator: on the CPU; the only source of randomness, so that a batch on any device
            changes alike.
        rows: of the larger batch, int64, N; None if this is the whole batch.
        whole: images of the larger batch.

    Returns:
        A batch of the same shape and type.
    """
    if kind == "none":
        return batch
    if rows is None:
        rows = torch.arange(len(batch))
        whole = len(batch)
    draws = _draw(whole, generator)[rows]
    shifted = _crop(batch, kind != "shift", draws[:, :3])
    if kind != "autoaugment":
        return shifted
    from trainables.autoaugment import AutoAugment  # loads torchvision, seconds

    AutoAugment().change(shifted, draws[:, 3], _draw(whole, generator)[rows])
    return shifted


def mixup(
    batch: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    alpha: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixes every image with the next of its batch: λ·x + (1−λ)·x', labels likewise.

    The last is mixed with the first. One λ ~ Beta(α, α) for the whole batch, as in the authors'
    code (Zhang et al., mixup, 2018); the paper's text draws one for each pair. That code draws the
    partners too: here the order of the batch must be random already.

    Args:
        batch: floating-point, N×C×H×W.
        labels: int64, N.
        classes: K.
        alpha: α, above zero.
        generator: on the CPU; the only source of randomness.

    Returns:
        The mixed batch, and the share of each class, N×K, in the type of the batch.
    """
    targets = functional.one_hot(labels, classes).to(batch.dtype)
    share = float(np.random.default_rng(_draw_seed(generator)).beta(alpha, alpha))
    mixed, soft = (share * x + (1 - share) * x.roll(-1, 0) for x in (batch, targets))
    return mixed, soft


def _crop(batch: torch.Tensor, mirror: bool, draws: torch.Tensor) -> torch.Tensor:
    """Crops of the reflect-padded images, by index arithmetic instead of a padded copy.

    ``draws`` are N×3, uniform in [0, 1): down, right, mirrored.
    """
    n, channels, height, width = batch.shape
    # Places of rows and columns travel to the device, and not those of all pixels.
    rows = moved(_reflected(height, draws[:, 0]), batch.device)
    columns = _reflected(width, draws[:, 1])
    if mirror:
        columns = torch.where(draws[:, 2, None] < 0.5, columns.flip(1), columns)
    columns = moved(columns, batch.device)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1)
    return batch.flatten(2).gather(2, pixels.expand(n, channels, -1)).view_as(batch)


def _reflected(side: int, draws: torch.Tensor) -> torch.Tensor:
    """N×side source positions of each position after a random shift with reflection."""
    pad = side // _PAD_SHARE
    shift = (draws * (2 * pad + 1)).long() - pad
    position = (torch.arange(side) + shift[:, None]).abs()
    return side - 1 - (side - 1 - position).abs()


def _draw(images: int, generator: torch.Generator) -> torch.Tensor:
    """Four uniform numbers for every image."""
    return torch.rand(images, 4, dtype=torch.float64, generator=generator)


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**63 - 1, (), generator=generator))


def _by_channel(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return moved(torch.tensor(values), like.device).view(1, -1, 1, 1)
