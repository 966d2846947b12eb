"""How numbers and the outcome of a run are put into words, alike in terminal and report."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from engine.results import LatencyFigures, MemoryFigures, RunRecord

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage: ``93.4 %``."""
    return f"{_rounded(100 * share, digits):.{digits}f}\u00a0%".replace("-", "−")


def points(share: float) -> str:
    """A difference of two shares: ``+1.2 points``."""
    return f"{_rounded(100 * share, 1):+.1f}\u00a0points".replace("-", "−")


def _rounded(number: float, digits: int) -> float:
    return round(number, digits) + 0.0  # no minus before a zero


def milliseconds(ms: float) -> str:
    """A latency, fine enough to tell it from its limit: ``7.912 ms``, ``12.35 ms``."""
    digits = 3 if ms < 10 else 2 if ms < 100 else 1
    return f"{ms:.{digits}f}\u00a0ms"


def count(number: float) -> str:
    """A large count in three digits: ``576 k``, ``9.23 M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        # 999.6 k would print as 1e+03 k: it belongs to the next unit.
        if number >= 0.9995 * size:
            value = number / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}\u00a0{unit}"
    return f"{number:.0f}"


def ratio(after: float, before: float) -> str:
    """How many times larger: ``×1.33``."""
    return f"×{after / before:.2f}"


def scientific(number: float) -> str:
    """Three digits and a power of ten: ``1.23·10⁻⁵``."""
    mantissa, exponent = f"{number:.2e}".split("e")
    return f"{mantissa.replace('-', '−')}·{power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    """``10⁻⁵``."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def signed(number: float, digits: int = 2) -> str:
    """A number with a true minus sign: ``−1.31``."""
    return f"{number:.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """``−1.52 … −1.20``, or empty where there is none."""
    return "" if low is None or high is None else f"{signed(low)} … {signed(high)}"


def no_power(environment: Mapping[str, str]) -> str:
    """Why no sensor measured power, from what `engine.environment` tells."""
    _, told, why = environment.get("power", "").partition("not measured: ")
    return why if told else "no sensor was read"


def plural(number: int, noun: str) -> str:
    """``1 network``, ``8 networks``."""
    return f"{number}\u00a0{noun}{'' if number == 1 else 's'}"


def latency_verdict(figures: LatencyFigures) -> str:
    """Whether the measured latency keeps its limit; empty if it does."""
    if figures.verdict == "within":
        return ""
    noise = percent(figures.noise_floor)
    inside = f"inside the noise floor of {noise}"
    beyond = f"the noise floor is {noise}"
    which = inside if figures.verdict == "within noise" else beyond
    excess = figures.measured / figures.limit - 1
    return f"latency is {percent(excess, 2)} over its limit ({which})"


def memory_verdicts(figures: MemoryFigures) -> list[str]:
    """Which of parameters and memory exceed their limits, and by how much."""
    kept = {
        "parameters are": (figures.used, figures.limit),
        "weights and activations are": (figures.bytes_used, figures.bytes_limit),
    }
    return [
        f"{what} {percent(used / limit - 1, 2)} over their limit"
        for what, (used, limit) in kept.items()
        if limit is not None and used > limit
    ]


def verdict(record: RunRecord) -> str:
    """The outcome of a run in one sentence."""
    result = record.result
    accuracy, latency, memory = result.accuracy, result.latency_ms, result.memory
    misses = [m for m in (latency_verdict(latency), *memory_verdicts(memory)) if m]
    every = "both" if memory.bytes_limit is None else "all"
    return (
        f"Scaled {record.baseline.spec.model.name} reaches {percent(accuracy.test)} test accuracy, "
        f"{points(accuracy.test - accuracy.baseline_test)} against the base network's "
        f"{percent(accuracy.baseline_test)}{_rests_on(record)}, with "
        f"{milliseconds(latency.measured)} of {milliseconds(latency.limit)} and "
        f"{count(memory.used)} of {count(memory.limit)} parameters allowed: "
        f"{' and '.join(misses) or f'{every} limits are kept'}."
    )


def _rests_on(record: RunRecord) -> str:
    """Says what the difference rests on, and so where the two accuracies cannot be told apart.

    The test images are a sample: the difference of two shares p and q of n images has the standard
    error √((p(1−p) + q(1−q)) / n), taken as independent; means of other scores in [0, 1] have no
    more than that. Seeds add to it.
    """
    accuracy, images = record.result.accuracy, record.data.test_images
    p, q = accuracy.test, accuracy.baseline_test
    resolved = 1.96 * math.sqrt((p * (1 - p) + q * (1 - q)) / images)
    if abs(p - q) > resolved:
        return " (one training of each)"
    return (
        f" (one training of each, a tie: {images:,} test images tell apart no less than "
        f"{100 * resolved:.1f} points)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One quantity of the base network and of the result, as text; empty where there is none."""

    quantity: str
    baseline: str
    result: str
    limit: str = ""
    change: str = ""


def comparisons(record: RunRecord) -> tuple[Quantity, ...]:
    """Base network against result, quantity by quantity."""
    base, result = record.baseline, record.result
    latency, memory, accuracy = result.latency_ms, result.memory, result.accuracy
    return (
        Quantity(
            quantity="Test accuracy",
            baseline=percent(accuracy.baseline_test, 2),
            result=percent(accuracy.test, 2),
            change=points(accuracy.test - accuracy.baseline_test),
        ),
        Quantity(
            quantity="Validation accuracy",
            baseline=percent(base.trained.val_accuracy, 2),
            result=percent(accuracy.val, 2),
            change=points(accuracy.val - base.trained.val_accuracy),
        ),
        Quantity(
            quantity="Latency, measured",
            baseline=milliseconds(base.latency.ms),
            result=milliseconds(latency.measured),
            limit=milliseconds(latency.limit),
            change=ratio(latency.measured, base.latency.ms),
        ),
        Quantity(
            quantity="Latency, predicted",
            baseline="",
            result=milliseconds(latency.predicted),
            limit=milliseconds(latency.limit),
        ),
        Quantity(
            quantity="Parameters",
            baseline=f"{base.params:,}",
            result=f"{memory.used:,}",
            limit=f"{memory.limit:,}",
            change=ratio(memory.used, base.params),
        ),
        Quantity(
            quantity="Weights and peak activations",
            baseline=f"{base.memory_bytes:,}\u00a0B",
            result=f"{memory.bytes_used:,}\u00a0B",
            limit="" if memory.bytes_limit is None else f"{memory.bytes_limit:,}\u00a0B",
            change=ratio(memory.bytes_used, base.memory_bytes),
        ),
        Quantity(
            quantity="MACs per image",
            baseline=f"{base.macs:,}",
            result=f"{result.macs:,}",
            change=ratio(result.macs, base.macs),
        ),
        Quantity(
            quantity="Input resolution",
            baseline=f"{base.spec.resolution}\u00a0px",
            result=f"{result.resolution}\u00a0px",
            change=ratio(result.resolution, base.spec.resolution),
        ),
        Quantity(quantity="α", baseline="", result=f"{result.alpha:.3f}"),
    )
