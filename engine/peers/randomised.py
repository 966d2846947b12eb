"""Random widths that cost as much as the limits allow."""

from dataclasses import dataclass

import numpy as np

from engine.codec import digest
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.spec import NetworkSpec

SPREAD = 2.0
"""Widths are drawn log-uniformly between 1/2 and 2 times a common multiplier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomWidths:
    """Random relative widths, multiplied as far as the limits go: the control of any allocation.

    ``draw`` numbers the draws of one seed; the mean over several is what an allocation must beat.
    """

    draw: int = 0
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"random-{self.draw}"

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        rng = np.random.default_rng(int(digest(("random widths", question.seed, self.draw)), 16))
        shape = {g: SPREAD ** rng.uniform(-1, 1) for g, _ in question.base.widths}

        def make(multiplier: float) -> NetworkSpec:
            return question.base.with_widths(
                {
                    group: question.graph.round_width(group, width * shape[group] * multiplier)
                    for group, width in question.base.widths
                }
            )

        return question.largest(make, 1 / SPREAD, SPREAD * question.max_width, self.limits)
