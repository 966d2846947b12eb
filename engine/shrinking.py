"""What a training does to the widths of its network, and what it records of them."""

from dataclasses import dataclass
from typing import Literal

from engine.codec import STRICT
from engine.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """Channels are pruned during a training, the least important of all groups first.

    As many go each time, so that the last step of the training prunes the last of them, unless a
    group would lose its last channel before: then no more are pruned.

    Source: NeuralScale (Lee and Lee 2020), whose program begins after 10 epochs and prunes 10
    filters every 50 batches, about 4 times an epoch of CIFAR at batch 256: 67 epochs for 95 % of
    the 2,752 filters of VGG-11. Deviation: these proportions are kept in trainings of other
    lengths and for other networks, and so more or fewer than 10 channels go each time.

    Attributes:
        share: of all channels that are gone at the end.
        per_epoch: how often some are pruned, at most as often as there are steps.
        times: how often in the whole training, at least; for trainings of few epochs.
        warmup: share of the steps before the first are pruned.
    """

    __pydantic_config__ = STRICT

    share: float = 0.95
    per_epoch: int = 4
    times: int = 64
    warmup: float = 0.13

    def __post_init__(self) -> None:
        require(0 < self.share < 1, "share must lie in (0, 1)", self.share)
        require(self.per_epoch >= 1, "per_epoch must be at least 1", self.per_epoch)
        require(self.times >= 1, "times must be at least 1", self.times)
        require(0 <= self.warmup < 1, "warmup must lie in [0, 1)", self.warmup)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsifying:
    """The scales of batch norm are pushed towards zero, each by what its channel costs.

    Attributes:
        resource: what a channel costs: multiply-accumulates or parameters.
        strength: how far the push alone moves the scale of a channel of mean cost in the whole
            training. Scales begin at 1.
        threshold: a channel whose scale is no larger than that is gone.
    """

    __pydantic_config__ = STRICT

    resource: Literal["macs", "params"]
    strength: float
    threshold: float = 0.01

    def __post_init__(self) -> None:
        require(self.strength > 0, "strength must be above zero", self.strength)
        require(0 < self.threshold < 1, "threshold must lie in (0, 1)", self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """The network that was left at some moment of a training.

    Attributes:
        params: of a network with these widths.
        widths: channels that were left, by group.
    """

    __pydantic_config__ = STRICT

    params: int
    widths: dict[str, int]
