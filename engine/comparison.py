"""Ways to scale one network under the same limits, side by side: values and their statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Literal

from scipy.stats import ttest_rel

from engine.codec import STRICT
from engine.dimensions import Dimensions
from engine.display import no_power
from engine.results import FitResult, Latency, SampleResult
from engine.spec import NetworkSpec

BASE = "base"
"""The base network, which every method begins with."""
OURS = "hacscale"
"""The result of the run, which others are compared with."""
SIGNIFICANCE = 0.05
"""Two methods are told apart at this significance, paired by seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a method answers, measured but not trained.

    Attributes:
        limits: those that the method keeps.
        rounds: networks that were measured until the latency limit held.
        search_seconds, search_trials: trainings that the answer rests on, over all workers.
        trained: rows of those that the method trained itself.
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
    trained: tuple[str, ...] = ()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All methods under one pair of limits.

    Attributes:
        latency_limit_ms, params_limit: what every network was to keep.
        batch: images of one forward that is timed.
        refusals: methods that do not apply, and why.
        environment: what latency was measured on.
        data: what the networks were trained and judged on.
        sample, fit: of the run, for the figure of importance.
        dimensions: what scaling in one dimension alone does to the device; None if it was not
            measured.
        metric: ``task.metric`` of the recipe, which accuracies are.
    """

    __pydantic_config__ = STRICT

    name: str
    latency_limit_ms: float
    params_limit: int
    batch: int
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]
    refusals: dict[str, str]
    environment: dict[str, str]
    data: str
    sample: SampleResult
    fit: FitResult
    dimensions: Dimensions | None
    metric: str = "accuracy"

    @property
    def score(self) -> str:
        """What tables call the metric."""
        return "top-1" if self.metric == "accuracy" else "score"

    def entry(self, method: str) -> Entry:
        """Returns the entry of a method."""
        return next(entry for entry in self.entries if entry.proposal.method == method)

    def spec(self, method: str) -> NetworkSpec:
        """Returns the network of a method."""
        return self.entry(method).proposal.spec

    @property
    def ranked(self) -> Sequence[Entry]:
        """The entries by mean accuracy, the best first; those without one last."""
        return sorted(
            self.entries,
            key=lambda entry: -math.inf if entry.mean is None else entry.mean,
            reverse=True,
        )

    @property
    def no_power(self) -> str:
        """Why there is no measured power; empty where there is."""
        if any(entry.proposal.latency.energy_mj is not None for entry in self.entries):
            return ""
        return no_power(self.environment)


_EQUAL = 1e-9
"""Accuracies of one test split that differ by less are the same."""


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

    Where the differences of all seeds are equal there is no spread to test against, as with few
    test images: a tie, which no interval bounds unless they are zero.

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
    if not any(gains):
        return Difference(mean=0.0, low=0.0, high=0.0, verdict="tie")
    if len(gains) < 2 or max(gains) - min(gains) < _EQUAL:
        return Difference(mean=mean, low=-math.inf, high=math.inf, verdict="tie")
    tested = ttest_rel([b for _, b in pairs], [a for a, _ in pairs])
    interval = tested.confidence_interval(1 - SIGNIFICANCE)  # pyright: ignore[reportAttributeAccessIssue]
    low, high = float(interval.low), float(interval.high)
    return Difference(mean=mean, low=low, high=high, verdict=_verdict(low, high))


def _verdict(low: float, high: float) -> Literal["better", "worse", "tie"]:
    return "better" if low > 0 else "worse" if high < 0 else "tie"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One method of the table as numbers: the columns of the paper's Table I, and the search.

    Attributes:
        latency_ms: as measured, of one forward.
        power_w: mean over forwards, as a sensor of the device measured it, idle power included;
            None where none answers.
        gflops_per_second: utilisation: two operations for every multiply-accumulate of a forward,
            over its measured latency.
        gflops_per_joule: the same operations over the measured energy of a forward.
        top1_mean, top1_sd: over the seeds that finished.
        difference: mean of the method minus that of the run's result over common seeds, with its
            95 % interval and verdict; None for the run's result itself. The interval is None
            where it is infinite.
        search_seconds, search_trials: trainings that the answer rests on.
    """

    __pydantic_config__ = STRICT

    method: str
    params: int
    macs: int
    resolution: int
    latency_ms: float
    power_w: float | None
    gflops_per_second: float
    gflops_per_joule: float | None
    top1_mean: float | None
    top1_sd: float | None
    seeds: int
    difference: float | None
    low_95: float | None
    high_95: float | None
    verdict: Literal["better", "worse", "tie"] | None
    keeps_latency: bool
    keeps_params: bool
    search_seconds: float
    search_trials: int


def lines(comparison: Comparison) -> tuple[Line, ...]:
    """Returns the table, the best method first.

    The latency limit is kept up to the noise of the measurement (`engine.results.Latency.verdict`).
    """
    return tuple(_line(comparison, entry) for entry in comparison.ranked)


def _line(comparison: Comparison, entry: Entry) -> Line:
    proposal, latency = entry.proposal, entry.proposal.latency
    ours = comparison.entry(OURS)
    found = None if entry is ours else difference(ours, entry)
    gflop = 2e-9 * proposal.macs * comparison.batch
    return Line(
        method=proposal.method,
        params=proposal.params,
        macs=proposal.macs,
        resolution=proposal.spec.resolution,
        latency_ms=latency.ms,
        power_w=None if latency.power_mw is None else latency.power_mw / 1e3,
        gflops_per_second=gflop / latency.ms * 1e3,
        gflops_per_joule=None if not latency.energy_mj else gflop / latency.energy_mj * 1e3,
        top1_mean=entry.mean,
        top1_sd=entry.spread,
        seeds=len(entry.trained),
        difference=found and found.mean,
        low_95=found.low if found and math.isfinite(found.low) else None,
        high_95=found.high if found and math.isfinite(found.high) else None,
        verdict=found and found.verdict,
        keeps_latency=latency.verdict(comparison.latency_limit_ms) != "over",
        keeps_params=proposal.params <= comparison.params_limit,
        search_seconds=proposal.search_seconds,
        search_trials=proposal.search_trials,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonFile:
    """``comparison.json``: what was measured and trained, and the table that follows from it."""

    __pydantic_config__ = STRICT

    comparison: Comparison
    table: tuple[Line, ...]


def least_visible(table: Sequence[Line]) -> tuple[float, float, float] | None:
    """Returns how small a difference of accuracy the seeds could have shown.

    That is half the width of a method's 95 % interval: a mean difference below it is a tie. The
    interval of a method whose network is that of the run's result has no width, and is none.

    Returns:
        The least, the median and the largest over the methods; None without an interval.
    """
    halves = [
        (line.high_95 - line.low_95) / 2
        for line in table
        if line.low_95 is not None and line.high_95 is not None and line.low_95 < line.high_95
    ]
    return (min(halves), median(halves), max(halves)) if halves else None
