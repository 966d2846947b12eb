"""Deeper and shallower networks of the built-in families: stage repeats times a multiplier.

torchvision, whose import takes seconds, is imported where one of its networks is asked for, here as
elsewhere.
"""

from collections.abc import Sequence
from functools import partial

from torch import nn

from engine.errors import UserError

FAMILIES = "vgg11–19, resnet, resnext, wide_resnet, mobilenet_v2 and efficientnet_b0–b7"

_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, repeats and stride of every stage (Sandler et al. 2018, Table 2)."""

_EFFICIENTNET = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
"""Expansion, kernel, stride, channels in and out and repeats (Tan and Le 2019, Table 1)."""

_EFFICIENTNET_SCALES = {
    "efficientnet_b0": (1.0, 1.0, 0.2),
    "efficientnet_b1": (1.0, 1.1, 0.2),
    "efficientnet_b2": (1.1, 1.2, 0.3),
    "efficientnet_b3": (1.2, 1.4, 0.3),
    "efficientnet_b4": (1.4, 1.8, 0.4),
    "efficientnet_b5": (1.6, 2.2, 0.4),
    "efficientnet_b6": (1.8, 2.6, 0.5),
    "efficientnet_b7": (2.0, 3.1, 0.5),
}
"""Width and depth multipliers and dropout of the published networks."""


def repeats(blocks: Sequence[int], depth: float) -> list[int]:
    """Returns how often every stage repeats its block at ``depth`` times the depth.

    The blocks of all stages together are those of the network times ``depth``, rounded. They are
    dealt one by one to the stage of which (repeats + 1) / ``blocks`` is the least, the first of
    several (D'Hondt): stages grow in proportion, a deeper network has no stage that is shallower,
    and every whole number of layers can be had. (Rounded by stage, as EfficientNet rounds up, all
    stages of equal blocks would grow at once.)
    """
    found = [1] * len(blocks)
    for _ in range(round(sum(blocks) * depth) - len(blocks)):
        shares = [(n + 1) / of_stage for n, of_stage in zip(found, blocks, strict=True)]
        found[shares.index(min(shares))] += 1
    return found


def deeper_module(name: str, depth: float, classes: int) -> nn.Module:
    """Builds a network of torchvision with ``depth`` times the blocks in every stage.

    Raises:
        UserError: its family has no stages of equal blocks, or they are not known.
    """
    if name == "mobilenet_v2":
        from torchvision import models

        blocks = repeats([n for _, _, n, _ in _MOBILENET_V2], depth)
        stages = [[t, c, n, s] for (t, c, _, s), n in zip(_MOBILENET_V2, blocks, strict=True)]
        return models.MobileNetV2(num_classes=classes, inverted_residual_setting=stages)
    if name in _EFFICIENTNET_SCALES:
        return _efficientnet(name, depth, classes)
    if "resnet" in name or "resnext" in name:
        return _resnet(name, depth, classes)
    raise UserError(
        f"model {name!r} cannot be given another depth; known are {FAMILIES}; give a factory that "
        "makes the deeper network"
    )


def _resnet(name: str, depth: float, classes: int) -> nn.Module:
    from torchvision import models

    written = models.get_model(name, weights=None)
    assert isinstance(written, models.ResNet)
    stages = (written.layer1, written.layer2, written.layer3, written.layer4)
    return models.ResNet(
        type(written.layer1[0]),  # pyright: ignore[reportArgumentType]
        repeats([len(stage) for stage in stages], depth),
        num_classes=classes,
        groups=written.groups,
        width_per_group=written.base_width,
    )


def _efficientnet(name: str, depth: float, classes: int) -> nn.Module:
    from torchvision import models
    from torchvision.models.efficientnet import MBConvConfig

    width, published_depth, dropout = _EFFICIENTNET_SCALES[name]
    stages = [MBConvConfig(*stage, width, published_depth) for stage in _EFFICIENTNET]
    blocks = repeats([stage.num_layers for stage in stages], depth)
    for stage, number in zip(stages, blocks, strict=True):
        stage.num_layers = number
    # B5 to B7 have batch norms of their own, as torchvision has them from their authors.
    own = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
    return models.EfficientNet(
        stages,
        dropout,
        num_classes=classes,
        norm_layer=own if name >= "efficientnet_b5" else nn.BatchNorm2d,
    )
