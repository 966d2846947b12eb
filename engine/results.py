"""What each stage of a run puts into the store: plain values, in the order of the stages."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from engine.codec import STRICT
from engine.limits import Usage
from engine.profile_key import ProfileKey
from engine.rows import Epoch
from engine.spec import NetworkSpec

MOST_NOISE = 0.15
"""A measurement with a larger noise floor says little: it is repeated, and excuses nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What the stages need to know of the data set without reading it again.

    Attributes:
        name: for people.
        digest: identity of images, labels and split.
        train_images, validation_images, test_images: sizes of the splits.
        mean, std: of each channel over the training split, for pixels in [0, 1]; networks are
            trained on images normalised with them.
        original: median side of the training images as they came, cut to squares, in pixels; None
            in runs that did not note it.
    """

    __pydantic_config__ = STRICT

    name: str
    digest: str
    classes: int
    channels: int
    train_images: int
    validation_images: int
    test_images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    original: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished full training.

    Attributes:
        val_accuracy, test_accuracy: shares in [0, 1], last epoch.
        weights: file of the run store with the weights.
    """

    __pydantic_config__ = STRICT

    row: str
    val_accuracy: float
    test_accuracy: float
    history: tuple[Epoch, ...]
    weights: str


LatencyVerdict = Literal["within", "within noise", "over"]
"""Whether a measured latency keeps its limit, or exceeds it by no more than the noise floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Measured latency of one network.

    Attributes:
        ms: the figure that counts: the shortest forward of all visits while the reference network
            beside them was as fast as ever, see `engine.bench.counting`; where there are fewer than
            two of those, the median of all visits, each over the reference. By CPU time of the
            thread with one thread, by CUDA events on a GPU, else by the wall clock.
        wall_ms_min, wall_ms_median, wall_ms_p95: wall clock, uncorrected.
        wall_ms_mean50: the paper's statistic, mean of 50 calls (fewer where fewer were made).
        noise_floor: about two standard errors of ``ms`` as a ratio to the reference network, over
            ``ms``: from how near the shortest visits of both come to each other, and no less than
            that of as many visits to the reference; see `engine.measure.noise_floor`. Where
            sessions are compared, it holds how much slower or faster the reference was in this one
            (`engine.measure.Timing.rescaled`).
        cpu_ms: CPU time of the thread, uncorrected, the median of all calls; None on a GPU.
        energy_mj: energy of one forward as a sensor of the device measured it, all that the device
            used meanwhile; None where no sensor answers, and the environment says why.
        power_mw: mean power of the device over those forwards; None with ``energy_mj``.
        idle_mw: power of the device right before, with nothing to do; None with ``energy_mj``.
    """

    __pydantic_config__ = STRICT

    ms: float
    wall_ms_min: float
    wall_ms_median: float
    wall_ms_p95: float
    wall_ms_mean50: float
    noise_floor: float
    cpu_ms: float | None = None
    energy_mj: float | None = None
    power_mw: float | None = None
    idle_mw: float | None = None

    def verdict(self, limit_ms: float) -> LatencyVerdict:
        """Returns whether it keeps the limit, or exceeds it by no more than its noise.

        Noise above `MOST_NOISE` excuses nothing: a disturbed measurement must not hide a broken
        limit.
        """
        if self.ms <= limit_ms:
            return "within"
        noise = min(self.noise_floor, MOST_NOISE)
        return "within noise" if self.ms / limit_ms - 1 <= noise else "over"

    @classmethod
    def constant(cls, ms: float, noise_floor: float = 0.0) -> "Latency":
        """Returns that of a device whose every forward takes ``ms``."""
        return cls(
            ms=ms,
            wall_ms_min=ms,
            wall_ms_median=ms,
            wall_ms_p95=ms,
            wall_ms_mean50=ms,
            noise_floor=noise_floor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineResult:
    """The base network: what it costs and, trained like the result, how good it is.

    Attributes:
        memory_bytes: of its weights and its activations at their peak (`engine.memory`).
        key: what its latency, and with it every latency of the run, is valid for.
    """

    __pydantic_config__ = STRICT

    spec: NetworkSpec
    macs: int
    params: int
    memory_bytes: int
    latency: Latency
    key: ProfileKey
    trained: Trained

    @property
    def usage(self) -> Usage:
        """What it uses of each limited resource."""
        return Usage(latency_ms=self.latency.ms, params=self.params, memory_bytes=self.memory_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuality:
    """How wrong a latency model is on whole networks that it has not seen.

    Attributes:
        mape: mean of the absolute error over the measured latency, a share.
        rmspe: root of the mean square of that error.
        within_10: share of networks within ±10 %.
        spearman: rank correlation.
        predicted_ms, measured_ms: by network.
    """

    __pydantic_config__ = STRICT

    mape: float
    rmspe: float
    within_10: float
    spearman: float
    predicted_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileResult:
    """A latency model of one device for one network, and how far to trust it.

    Attributes:
        model: the latency model's own canonical JSON (`engine.hardware.models`).
        granularity: channels, of the output or of the input, that the device computes together, by
            class of op; 1 where none was found.
        noise_floor: median of those of the timed networks, relative.
        key: what the model is valid for.
        environment: what was measured on: device, versions, state.
    """

    __pydantic_config__ = STRICT

    model: str
    quality: ModelQuality
    granularity: dict[str, int]
    noise_floor: float
    key: ProfileKey
    environment: dict[str, str]
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What short trainings of a network came to on the validation split.

    Attributes:
        accuracies, losses: after the last epoch, by repeat; a failed repeat is absent.
    """

    __pydantic_config__ = STRICT

    accuracies: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()

    @property
    def accuracy(self) -> float:
        """Mean over repeats; NaN where all failed."""
        return fmean(self.accuracies) if self.accuracies else math.nan

    @property
    def merit(self) -> tuple[bool, float, float]:
        """What networks are compared by, the greater the better: accuracy, then a low loss."""
        if not self.accuracies:
            return False, 0.0, 0.0
        return True, self.accuracy, -fmean(self.losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaCandidate(Judged):
    """One network of the α search, with every α that rounds to it.

    Attributes:
        macs_ratio: realised MACs over the base network's.
    """

    __pydantic_config__ = STRICT

    alphas: tuple[float, ...]
    spec: NetworkSpec
    macs_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaResult:
    """The winner of the α search.

    Attributes:
        alpha: of the winner (the first that was asked).
        standard_error: of the winner's mean accuracy, from the spread pooled over candidates; None
            where no candidate has two finished repeats.
        tied: how many other candidates cannot be told from the winner (`engine.judging.tied`); None
            with ``standard_error``.
        failed: rows that failed.
        budget: s that α splits; None in runs that did not note it, of which it is the recipe's.
    """

    __pydantic_config__ = STRICT

    alpha: float
    resolution: int
    standard_error: float | None
    tied: int | None
    candidates: tuple[AlphaCandidate, ...]
    failed: int
    budget: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceSample:
    """One sampled network: what the fit needs of its row."""

    __pydantic_config__ = STRICT

    row: str
    index: int
    widths: dict[str, int]
    importance: dict[str, float]
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """All sampled networks of a run that finished, and the errors of those that did not.

    Attributes:
        networks: how many were trained; fewer than the recipe's if every b was known well enough.
    """

    __pydantic_config__ = STRICT

    samples: tuple[ImportanceSample, ...]
    failures: tuple[str, ...]
    networks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportancePredictor:
    """I(C) = a·C^b of one width group (Eq. 6).

    Attributes:
        r2: of the fit, in log space.
        sum_r2: of the importance summed over the kernels, C·I(C); a mean over C kernels has 1/C
            in it and is easy to fit, this is not.
        b_low, b_high: 95 % interval of the group's own b (`engine.predictors.b_intervals`); None
            where it has none.
        flag: empty, or what is to be known of it: why ``b`` is not the group's own but the pooled
            one, or that the importance was zero in some samples.
    """

    __pydantic_config__ = STRICT

    a: float
    b: float
    b_se: float
    r2: float
    sum_r2: float
    flag: str
    b_low: float | None = None
    b_high: float | None = None

    def __call__(self, width: float) -> float:
        """Predicted importance at ``width`` channels."""
        return self.a * width**self.b


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """A predictor for every width group."""

    __pydantic_config__ = STRICT

    predictors: dict[str, ImportancePredictor]


Reason = Literal["latency", "params", "memory", "width cap"]
"""Why a group grows no further: the limit that its next step breaks, or its widest width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of an allocation: which group got how wide, and the network's usage after it."""

    __pydantic_config__ = STRICT

    group: str
    width: int
    importance: float
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Widths that keep the limits, and how they were found.

    Attributes:
        start, usage: usage of the first and of the returned network, as predicted.
        closed: group to the reason it grew no further.
        stop_reason: a sentence.
    """

    __pydantic_config__ = STRICT

    widths: dict[str, int]
    start: Usage
    usage: Usage
    limit: Usage
    steps: tuple[Step, ...]
    closed: dict[str, Reason]
    stop_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of the closed loop: an allocation, and what its network measured.

    Attributes:
        factor: on the latency model in this round.
        room: share that the prediction was raised by, to leave room for noise; 1 in the first
            round.
    """

    __pydantic_config__ = STRICT

    allocation: Allocation
    latency: Latency
    factor: float
    room: float

    @property
    def predicted_ms(self) -> float:
        """What the model of this round expects, without the room."""
        return self.allocation.usage.latency_ms / self.room


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateResult:
    """What the closed loop chose.

    Attributes:
        spec: the network to train.
        memory_bytes: of its weights and its activations at their peak (`engine.memory`).
        rounds: all that were measured.
        chosen: index of the round that ``spec`` is of.
    """

    __pydantic_config__ = STRICT

    spec: NetworkSpec
    macs: int
    params: int
    memory_bytes: int
    rounds: tuple[Round, ...]
    chosen: int

    @property
    def allocation(self) -> Allocation:
        """That of ``spec``."""
        return self.rounds[self.chosen].allocation

    @property
    def latency(self) -> Latency:
        """Of ``spec`` as measured, untrained."""
        return self.rounds[self.chosen].latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Judged):
    """A network that keeps the limits and may be the answer.

    Attributes:
        method: what made it.
        memory_bytes: of its weights and its activations at their peak (`engine.memory`).
        predicted_ms: by the latency model that chose its widths; what was measured where that
            knows no such network.
        latency: as measured, untrained.
        rounds: networks that were measured until the latency limit held.
        trained: rows of the trainings that it was judged by, and of those that its method needed
            beyond what the search knew.
    """

    __pydantic_config__ = STRICT

    method: str
    spec: NetworkSpec
    macs: int
    params: int
    memory_bytes: int
    predicted_ms: float
    latency: Latency
    rounds: int
    trained: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceFigures:
    """How well the response surface (`engine.response`) tells losses of networks left out.

    Attributes:
        r2: negative where the mean loss predicts better.
        rmse: of the loss.
        losses: that it was fitted to.
    """

    __pydantic_config__ = STRICT

    r2: float
    rmse: float
    losses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseResult:
    """The answer of a run, and what else it could have been.

    Attributes:
        candidates: that of Algorithm 1 first.
        chosen: index of the answer.
        left_out: why a rival has no network, by its name.
        surface: of the sampled losses; None where too few networks have one.
        tied: how many other candidates that keep the latency limit as well as the answer cannot be
            told from it (`engine.judging.tied`); None where no repeats tell their spread.
    """

    __pydantic_config__ = STRICT

    candidates: tuple[Candidate, ...]
    chosen: int
    left_out: dict[str, str]
    surface: SurfaceFigures | None = None
    tied: int | None = None

    @property
    def winner(self) -> Candidate:
        """The answer."""
        return self.candidates[self.chosen]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFigures:
    """Latency of the result, in ms.

    Attributes:
        predicted: by the latency model of the round that chose the result.
        chosen: measured when the result was chosen; the loop is closed on this figure.
        measured: measured once more, after the choice.
        noise_floor: of ``measured``, relative: about two standard errors (`engine.measure`).
        rounds: networks that the closed loop measured.
        verdict: of ``measured``.
    """

    __pydantic_config__ = STRICT

    limit: float
    predicted: float
    chosen: float
    measured: float
    noise_floor: float
    rounds: int
    verdict: LatencyVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """Memory of the result against its limits.

    Attributes:
        limit, used: parameters.
        bytes_limit: None if it is not limited.
        bytes_used: weights and activations at their peak.
    """

    __pydantic_config__ = STRICT

    limit: int
    used: int
    bytes_limit: int | None
    bytes_used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyFigures:
    """Accuracies as shares in [0, 1]; test data was used once for each of the two networks."""

    __pydantic_config__ = STRICT

    baseline_test: float
    test: float
    val: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorFigures:
    """Eq. 6 of one width group."""

    __pydantic_config__ = STRICT

    a: float
    b: float
    r2: float
    flag: str
    b_low: float | None = None
    b_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``result.json``, documented in docs/result.md and stable."""

    __pydantic_config__ = STRICT

    alpha: float
    resolution: int
    widths: dict[str, int]
    params: int
    macs: int
    latency_ms: LatencyFigures
    memory: MemoryFigures
    accuracy: AccuracyFigures
    predictors: dict[str, PredictorFigures]
    method: str
    stop_reason: str
    seed: int
    recipe_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """All networks trained for so many epochs.

    Attributes:
        accuracies: on the validation split, last epoch, by network; None where training failed.
        seconds: of all these trainings.
    """

    __pydantic_config__ = STRICT

    epochs: int
    accuracies: tuple[float | None, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityLadder:
    """The same networks trained for different times.

    Attributes:
        key: of the recipe that it belongs to; a run whose recipe has changed does not show it.
        rungs: by epochs, the shortest first.
    """

    __pydantic_config__ = STRICT

    key: str = ""
    networks: tuple[NetworkSpec, ...]
    rungs: tuple[Rung, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything a report shows: the outputs of all stages of one run.

    Attributes:
        fidelity: None where no ladder was climbed.
    """

    name: str
    recipe: str
    data: DataFacts
    baseline: BaselineResult
    profile: ProfileResult
    alpha: AlphaResult
    sample: SampleResult
    fit: FitResult
    allocate: AllocateResult
    choose: ChooseResult
    trained: Trained
    latency: Latency
    result: Result
    failures: tuple[str, ...]
    fidelity: FidelityLadder | None = None
