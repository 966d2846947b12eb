"""What each stage of a run puts into the store: plain values, in the order of the stages."""

from dataclasses import dataclass
from typing import Literal

from engine.codec import STRICT
from engine.limits import Usage
from engine.rows import Epoch
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What the stages need to know of the data set without reading it again.

    Attributes:
        name: for people.
        digest: identity of images, labels and split.
        train_images, validation_images, test_images: sizes of the splits.
        mean, std: of each channel over the training split, for pixels in [0, 1]; networks are
            trained on images normalised with them.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Measured latency of one network.

    Attributes:
        ms: the figure that counts: the median over rounds of each round's minimum, corrected by
            the drift of the reference network that was timed in the same rounds.
        wall_ms_min, wall_ms_median, wall_ms_p95: wall clock, uncorrected.
        wall_ms_mean50: the paper's statistic, mean of 50 calls (fewer where fewer were made).
        noise_floor: relative spread (max − min) / median of ``ms`` over rounds.
    """

    __pydantic_config__ = STRICT

    ms: float
    wall_ms_min: float
    wall_ms_median: float
    wall_ms_p95: float
    wall_ms_mean50: float
    noise_floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineResult:
    """The base network: what it costs and, trained like the result, how good it is."""

    __pydantic_config__ = STRICT

    spec: NetworkSpec
    macs: int
    params: int
    latency: Latency
    trained: Trained


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuality:
    """How wrong a latency model is on whole networks that it has not seen.

    Attributes:
        mape: mean of the absolute error over the measured latency, a share.
        within_10: share of networks within ±10 %.
        spearman: rank correlation.
        predicted_ms, measured_ms: by network.
    """

    __pydantic_config__ = STRICT

    mape: float
    within_10: float
    spearman: float
    predicted_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileResult:
    """A latency model of one device for one network, and how far to trust it.

    Attributes:
        model: the latency model's own canonical JSON (`engine.hardware.models`).
        environment: what was measured on: device, versions, threads.
    """

    __pydantic_config__ = STRICT

    model: str
    quality: ModelQuality
    environment: dict[str, str]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaCandidate:
    """One network of the α search, with every α that rounds to it.

    Attributes:
        macs_ratio: realised MACs over the base network's.
        accuracies: validation accuracy by repeat; a failed repeat is absent.
    """

    __pydantic_config__ = STRICT

    alphas: tuple[float, ...]
    spec: NetworkSpec
    macs_ratio: float
    accuracies: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaResult:
    """The winner of the α search.

    Attributes:
        alpha: of the winner (the first that was asked).
        standard_error: of the winner's mean accuracy, from the spread pooled over candidates; None
            where no candidate has two finished repeats.
        tied: how many other candidates lie within two standard errors of a difference; None with
            ``standard_error``.
        failed: rows that failed.
    """

    __pydantic_config__ = STRICT

    alpha: float
    resolution: int
    standard_error: float | None
    tied: int | None
    candidates: tuple[AlphaCandidate, ...]
    failed: int


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
        b_low, b_high: 95 % interval of the group's own b, by bootstrap over the networks; None
            where it has none.
        flag: empty, or why ``b`` was replaced by the pooled one.
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
        closed: group to the reason it grew no further, ``latency``, ``params`` or ``width cap``.
        stop_reason: a sentence.
    """

    __pydantic_config__ = STRICT

    widths: dict[str, int]
    start: Usage
    usage: Usage
    limit: Usage
    steps: tuple[Step, ...]
    closed: dict[str, Literal["latency", "params", "width cap"]]
    stop_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateResult:
    """The last allocation of the closed loop.

    Attributes:
        spec: the network to train.
        latency: of ``spec`` as measured, untrained.
        rescaled: factor on the latency model in each round; the first makes it right for the
            base network.
    """

    __pydantic_config__ = STRICT

    spec: NetworkSpec
    macs: int
    params: int
    allocation: Allocation
    latency: Latency
    rescaled: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFigures:
    """Latency of the result, in ms; ``noise_floor`` is relative."""

    __pydantic_config__ = STRICT

    limit: float
    predicted: float
    measured: float
    noise_floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """Parameters of the result against their limit."""

    __pydantic_config__ = STRICT

    limit: int
    used: int


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
    stop_reason: str
    seed: int
    recipe_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything a report shows: the outputs of all stages of one run."""

    name: str
    recipe: str
    data: DataFacts
    baseline: BaselineResult
    profile: ProfileResult
    alpha: AlphaResult
    sample: SampleResult
    fit: FitResult
    allocate: AllocateResult
    trained: Trained
    latency: Latency
    result: Result
    failures: tuple[str, ...]
