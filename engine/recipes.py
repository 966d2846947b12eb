"""The named recipes: each a function that returns a `Recipe`."""

from collections.abc import Callable
from dataclasses import replace

from engine.limits import Limits
from engine.recipe import Allocate, Alpha, Data, Profile, Recipe, Sample
from engine.training import FAST, PAPER_CIFAR, PAPER_IMAGENET, Training

_DIGITS = Training(
    epochs=16,
    batch_size=32,
    lr=0.05,
    nesterov=True,
    schedule="one-cycle",
    warmup_epochs=4,
    label_smoothing=0.1,
    augment="shift",
)


_CIFAR_SMALL = replace(FAST, batch_size=128, lr=0.1).for_epochs(12)


def digits_vgg11() -> Recipe:
    """VGG-11 at quarter width on 400 of scikit-learn's digits: all stages in minutes, 2 cores."""
    return Recipe(
        model="vgg11",
        width=0.25,
        data=Data(source="digits", resolution=32, train_images=400),
        limits=Limits(latency="2x", params="1.33x"),
        profile=Profile(networks=20, held_out=6),
        alpha=Alpha(trials=6, batch=3, repeats=2, round_to=4, training=_DIGITS.for_epochs(6)),
        sample=Sample(networks=10, block=10, training=_DIGITS.for_epochs(6)),
        train=_DIGITS,
    )


def cifar10_vgg11_small() -> Recipe:
    """VGG-11 at quarter width on 6,000 CIFAR-10 images, few epochs: for two CPU cores."""
    return Recipe(
        model="vgg11",
        width=0.25,
        data=Data(source="cifar10", resolution=32, train_images=6_000),
        limits=Limits(latency="2x", params="1.33x"),
        alpha=Alpha(trials=6, batch=3, repeats=2, training=_CIFAR_SMALL.for_epochs(4)),
        sample=Sample(networks=10, block=10, training=_CIFAR_SMALL.for_epochs(4)),
        train=_CIFAR_SMALL,
    )


def cifar10_vgg11_tight() -> Recipe:
    """HACScale's tight limits on CIFAR-10: latency 1.065×, parameters 1.33×, 300 epochs."""
    return Recipe(
        model="vgg11",
        data=Data(source="cifar10", resolution=32),
        limits=Limits(latency="1.065x", params="1.33x"),
        train=PAPER_CIFAR,
    )


def imagenet_resnet18() -> Recipe:
    """ResNet-18 on a folder of ImageNet; give its place with ``--set data=imagefolder:PATH``."""
    return Recipe(
        model="resnet18",
        # The largest resolution of the α search is 224·√2^0.95 = 311.
        data=Data(source="imagefolder:imagenet", resolution=224, stored_resolution=320),
        limits=Limits(latency="1.065x", params="1.33x"),
        profile=Profile(max_width=3.0),
        allocate=Allocate(max_width=3.0),
        train=PAPER_IMAGENET,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits-vgg11": digits_vgg11,
    "cifar10-vgg11-small": cifar10_vgg11_small,
    "cifar10-vgg11-tight": cifar10_vgg11_tight,
    "imagenet-resnet18": imagenet_resnet18,
}
