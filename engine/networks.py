"""From a model's name to an ``nn.Module``: the VGGs in CIFAR form, torchvision, or user code."""

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from engine.depth import FAMILIES, deeper_module, repeats
from engine.errors import UserError, nearest
from engine.names import parse_name
from engine.spec import ModelRef

_VGG: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg13": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}
"""Convolution widths by stage; a max-pool ends every stage."""

_AUXILIARY = ("googlenet", "inception_v3")
"""Networks of torchvision that have classifiers for training only."""


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


class _WithoutValues(TorchFunctionMode):
    """Makes uninitialised tensors, which are to become weights, on the meta device."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        place = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **place})


def make_network(ref: ModelRef, without_values: bool = False) -> nn.Module:
    """Builds the network that ``ref`` names, at its own widths.

    A ``package.module:factory`` is called as ``factory(classes)``. The networks of torchvision
    are given a first convolution for ``ref.channels`` and no auxiliary classifiers.

    Args:
        ref: the network.
        without_values: leave the weights on the meta device, which is quick; user code, which may
            read them, makes them all the same.

    Raises:
        UserError: no such name, module or function; or the factory raised.
    """
    # What is random in it is always the same, and the global generator is left as it was.
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return _made(ref, without_values)


def _made(ref: ModelRef, without_values: bool) -> nn.Module:
    name = parse_name(ref.name)
    if ":" in name.base:
        if name.depth != 1:
            raise UserError(
                f"model {ref.name!r}: depth is for {FAMILIES}; give a factory that makes the "
                "deeper network"
            )
        return _call_factory(name.base, import_function(name.base, "model"), ref.classes)
    with _WithoutValues() if without_values else nullcontext():
        if name.base in _VGG:
            written = _VGG[name.base]
            blocks = repeats([len(stage) for stage in written], name.depth)
            stages = tuple(s[:1] * n for s, n in zip(written, blocks, strict=True))
            return VGG(stages, ref.classes, ref.channels)
        check_model(ref.name)
        from torchvision import models  # seconds that a VGG need not wait for

        if name.depth != 1:
            module = deeper_module(name.base, name.depth, ref.classes)
        else:
            plain = {"aux_logits": False, "init_weights": False}
            options = plain if name.base in _AUXILIARY else {}
            module = models.get_model(name.base, weights=None, num_classes=ref.classes, **options)
        return _with_channels(module, ref.channels)


def check_model(reference: str) -> None:
    """Checks that a model is there under its name, without making it.

    Raises:
        UserError: it is not known, or its factory cannot be imported.
    """
    base = parse_name(reference).base
    if ":" in base:
        import_function(base, "model")
    elif base not in _VGG:
        from torchvision import models

        known = models.list_models(module=models)
        if base not in known:
            raise UserError(f"unknown model {base!r}{nearest(base, {*_VGG, *known})}")


def _with_channels(module: nn.Module, channels: int) -> nn.Module:
    """Gives a network for colour images a first convolution for ``channels``."""
    stem = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    if channels != stem.in_channels:
        stem.in_channels = channels
        stem.weight = nn.Parameter(
            stem.weight.new_empty(len(stem.weight), channels, *stem.kernel_size)
        )
        nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    return module


def import_function(reference: str, what: str) -> Callable[..., object]:
    """Returns the function that ``package.module:function`` names.

    Raises:
        UserError: the module cannot be imported or has no such function.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except SystemExit:
        raise UserError(
            f"{what} {reference!r}: {module_name!r} ends the program when it is imported; put what "
            "makes it a script under `if __name__ == '__main__':`"
        ) from None
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
    except (Exception, SystemExit) as error:
        raise UserError(f"model {name!r} raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"model {name!r} must return an nn.Module, not {type(module).__name__}")
    return module
