"""What every latency model can do, and the networks that it holds for."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from engine.codec import STRICT, canonical
from engine.costs import LayerCost, NetworkCost
from engine.errors import UserError, nearest
from engine.recipe import Profile
from engine.spec import ModelRef, NetworkSpec

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The networks that a model was fitted on; it is not extrapolated.

    Attributes:
        widths: (fewest, most) channels by group.
        resolutions: (lowest, highest), in pixels.
    """

    __pydantic_config__ = STRICT

    model: ModelRef
    widths: dict[str, tuple[int, int]]
    resolutions: tuple[int, int]

    def __post_init__(self) -> None:
        for low, high in (self.resolutions, *self.widths.values()):
            if not 1 <= low <= high:
                raise ValueError(f"a range must satisfy 1 <= low <= high, not {(low, high)}")

    @classmethod
    def around(
        cls, graph: "NetworkGraph", base: NetworkSpec, resolutions: Sequence[int], profile: Profile
    ) -> "Box":
        """Returns the box of ``profile`` around ``base``, at its resolution and ``resolutions``."""
        pixels = (base.resolution, *resolutions)
        return cls(
            model=base.model,
            widths={
                group: (
                    graph.round_width(group, width * profile.min_width),
                    graph.round_width(group, width * profile.max_width),
                )
                for group, width in base.widths
            },
            resolutions=(min(pixels), max(pixels)),
        )

    def check(self, spec: NetworkSpec) -> None:
        """Raises a UserError if ``spec`` lies outside."""
        if spec.model != self.model:
            raise UserError(
                f"the latency model is of {self.model.name!r} with {self.model.classes} classes "
                f"and {self.model.channels} channels, not of {spec.model.name!r} with "
                f"{spec.model.classes} and {spec.model.channels}; profile that network"
            )
        low, high = self.resolutions
        if not low <= spec.resolution <= high:
            raise UserError(
                f"the latency model was fitted at {low} to {high} px, not at {spec.resolution} px; "
                "profile that resolution too"
            )
        for group, width in spec.widths:
            self.check_width(group, width)

    def check_width(self, group: str, width: int) -> None:
        """Raises a UserError if the box does not reach ``width`` channels of ``group``."""
        if group not in self.widths:
            raise UserError(
                f"the latency model has no width group {group!r}{nearest(group, self.widths)}"
            )
        low, high = self.widths[group]
        if not low <= width <= high:
            raise UserError(
                f"the latency model was fitted with {low} to {high} channels of {group}, "
                f"not {width}; widen profile.min_width or profile.max_width"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel(ABC):
    """Predicts latency on one device as a sum over ops, so that one change asks few of them.

    `predict` is ``offset_ms`` plus `layer_ms` of every op. No prediction falls when a width grows,
    nor when the resolution does, but where the device was seen to run another algorithm. Equal
    questions have equal answers, also of a model that was read back.
    `engine.hardware.models` makes models and reads them. The latency after a change of one group
    is `engine.widening.NetworkWidening.after`.

    Attributes:
        kind: its name in ``profile.model``.
        box: the networks that it holds for.
        scale: from the sum of the ops to the whole network.
        offset_ms: latency that belongs to no single op.
    """

    __pydantic_config__ = STRICT

    kind: str
    box: Box
    scale: float = 1.0
    offset_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "offset_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be finite and not negative, not {getattr(self, name)}"
                )

    @abstractmethod
    def op_ms(self, cost: LayerCost) -> float:
        """Returns the latency of one op before calibration.

        Raises:
            UserError: the model knows no op of that class; the message names the op.
        """

    def granularity(self, cost: LayerCost) -> int:
        """Returns how many output channels the device computes together; 1 if none was found."""
        return 1

    def fast_multiples(self, cost: LayerCost) -> tuple[int, int]:
        """Returns what input and output channels must be multiples of for this op to be fast.

        Unlike a step of the staircase that `granularity` tells, a width between two such multiples
        takes longer than the next. 1 where that was not found, or ``cost`` itself is between two.
        """
        return 1, 1

    def layer_ms(self, cost: LayerCost) -> float:
        """Returns what one op adds to the network's latency beyond ``offset_ms``.

        Raises:
            UserError: like `op_ms`.
        """
        return self.scale * self.op_ms(cost)

    def predict(self, cost: NetworkCost) -> float:
        """Returns the latency of a whole network in ms. `check` its spec first.

        Raises:
            UserError: like `op_ms`.
        """
        return self.offset_ms + sum([self.layer_ms(layer) for layer in cost.layers])

    def check(self, spec: NetworkSpec) -> None:
        """Raises a UserError if ``spec`` lies outside the box."""
        self.box.check(spec)

    def rescaled(self, factor: float) -> Self:
        """Returns the model with every prediction multiplied by ``factor``."""
        return replace(self, scale=self.scale * factor, offset_ms=self.offset_ms * factor)

    def to_json(self) -> str:
        """Returns canonical JSON, which holds ``kind``."""
        return canonical(self).decode()


def op_class(cost: LayerCost) -> str:
    """Returns which ops share coefficients: the kind, convolutions by kernel and grouping.

    All transposed convolutions are one class, whatever their kernel.
    """
    if cost.kind != "conv":
        return cost.kind
    grouped = " grouped" if cost.groups > 1 else ""
    return f"conv {cost.kernel[0]}x{cost.kernel[1]}{grouped}"


def unknown_op(cost: LayerCost, known: Iterable[str]) -> UserError:
    """Returns the error for an op of a class that is not among ``known``."""
    return UserError(
        f"the latency model knows no op like {cost.name!r} ({op_class(cost)})"
        f"{nearest(op_class(cost), known)}; profile the network again, or add rows of such layers "
        "to the table that it was made from"
    )
