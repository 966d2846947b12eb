"""AutoAugment for whole batches: images that change alike change together."""

from collections import defaultdict
from typing import Any

import torch
from torchvision.transforms import v2

from trainables.device import moved

_BINS = 10
"""Into which AutoAugment divides the magnitudes of an operation."""


class AutoAugment(v2.AutoAugment):
    """torchvision's ImageNet policy, with its operations and magnitudes.

    There every image is changed by itself: on a GPU that is thousands of short kernels for a batch,
    and waiting for it wherever one is turned or sheared, as now for all that are turned alike.
    """

    def change(self, images: torch.Tensor, which: torch.Tensor, draws: torch.Tensor) -> None:
        """Changes images in place; what becomes of one depends on its own numbers alone.

        Args:
            images: uint8, N×C×H×W, with 1 or 3 channels.
            which: uniform in [0, 1), N, on the CPU: for the choice of a policy.
            draws: likewise, N×4: for each of its two operations whether, and in what sign.
        """
        size = images.shape[-2:]
        policies = [self._policies[int(draw * len(self._policies))] for draw in which.tolist()]
        for turn in (0, 1):
            alike: dict[tuple[str, float], list[int]] = defaultdict(list)
            turned = draws[:, 2 * turn : 2 * turn + 2].tolist()
            for row, (policy, (applied, sign)) in enumerate(zip(policies, turned, strict=True)):
                name, share, level = policy[turn]
                if applied <= share:
                    alike[name, self._magnitude(name, level, sign, size)].append(row)
            for (name, magnitude), rows in alike.items():
                chosen = moved(torch.tensor(rows), images.device)
                changed: Any = self._apply_image_or_video_transform(
                    images[chosen], name, magnitude, self.interpolation, self._fill
                )
                images[chosen] = changed

    def _magnitude(self, name: str, level: int | None, sign: float, size: torch.Size) -> float:
        magnitudes, signed = self._AUGMENTATION_SPACE[name]
        levels = magnitudes(_BINS, *size)
        if level is None or levels is None:
            return 0.0
        return float(levels[level]) * (-1 if signed and sign <= 0.5 else 1)
