"""From stored uint8 images to what the network sees: augmentation, resizing, normalisation."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch.nn import functional
from torchvision.transforms import v2

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
) -> torch.Tensor:
    """Changes every image of a batch at random, as ``engine.training.Training.augment`` names it.

    Args:
        batch: N×C×H×W; uint8 for ``autoaugment``, any type for the others.
        kind: ``shift`` is a reflect pad of an eighth of the side and a crop at random;
            ``crop-flip`` mirrors half of the images as well; ``autoaugment`` applies torchvision's
            ImageNet policy after that, image by image.
        generator: on the CPU; the only source of randomness, so that a batch on any device
            changes alike.

    Returns:
        A batch of the same shape and type.
    """
    if kind == "none":
        return batch
    shifted = _crop(batch, kind != "shift", generator)
    if kind != "autoaugment":
        return shifted
    policy = v2.AutoAugment()
    # torchvision draws from the global CPU generator: lend it a state, then put its own back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_draw_seed(generator))
        return torch.stack([policy(image) for image in shifted])


def mixup(
    batch: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    alpha: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixes every image with another of its batch: λ·x + (1−λ)·x', labels likewise.

    One λ ~ Beta(α, α) for the whole batch, as in the authors' code (Zhang et al., mixup, 2018);
    the paper's text draws one for each pair.

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
    partner = torch.randperm(len(batch), generator=generator).to(batch.device)
    mixed, soft = (share * x + (1 - share) * x[partner] for x in (batch, targets))
    return mixed, soft


def _crop(batch: torch.Tensor, mirror: bool, generator: torch.Generator) -> torch.Tensor:
    """Crops of the reflect-padded images, by index arithmetic instead of a padded copy."""
    n, channels, height, width = batch.shape
    rows = _reflected(n, height, generator)
    columns = _reflected(n, width, generator)
    if mirror:
        flipped = torch.rand(n, generator=generator) < 0.5
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).to(batch.device)
    return batch.flatten(2).gather(2, pixels.expand(n, channels, -1)).view_as(batch)


def _reflected(n: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """N×side source positions of each position after a random shift with reflection."""
    pad = side // _PAD_SHARE
    shift = torch.randint(-pad, pad + 1, (n, 1), generator=generator)
    position = (torch.arange(side) + shift).abs()
    return side - 1 - (side - 1 - position).abs()


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**63 - 1, (), generator=generator))


def _by_channel(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device).view(1, -1, 1, 1)
