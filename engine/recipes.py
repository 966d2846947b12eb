"""The named recipes: each a function that returns a `Recipe`."""

from collections.abc import Callable
from dataclasses import replace

from engine.limits import Limits
from engine.recipe import Allocate, Alpha, Cluster, Data, Device, Profile, Recipe, Sample
from engine.training import (
    FAST,
    FAST_GPU,
    FAST_IMAGENET,
    PAPER_CIFAR,
    PAPER_IMAGENET,
    Training,
)

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


_PAPER = Alpha(candidates="compute", budget=2)
_SMALL = replace(FAST, batch_size=128, lr=0.1).for_epochs(6)
_GPU = Device(accelerator="cuda")
_ONE_GPU = Cluster(gpus_per_trial="auto", final_workers=1)

_TIGHT = Limits(latency="1.065x", params="1.33x")
_LOOSE = Limits(latency="1.2x", params="2.29x")
_IMAGENET_TIGHT = replace(_TIGHT, latency="1.006x")
_SMALL_TIGHT = replace(_TIGHT, latency="2x")
_SMALL_LOOSE = replace(_LOOSE, latency="4x")


def digits_vgg11() -> Recipe:
    """VGG-11 at quarter width on 400 of scikit-learn's digits: all stages in minutes, 2 cores."""
    return Recipe(
        model="vgg11",
        width=0.25,
        data=Data(source="digits", resolution=32, train_images=400),
        limits=Limits(latency="2x", params="1.33x"),
        profile=Profile(networks=20, held_out=6),
        alpha=replace(_PAPER, trials=6, batch=2, round_to=4, training=_DIGITS.for_epochs(6)),
        sample=Sample(networks=10, block=10, training=_DIGITS.for_epochs(6)),
        train=_DIGITS,
    )


def cifar10_vgg11_tight() -> Recipe:
    """HACScale's tight limits on CIFAR-10: latency 1.065×, parameters 1.33×, 300 epochs.

    Printed: limits, network and training but for weight decay and augmentation (`PAPER_CIFAR`).
    Ours: s, the bounds of α, number and range of the sampled networks, their short trainings. The
    device is a GPU, as in the paper, and trainings take one each or share it.
    """
    return _cifar10(_TIGHT)


def cifar10_vgg11_loose() -> Recipe:
    """HACScale's loose limits on CIFAR-10: parameters 2.29×; latency 1.2× is ours. 300 epochs.

    Parameters are those of the paper's second HACScale row. The latency it allows is our choice:
    as `cifar10_vgg11_tight` else.
    """
    return _cifar10(_LOOSE)


def cifar10_vgg11_tight_fast() -> Recipe:
    """The tight limits of CIFAR-10 with 30 epochs, for one GPU."""
    return _fast(cifar10_vgg11_tight(), FAST_GPU)


def cifar10_vgg11_loose_fast() -> Recipe:
    """The loose limits of CIFAR-10 with 30 epochs, for one GPU."""
    return _fast(cifar10_vgg11_loose(), FAST_GPU)


def cifar10_vgg11_tight_small() -> Recipe:
    """VGG-11 at ⅛ width on 8,000 CIFAR-10 images, limits 2× and 1.33×: minutes, 2 cores.

    The latency of a CPU core follows the MACs, unlike that of the paper's GPU: 1.065× would leave
    room for nothing, so the limit of latency is ours.
    """
    return _small(_SMALL_TIGHT, budget=4)


def cifar10_vgg11_loose_small() -> Recipe:
    """VGG-11 at ⅛ width on 8,000 CIFAR-10 images, limits 4× and 2.29×: minutes, 2 cores.

    As `cifar10_vgg11_tight_small`, the limit of latency is ours.
    """
    return _small(_SMALL_LOOSE, budget=6)


def imagenet_resnet18_tight() -> Recipe:
    """HACScale's tight limits on ImageNet (data=imagefolder:PATH): latency 1.006×, 100 epochs.

    Printed: latency, network and training but for weight decay and the share of averaged epochs
    (`PAPER_IMAGENET`). Ours: parameters 1.33× as on CIFAR-10, and what `cifar10_vgg11_tight` names.
    """
    return _imagenet(_IMAGENET_TIGHT)


def imagenet_resnet18_loose() -> Recipe:
    """Loose limits on ImageNet (data=imagefolder:PATH): those of CIFAR-10, 100 epochs.

    Both limits are ours: parameters 2.29×, latency 1.2×.
    """
    return _imagenet(_LOOSE)


def imagenet_resnet18_tight_fast() -> Recipe:
    """The tight limits of ImageNet with 16 epochs, for one GPU (data=imagefolder:PATH)."""
    return _fast(imagenet_resnet18_tight(), FAST_IMAGENET)


def imagenet_resnet18_loose_fast() -> Recipe:
    """The loose limits of ImageNet with 16 epochs, for one GPU (data=imagefolder:PATH)."""
    return _fast(imagenet_resnet18_loose(), FAST_IMAGENET)


def _cifar10(limits: Limits) -> Recipe:
    return Recipe(
        model="vgg11",
        data=Data(source="cifar10", resolution=32),
        device=_GPU,
        limits=limits,
        alpha=_PAPER,
        train=PAPER_CIFAR,
        cluster=_ONE_GPU,
    )


def _imagenet(limits: Limits) -> Recipe:
    return Recipe(
        model="resnet18",
        # The largest resolution of the α search is 224·√2^0.95 = 311.
        data=Data(source="imagefolder:imagenet", resolution=224, stored_resolution=320),
        device=_GPU,
        limits=limits,
        profile=Profile(max_width=3.0),
        alpha=_PAPER,
        allocate=Allocate(max_width=3.0),
        train=PAPER_IMAGENET,
        cluster=_ONE_GPU,
    )


def _fast(recipe: Recipe, training: Training) -> Recipe:
    """The recipe with short trainings, a fifth of them for every candidate."""
    short = training.for_epochs(max(2, training.epochs // 5))
    return replace(
        recipe,
        alpha=replace(recipe.alpha, training=short),
        sample=replace(recipe.sample, training=short),
        train=training,
    )


def _small(limits: Limits, budget: float) -> Recipe:
    """The α search compares what could be an answer; s is what its largest resolution asks for."""
    return Recipe(
        model="vgg11",
        width=0.125,
        data=Data(source="cifar10", resolution=32, validation_share=0.1, train_images=8_000),
        limits=limits,
        alpha=Alpha(
            budget=budget,
            trials=6,
            batch=3,
            repeats=2,
            training=_SMALL.for_epochs(3),
        ),
        sample=Sample(networks=12, block=12, training=_SMALL.for_epochs(3)),
        train=_SMALL,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits-vgg11": digits_vgg11,
    "cifar10-vgg11-tight-small": cifar10_vgg11_tight_small,
    "cifar10-vgg11-loose-small": cifar10_vgg11_loose_small,
    "cifar10-vgg11-tight-fast": cifar10_vgg11_tight_fast,
    "cifar10-vgg11-loose-fast": cifar10_vgg11_loose_fast,
    "cifar10-vgg11-tight": cifar10_vgg11_tight,
    "cifar10-vgg11-loose": cifar10_vgg11_loose,
    "imagenet-resnet18-tight-fast": imagenet_resnet18_tight_fast,
    "imagenet-resnet18-loose-fast": imagenet_resnet18_loose_fast,
    "imagenet-resnet18-tight": imagenet_resnet18_tight,
    "imagenet-resnet18-loose": imagenet_resnet18_loose,
}
