"""From a model's name to an ``nn.Module``: the VGGs in CIFAR form, torchvision, or user code."""

import importlib
from collections.abc import Callable

import torch
from torch import nn
from torchvision import models

from engine.errors import UserError, nearest
from engine.spec import ModelRef

_VGG: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg13": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}
"""Convolution widths by stage; a max-pool ends every stage."""


class VGG(nn.Module):
    """VGG with batch norm in its CIFAR form: 3×3 convolutions and one linear classifier.

    Global average pooling stands before the classifier, so any resolution of at least 32 px
    works; at 32 px it changes nothing, because five pools have left one pixel.
    """

    def __init__(self, stages: tuple[tuple[int, ...], ...], classes: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in stages:
            for width in stage:
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits, N×classes, for images N×C×H×W."""
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def make_network(ref: ModelRef) -> nn.Module:
    """Builds the network that ``ref`` names, at its own widths.

    A ``package.module:factory`` is called as ``factory(classes)``.

    Raises:
        UserError: no such name, module or function; or the factory raised.
    """
    if ref.name in _VGG:
        return VGG(_VGG[ref.name], ref.classes, ref.channels)
    if ":" in ref.name:
        return _call_factory(ref.name, import_function(ref.name, "model"), ref.classes)
    if ref.name not in models.list_models(module=models):
        known = [*_VGG, *models.list_models(module=models)]
        raise UserError(f"unknown model {ref.name!r}{nearest(ref.name, known)}")
    return models.get_model(ref.name, weights=None, num_classes=ref.classes)


def import_function(reference: str, what: str) -> Callable[..., object]:
    """Returns the function that ``package.module:function`` names.

    Raises:
        UserError: the module cannot be imported or has no such function.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"{what} {reference!r}: importing {module_name!r} failed: "
            f"{type(error).__name__}: {error}; is it on PYTHONPATH?"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(
            f"{what} {reference!r}: {module_name!r} has no function {name!r}"
            f"{nearest(name, [n for n in vars(module) if not n.startswith('_')])}"
        )
    return function


def _call_factory(name: str, factory: Callable[..., object], classes: int) -> nn.Module:
    try:
        module = factory(classes)
    except Exception as error:
        raise UserError(f"model {name!r} raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"model {name!r} must return an nn.Module, not {type(module).__name__}")
    return module
