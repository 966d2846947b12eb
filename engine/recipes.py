"""The named recipes: each a function that returns a `Recipe`."""

from collections.abc import Callable

from engine.limits import Limits
from engine.recipe import Allocate, Alpha, Data, Profile, Recipe, Sample
from engine.training import FAST, PAPER_CIFAR, PAPER_IMAGENET, Training

_SMALL = Training(
    epochs=8,
    batch_size=64,
    lr=0.1,
    nesterov=True,
    schedule="one-cycle",
    warmup_epochs=2,
    label_smoothing=0.1,
    augment="shift",
)


def digits_vgg11() -> Recipe:
    """VGG-11 at quarter width on scikit-learn's digits: the whole method in minutes on a laptop."""
    return Recipe(
        model="vgg11",
        width=0.25,
        data=Data(source="digits", resolution=32),
        limits=Limits(latency="2x", params="1.33x"),
        profile=Profile(networks=20, held_out=6),
        alpha=Alpha(budget=1.6, trials=6, batch=3, repeats=2, training=_SMALL.for_epochs(3)),
        sample=Sample(networks=8, block=8, training=_SMALL.for_epochs(3)),
        train=_SMALL,
    )


def cifar10_vgg11_small() -> Recipe:
    """VGG-11 at quarter width on 10,000 CIFAR-10 images, few epochs: for two CPU cores."""
    return Recipe(
        model="vgg11",
        width=0.25,
        data=Data(source="cifar10", resolution=32, train_images=10_000),
        limits=Limits(latency="2x", params="1.33x"),
        alpha=Alpha(budget=1.6, trials=6, batch=3, repeats=2, training=FAST.for_epochs(4)),
        sample=Sample(networks=12, block=12, training=FAST.for_epochs(4)),
        train=FAST.for_epochs(12),
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
        data=Data(source="imagefolder:imagenet", resolution=224),
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
