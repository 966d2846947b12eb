"""Dense output: a small U-Net that finds the pen strokes of a noisy digit.

A task is a model, data, a loss and a metric, each a plain function.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """One level down and up again, with a skip connection."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.down = self._block(3, 8)
        self.bottom = self._block(8, 16)
        self.up = self._block(16 + 8, 8)
        self.head = nn.Conv2d(8, outputs, 1)

    @staticmethod
    def _block(cin: int, cout: int) -> nn.Sequential:
        conv = nn.Conv2d(cin, cout, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        coarse = self.bottom(F.max_pool2d(fine, 2))
        coarse = F.interpolate(coarse, scale_factor=2.0)
        return self.head(self.up(torch.cat([fine, coarse], 1)))


def network(outputs: int) -> nn.Module:
    return UNet(outputs)


def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Digits under noise, N×3×16×16, and where their strokes are, N×16×16."""
    digits = load_digits().images.repeat(2, axis=1).repeat(2, axis=2)
    noise = np.random.default_rng(0).uniform(0, 160, digits.shape)
    images = np.clip(digits * 8 + noise, 0, 255).astype(np.uint8)
    images, masks = np.repeat(images[:, None], 3, axis=1), digits > 6
    return (images[:1400], masks[:1400]), (images[1400:], masks[1400:])


def _fitted(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs at the resolution of the targets, N×H×W: the network may run at a larger one."""
    return F.interpolate(outputs, targets.shape[-2:], mode="bilinear")[:, 0]


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(_fitted(outputs, targets), targets.float())


def overlap(outputs: Tensor, targets: Tensor) -> Tensor:
    """Intersection over union, image by image."""
    found, there = _fitted(outputs, targets) > 0, targets > 0
    both, either = (found & there).sum((1, 2)), (found | there).sum((1, 2))
    return both / either.clamp(min=1)
