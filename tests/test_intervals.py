"""The interval of b: a second implementation, its coverage, and the rule to stop."""

import math
import random

import numpy as np
import pytest

from engine.predictors import are_narrow, b_intervals, fit_predictors
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


def test_the_interval_is_that_of_the_normal_equations() -> None:
    """b ± t·√(σ²(XᵀX)⁻¹), with t₀.₉₇₅ of 22 degrees of freedom from a table."""
    samples = networks(24, sigma=0.2, seed=1)
    x = np.array([[1.0, math.log(s.widths["conv"])] for s in samples])
    y = np.array([math.log(s.importance["conv"]) for s in samples])
    inverse = np.linalg.inv(x.T @ x)
    line = inverse @ x.T @ y
    residuals = y - x @ line
    error = math.sqrt(residuals @ residuals / 22 * inverse[1, 1])
    expected = (line[1] - 2.0739 * error, line[1] + 2.0739 * error)
    assert b_intervals(samples, ["conv"])["conv"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("count", [5, 8, 32])
def test_the_interval_covers_the_true_exponent_as_often_as_it_says(count: int) -> None:
    covered, searches = 0, 400
    for seed in range(searches):
        interval = b_intervals(networks(count, sigma=0.3, seed=seed), ["conv"])["conv"]
        assert interval is not None
        covered += interval[0] <= -1.3 <= interval[1]
    # 95 %, give or take three standard errors of a share of 400.
    assert covered / searches == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / searches))


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


def test_the_rule_to_stop_is_the_half_width() -> None:
    assert are_narrow({"a": (-1.1, -0.9), "b": (-2.0, -1.9)}, 0.11)
    assert not are_narrow({"a": (-1.1, -0.9), "b": (-2.0, -1.7)}, 0.11)


def test_predictors_carry_the_interval_of_their_own_fit() -> None:
    samples = networks(16, sigma=0.2, seed=5)
    predictor = fit_predictors(samples, ["conv"]).predictors["conv"]
    assert (predictor.b_low, predictor.b_high) == b_intervals(samples, ["conv"])["conv"]
    assert predictor.b_low < predictor.b < predictor.b_high
