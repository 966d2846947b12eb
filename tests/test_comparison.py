"""Statistics of a comparison against formulas by hand."""

import math
from statistics import fmean, stdev

import pytest
from example_comparison import entry

from engine.comparison import difference


def test_the_interval_is_that_of_students_t() -> None:
    first, second = entry("a", 0.60, 0.62, 0.61), entry("b", 0.63, 0.66, 0.63)
    gains = [0.03, 0.04, 0.02]
    found = difference(first, second)
    half = 4.302653 * stdev(gains) / math.sqrt(3)  # t of 2 degrees of freedom, 97.5 %
    assert found.mean == pytest.approx(fmean(gains))
    assert (found.low, found.high) == pytest.approx((0.03 - half, 0.03 + half), rel=1e-5)
    assert found.verdict == "better"
    back = difference(second, first)
    assert (back.low, back.high, back.verdict) == (
        pytest.approx(-found.high), pytest.approx(-found.low), "worse",
    )  # fmt: skip


def test_what_cannot_be_told_apart_is_a_tie() -> None:
    noisy = difference(entry("a", 0.60, 0.65, 0.62), entry("b", 0.64, 0.63, 0.66))
    assert noisy.verdict == "tie" and noisy.mean > 0
    once = difference(entry("a", 0.6), entry("b", 0.9))
    assert once.verdict == "tie" and once.high == math.inf
    same = difference(entry("a", 0.6, 0.7), entry("b", 0.6, 0.7))
    assert (same.mean, same.verdict) == (0, "tie")


def test_seeds_that_failed_are_left_out_of_both() -> None:
    found = difference(entry("a", 0.6, None, 0.7), entry("b", 0.62, 0.9, 0.73))
    assert found.mean == pytest.approx(0.025)
    assert difference(entry("a", None, 0.5), entry("b", 0.5, None)) is None
    assert entry("a", None).mean is None and entry("a", 0.5, None).spread is None


def test_achieved_arithmetic() -> None:
    """10 M multiply-accumulates in 2 ms are 20 M operations in 2 ms: 10 GFLOP/s."""
    assert entry("a", 0.5, macs=10_000_000, ms=2.0).gflops_per_second == pytest.approx(10.0)
