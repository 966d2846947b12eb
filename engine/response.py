"""A response surface of the validation loss over widths and resolution.

Every sampled network has a validation loss beside its importance. The surface

    L(w, r) = L∞ + Σ_g β_g · (w_g / base_g)^(−p) + β_r · (r / base_r)^(−p),    β ≥ 0,

falls with every width and with the resolution, with diminishing returns. Its marginal gain per
channel, −∂L/∂w_g = β_g·p·base_g^p · w_g^(−p−1), is a power law of the width like Eq. 6, so that
Algorithm 1 can be run on it as it stands (`ResponseSurface.predictors`).

`engine.response_fit` finds it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from engine.codec import STRICT
from engine.results import ImportancePredictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A trained network, as the surface sees it."""

    resolution: int
    widths: Mapping[str, int]
    loss: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.loss):
            raise ValueError(f"loss must be finite, not {self.loss}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSurface:
    """The fitted surface.

    Attributes:
        base, base_resolution: what widths and resolution are relative to.
        floor: L∞.
        gains: β by group, never negative.
        resolution_gain: β_r; 0 where all observations have one resolution.
        exponent: p.
        pull: weight of the prior.
        rmse: of the loss of networks left out.
        r2: of the same predictions; negative where the mean loss predicts better.
    """

    __pydantic_config__ = STRICT

    base: dict[str, int]
    base_resolution: int
    floor: float
    gains: dict[str, float]
    resolution_gain: float
    exponent: float
    pull: float
    rmse: float
    r2: float

    def __call__(self, widths: Mapping[str, int], resolution: int) -> float:
        """Returns the predicted validation loss."""
        at_width = sum(
            gain * (widths[group] / self.base[group]) ** -self.exponent
            for group, gain in self.gains.items()
        )
        at_resolution = (resolution / self.base_resolution) ** -self.exponent
        return self.floor + at_width + self.resolution_gain * at_resolution

    def predictors(self) -> dict[str, ImportancePredictor]:
        """Returns the loss that one more channel takes away, by group, as power laws of the width.

        ``r2`` is the surface's, ``b_se`` and ``sum_r2`` are 0: the exponent is shared.
        """
        return {
            group: ImportancePredictor(
                a=gain * self.exponent * self.base[group] ** self.exponent,
                b=-self.exponent - 1.0,
                b_se=0.0,
                r2=self.r2,
                sum_r2=0.0,
                flag="" if gain > 0 else "no gain was seen",
            )
            for group, gain in self.gains.items()
        }
