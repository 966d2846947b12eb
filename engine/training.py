"""How a network is trained: the hyper-parameters, and the named sets of them."""

from dataclasses import dataclass, replace
from typing import Literal

from engine.codec import STRICT
from engine.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Hyper-parameters of one training by SGD with momentum.

    Attributes:
        epochs: passes over the training split.
        batch_size: images per step, over all workers together. Importance scales as
            1/batch size, so it is part of every row's identity.
        lr: the peak learning rate, for this batch size.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: on all parameters.
        schedule: ``one-cycle`` (linear up over ``warmup_epochs``, then cosine to zero),
            ``step`` (÷10 at ``milestones``), ``exponential`` (lr·final_lr_ratio^(t/T)).
        milestones: epochs of the ``step`` schedule.
        final_lr_ratio: last over peak learning rate of the ``exponential`` schedule.
        warmup_epochs: linear warm-up, may be a fraction.
        label_smoothing: share of the target that all classes share.
        augment: ``crop-flip`` (reflect pad ⅛, random crop, mirror), ``shift`` (crop without
            mirror, for digits and letters), ``autoaugment`` (crop, mirror, the ImageNet
            policy) or ``none``.
        mixup: α of the Beta distribution, 0 for none.
        swa_share: share of the epochs, the last ones, whose weights are averaged: rounded, at
            least one epoch; 0 for none.
        precision: ``float32`` or ``bfloat16`` (autocast, where it trains: GPU or CPU).
    """

    __pydantic_config__ = STRICT

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["one-cycle", "step", "exponential"] = "one-cycle"
    milestones: tuple[int, ...] = ()
    final_lr_ratio: float = 0.02
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    augment: Literal["none", "shift", "crop-flip", "autoaugment"] = "crop-flip"
    mixup: float = 0.0
    swa_share: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs must be at least 1", self.epochs)
        require(self.batch_size >= 2, "batch_size must be at least 2", self.batch_size)
        require(self.lr > 0, "lr must be above zero", self.lr)
        require(0 <= self.momentum < 1, "momentum must be in [0, 1)", self.momentum)
        require(self.momentum > 0 or not self.nesterov, "nesterov needs a momentum", self.momentum)
        require(self.weight_decay >= 0, "weight_decay must not be negative", self.weight_decay)
        require(0 <= self.label_smoothing < 1, "label_smoothing in [0, 1)", self.label_smoothing)
        require(0 <= self.swa_share < 1, "swa_share must be in [0, 1)", self.swa_share)
        require(self.mixup >= 0, "mixup must not be negative", self.mixup)
        require(
            0 <= self.warmup_epochs <= self.epochs,
            f"warmup_epochs must lie in 0 to epochs ({self.epochs})",
            self.warmup_epochs,
        )
        require(
            all(epoch >= 1 for epoch in self.milestones),
            "milestones must be at least 1",
            self.milestones,
        )
        require(0 < self.final_lr_ratio <= 1, "final_lr_ratio in (0, 1]", self.final_lr_ratio)

    def for_epochs(self, epochs: int) -> "Training":
        """Returns the same recipe, shorter or longer; warm-up and milestones scale along.

        The first epoch has the peak learning rate however short it is.
        """
        ratio = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            warmup_epochs=min(epochs, self.warmup_epochs * ratio),
            milestones=tuple(max(1, round(m * ratio)) for m in self.milestones),
        )


FAST = Training(
    epochs=30,
    batch_size=256,
    lr=0.2,
    nesterov=True,
    schedule="one-cycle",
    warmup_epochs=6,
    label_smoothing=0.1,
)
"""Short and good, after airbench and its forerunners: nesterov, one-cycle, label smoothing, images
augmented in batches on the device that trains. On a CPU, larger batches would save no time."""

FAST_GPU = replace(FAST, batch_size=512, lr=0.4, precision="bfloat16")
"""`FAST` where a GPU needs large batches to be busy, with the learning rate scaled alike (Goyal et
al. 2017); 0.4 for 512 images is also that of Page's "How to train your ResNet" (2018)."""

PAPER_CIFAR = Training(
    epochs=300,
    batch_size=128,
    lr=0.1,
    weight_decay=5e-4,
    schedule="step",
    milestones=(100, 200, 250),
)
"""HACScale section IV on CIFAR; weight decay and augmentation are not printed there: ours."""

PAPER_IMAGENET = Training(
    epochs=100,
    batch_size=1024,
    lr=2.0,
    weight_decay=5e-5,
    schedule="exponential",
    final_lr_ratio=0.02,
    warmup_epochs=5,
    label_smoothing=0.1,
    augment="autoaugment",
    mixup=0.2,
    swa_share=0.25,
    precision="bfloat16",
)
"""HACScale section IV on ImageNet; weight decay and the averaged share are ours."""

FAST_IMAGENET = Training(
    epochs=16,
    batch_size=1024,
    lr=2.0,
    nesterov=True,
    weight_decay=5e-5,
    schedule="one-cycle",
    warmup_epochs=2,
    label_smoothing=0.1,
    precision="bfloat16",
)
"""ImageNet in 16 epochs: batch and peak of `PAPER_IMAGENET`, without what pays in long trainings
only (mixup, AutoAugment, averaged weights). Ours."""

TRAININGS: dict[str, Training] = {
    "fast": FAST,
    "fast-gpu": FAST_GPU,
    "fast-imagenet": FAST_IMAGENET,
    "paper-cifar": PAPER_CIFAR,
    "paper-imagenet": PAPER_IMAGENET,
}
