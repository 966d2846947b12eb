"""The interval of b: a naive second implementation, its coverage, and the rule to stop."""

import math
import random

import numpy as np
import pytest

from engine.bootstrap import are_narrow, b_intervals
from engine.predictors import fit_predictors
from engine.results import ImportanceSample


def networks(count: int, sigma: float, seed: int, b: float = -1.3) -> list[ImportanceSample]:
    rng = random.Random(seed)
    found = []
    for i in range(count):
        width = round(64 * 4 ** rng.uniform(-0.5, 0.5))
        found.append(
            ImportanceSample(
                row=f"row{i}",
                index=i,
                widths={"conv": width},
                importance={"conv": 3e-5 * width**b * math.exp(rng.gauss(0, sigma))},
                val_loss=1.0,
                val_accuracy=0.5,
            )
        )
    return found


def naive_interval(samples: list[ImportanceSample], seed: int) -> tuple[float, float]:
    rng = random.Random(seed)
    slopes = []
    for _ in range(4000):
        drawn = rng.choices(samples, k=len(samples))
        log_widths = [math.log(s.widths["conv"]) for s in drawn]
        log_importances = [math.log(s.importance["conv"]) for s in drawn]
        slopes.append(np.polyfit(log_widths, log_importances, 1)[0])
    low, high = np.percentile(slopes, [2.5, 97.5])
    return float(low), float(high)


def test_a_naive_bootstrap_agrees() -> None:
    samples = networks(24, sigma=0.2, seed=1)
    found = b_intervals(samples, ["conv"])["conv"]
    assert found is not None
    # 1000 against 4000 resamples: the ends have a Monte Carlo error of some percent of the width.
    expected = naive_interval(samples, seed=2)
    assert found == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))


def test_the_interval_covers_the_true_exponent_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        interval = b_intervals(networks(32, sigma=0.3, seed=seed), ["conv"])["conv"]
        assert interval is not None
        covered += interval[0] <= -1.3 <= interval[1]
    assert 85 <= covered <= 100


def test_four_times_the_networks_halve_the_interval() -> None:
    def mean_width(count: int) -> float:
        found = [b_intervals(networks(count, 0.3, seed), ["conv"])["conv"] for seed in range(20)]
        return float(np.mean([interval[1] - interval[0] for interval in found if interval]))

    assert mean_width(24) / mean_width(96) == pytest.approx(2, rel=0.2)


def test_an_exact_power_law_is_known_exactly_and_a_dead_group_not_at_all() -> None:
    samples = networks(12, sigma=0.0, seed=3)
    found = b_intervals(samples, ["conv"])
    assert found["conv"] == pytest.approx((-1.3, -1.3))
    assert are_narrow(found, 1e-6)
    for sample in samples:
        sample.widths["dead"], sample.importance["dead"] = sample.widths["conv"], 0.0
    found = b_intervals(samples, ["conv", "dead"])
    assert found["dead"] is None
    assert not are_narrow(found, 100.0)


def test_a_group_of_one_width_has_no_interval() -> None:
    samples = networks(12, sigma=0.1, seed=4)
    for sample in samples:
        sample.widths["conv"] = 8
    assert b_intervals(samples, ["conv"]) == {"conv": None}


def test_few_networks_have_no_interval() -> None:
    """Of four, many resamples are of two networks: their slopes are no 95 %."""
    assert b_intervals(networks(7, sigma=0.1, seed=4), ["conv"]) == {"conv": None}
    assert b_intervals(networks(8, sigma=0.1, seed=4), ["conv"])["conv"] is not None


def test_the_rule_to_stop_is_the_half_width() -> None:
    assert are_narrow({"a": (-1.1, -0.9), "b": (-2.0, -1.9)}, 0.11)
    assert not are_narrow({"a": (-1.1, -0.9), "b": (-2.0, -1.7)}, 0.11)


def test_predictors_carry_the_interval_of_their_own_fit() -> None:
    samples = networks(16, sigma=0.2, seed=5)
    predictor = fit_predictors(samples, ["conv"]).predictors["conv"]
    assert (predictor.b_low, predictor.b_high) == b_intervals(samples, ["conv"])["conv"]
    assert predictor.b_low < predictor.b < predictor.b_high
