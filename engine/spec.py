"""Which network: a model, an input resolution and the width of every width group."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.codec import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """The network before scaling, by reference.

    Attributes:
        name: ``"vgg11"``, ``"resnet18"`` (torchvision) or ``"package.module:factory"``, with
            options behind an @, see `engine.names.parse_name`.
        classes: outputs of the classifier.
        channels: channels of the input image.
    """

    __pydantic_config__ = STRICT

    name: str
    classes: int
    channels: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """One scaled network. Hashable; its canonical JSON is its identity.

    Attributes:
        model: the network before scaling.
        resolution: side of the square input, in pixels.
        widths: (group name, channels) for every width group, in the graph's order.
    """

    __pydantic_config__ = STRICT

    model: ModelRef
    resolution: int
    widths: tuple[tuple[str, int], ...]

    @property
    def width_of(self) -> dict[str, int]:
        """Channels by group name."""
        return dict(self.widths)

    def with_widths(self, widths: Mapping[str, int]) -> "NetworkSpec":
        """Returns the spec with some groups' widths replaced."""
        return replace(self, widths=tuple((g, widths.get(g, c)) for g, c in self.widths))

    def at(self, resolution: int) -> "NetworkSpec":
        """Returns the spec at another input resolution."""
        return replace(self, resolution=resolution)


def rounded_width(width: float, multiple: int) -> int:
    """Returns the positive multiple that is nearest to a width."""
    return max(1, round(width / multiple)) * multiple
