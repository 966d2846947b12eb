"""Networks and data small enough to be trained in tests."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.graph import load_graph
from engine.rows import Row, TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from engine.training import Training
from trainables.data import ImageData
from trainables.images import ImageSet
from trainables.loop import NetworkTraining
from trainables.tensors import TensorData

CLASSES = 3
SIDE = 10
EVERYTHING: dict[str, Any] = {
    "model": "tiny_training:with_dropout",
    "epochs": 4,
    "mixup": 0.3,
    "swa_share": 0.5,
    "augment": "autoaugment",
    "label_smoothing": 0.1,
    "nesterov": True,
    "importance": True,
    "test": True,
}


class Residual(nn.Module):
    """A stem, a residual block with a grouped convolution, two linear layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.inner_norm = nn.BatchNorm2d(6, momentum=None)
        self.outer = nn.Conv2d(6, 6, 1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(24, 8)
        self.hidden_norm = nn.BatchNorm1d(8)
        self.drop = nn.Identity()
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = x + self.outer(self.inner_norm(self.inner(x)).relu())
        x = self.hidden_norm(self.hidden(torch.flatten(self.pool(x), 1)))
        return self.head(self.drop(x.relu()))


def residual(classes: int) -> nn.Module:
    return Residual(classes)


def with_dropout(classes: int) -> nn.Module:
    net = Residual(classes)
    net.drop = nn.Dropout(0.3)
    return net


def plain(classes: int) -> nn.Module:
    """A chain of convolutions, whose narrower forms are the first channels of every layer."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


def hungry(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that finds no memory with less than half of a GPU."""
    import ray  # of the worker; other tests do without

    if ray.get_runtime_context().get_assigned_resources()["GPU"] < 0.5:
        raise torch.OutOfMemoryError("simulated")
    return nn.functional.cross_entropy(outputs, targets)


def insatiable(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that never finds memory."""
    raise torch.OutOfMemoryError("simulated")


def images_of(count: int, seed: int, noise: float = 60.0) -> ImageSet:
    """Class k is brightest in channel k; the noise makes it hard enough not to be perfect."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    pixels = rng.normal(110, noise, (count, 3, SIDE, SIDE))
    pixels += rng.normal(0, 25, (count, 3, 1, 1))
    pixels[np.arange(count), labels] += 30
    return ImageSet(images=pixels.clip(0, 255).astype(np.uint8), labels=labels)


def tiny_data() -> ImageData:
    """101 images to train on, 39 to validate, 27 to test: no multiples of any batch."""
    train = images_of(101, seed=1)
    pixels = train.images.swapaxes(0, 1).reshape(3, -1) / 255.0
    return ImageData(
        train=train,
        validation=images_of(39, seed=2),
        test=images_of(27, seed=3),
        classes=CLASSES,
        channels=3,
        mean=tuple(pixels.mean(1).tolist()),
        std=tuple(pixels.std(1).tolist()),
        digest="feedc0ffee000000",
        name="tiny",
    )


def tiny_task(
    model: str = "tiny_training:residual", seed: int = 5, resolution: int = SIDE, **options: Any
) -> TrainingTask:
    """``options`` are fields of the task if it has them, else of its training."""
    fields = {k: options.pop(k) for k in ("importance", "test") if k in options}
    defaults: dict[str, Any] = {"epochs": 3, "batch_size": 24, "lr": 0.05, "augment": "none"}
    training = Training(**(defaults | options))
    graph = load_graph(ModelRef(name=model, classes=CLASSES), resolution)
    spec = graph.spec(resolution)
    return TrainingTask(spec=spec, training=training, data=tiny_data().digest, seed=seed, **fields)


def tensors() -> TensorData:
    return TensorData.on(tiny_data(), torch.device("cpu"))


def train(task: TrainingTask, directory: Path, data: TensorData | None = None) -> NetworkTraining:
    """Trains to the end in one go."""
    training = NetworkTraining(task, data or tensors(), RunStore(directory))
    while not training.finished:
        training.run_epoch()
    return training


def facts(row: Row) -> Row:
    """The row without its seconds."""
    history = tuple(dataclasses.replace(epoch, seconds=0.0) for epoch in row.history)
    return dataclasses.replace(row, history=history)
