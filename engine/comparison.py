"""Ways to scale one network under the same limits, side by side: values and their statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy.stats import ttest_rel

from engine.codec import STRICT
from engine.results import Latency
from engine.spec import NetworkSpec

BASE = "base"
"""The base network, which every method begins with."""
OURS = "hacscale"
"""The result of the run, which others are compared with."""
LEVEL = 0.05
"""Two methods are told apart at this significance, paired by seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a method answers, measured but not trained.

    Attributes:
        limits: those that the method keeps.
        rounds: networks that were measured until the latency limit held.
        search_seconds, search_trials: trainings that the answer rests on, over all workers.
    """

    __pydantic_config__ = STRICT

    method: str
    spec: NetworkSpec
    macs: int
    params: int
    latency: Latency
    limits: tuple[Literal["latency", "params"], ...]
    rounds: int
    search_seconds: float
    search_trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One method of a comparison: its network and what came of training it.

    Attributes:
        accuracies: on the test split, by seed; None where that training failed.
    """

    __pydantic_config__ = STRICT

    proposal: Proposal
    accuracies: tuple[float | None, ...]

    @property
    def trained(self) -> tuple[float, ...]:
        """Accuracies of the seeds that finished."""
        return tuple(accuracy for accuracy in self.accuracies if accuracy is not None)

    @property
    def mean(self) -> float | None:
        """Mean accuracy over the seeds that finished."""
        return fmean(self.trained) if self.trained else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds, None for fewer than two."""
        return stdev(self.trained) if len(self.trained) > 1 else None

    @property
    def gflops_per_second(self) -> float:
        """Achieved arithmetic: two operations for every multiply-accumulate, over measured time."""
        return 2e-6 * self.proposal.macs / self.proposal.latency.ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All methods under one pair of limits.

    Attributes:
        latency_limit_ms, params_limit: what every network was to keep.
        refusals: methods that do not apply, and why.
        environment: what latency was measured on.
        data: what the networks were trained and judged on.
    """

    __pydantic_config__ = STRICT

    name: str
    latency_limit_ms: float
    params_limit: int
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]
    refusals: dict[str, str]
    environment: dict[str, str]
    data: str

    def entry(self, method: str) -> Entry:
        """Returns the entry of a method."""
        return next(entry for entry in self.entries if entry.proposal.method == method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One method against another, paired by seed.

    Attributes:
        mean: of the second minus the first, in accuracy.
        low, high: 95 % confidence interval; infinite with fewer than two common seeds.
        verdict: ``better``, ``worse`` or ``tie``.
    """

    mean: float
    low: float
    high: float
    verdict: Literal["better", "worse", "tie"]


def difference(first: Entry, second: Entry) -> Difference | None:
    """Compares two methods by the paired t-test over the seeds that both finished.

    Where the differences of all seeds are equal there is no spread to test against: it is a tie
    if they are zero, and otherwise their sign decides.

    Returns:
        None if they have no common seed.
    """
    pairs = [
        (a, b)
        for a, b in zip(first.accuracies, second.accuracies, strict=True)
        if a is not None and b is not None
    ]
    if not pairs:
        return None
    gains = [b - a for a, b in pairs]
    mean = fmean(gains)
    if len(gains) < 2:
        return Difference(mean=mean, low=-math.inf, high=math.inf, verdict="tie")
    if max(gains) == min(gains):
        return Difference(mean=mean, low=mean, high=mean, verdict=_verdict(mean, mean))
    tested = ttest_rel([b for _, b in pairs], [a for a, _ in pairs])
    interval = tested.confidence_interval(1 - LEVEL)  # pyright: ignore[reportAttributeAccessIssue]
    low, high = float(interval.low), float(interval.high)
    return Difference(mean=mean, low=low, high=high, verdict=_verdict(low, high))


def _verdict(low: float, high: float) -> Literal["better", "worse", "tie"]:
    return "better" if low > 0 else "worse" if high < 0 else "tie"


def ranked(comparison: Comparison) -> Sequence[Entry]:
    """Returns the entries by mean accuracy, the best first; those without one last."""
    return sorted(
        comparison.entries,
        key=lambda entry: -math.inf if entry.mean is None else entry.mean,
        reverse=True,
    )
