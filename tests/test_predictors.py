"""Eq. 6: recovery of known predictors, the guards, and a second implementation."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.stats import t as student_t

from engine.codec import canonical, decode
from engine.errors import UserError
from engine.predictors import fit_predictor, fit_predictors
from engine.results import FitResult, ImportanceSample

WIDTHS = [32, 40, 45, 64, 70, 91, 100, 128]


def noisy(a: float, b: float, sigma: float, seed: int, widths: list[int] = WIDTHS) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, sigma, len(widths))
    return [a * c**b * math.exp(e) for c, e in zip(widths, noise, strict=True)]


def samples(
    importance: dict[str, list[float]], widths: dict[str, list[int]] | None = None
) -> list[ImportanceSample]:
    widths = widths or {}
    count = len(next(iter(importance.values())))
    return [
        ImportanceSample(
            row=f"row{i}",
            index=i,
            widths={g: widths.get(g, WIDTHS)[i] for g in importance},
            importance={g: values[i] for g, values in importance.items()},
            val_loss=1.0,
            val_accuracy=0.5,
        )
        for i in range(count)
    ]


def fit(
    importance: dict[str, list[float]], widths: dict[str, list[int]] | None = None
) -> FitResult:
    result = fit_predictors(samples(importance, widths), list(importance))
    # What the store takes is finite and comes back unchanged.
    assert decode(FitResult, canonical(result), "fit") == result
    return result


# One group -----------------------------------------------------------------------------------


@given(
    log_a=st.floats(-35, 8),
    b=st.floats(-3, 2),
    widths=st.lists(st.integers(1, 4096), min_size=3, max_size=20, unique=True),
)
def test_without_noise_a_and_b_are_recovered(log_a: float, b: float, widths: list[int]) -> None:
    spread = math.log(max(widths) / min(widths))
    if spread < 0.2:
        widths = [1, 10, 100]
    a = math.exp(log_a)
    found = fit_predictor(widths, [a * c**b for c in widths])
    assert found.b == pytest.approx(b, abs=1e-9)
    assert found.a == pytest.approx(a, rel=1e-8)
    assert found.b_se < 1e-6
    assert found.flag == ""
    if abs(b) > 0.01:
        assert found.r2 == pytest.approx(1, abs=1e-9)
        assert found(50) == pytest.approx(a * 50**b, rel=1e-8)
    if abs(b + 1) > 0.01:
        assert found.sum_r2 == pytest.approx(1, abs=1e-9)


def test_the_true_b_lies_within_the_stated_error() -> None:
    """Coverage of the 95 % interval over 600 seeds; ±3 standard errors of 95 % are 92.3–97.7."""
    quantile = student_t.ppf(0.975, len(WIDTHS) - 2)
    fits = [fit_predictor(WIDTHS, noisy(1e-8, -1.4, 0.2, seed)) for seed in range(600)]
    covered = [abs(f.b + 1.4) <= quantile * f.b_se for f in fits]
    assert 0.923 <= sum(covered) / len(covered) <= 0.977
    assert statistics.fmean(f.b for f in fits) == pytest.approx(-1.4, abs=0.03)


def test_numpy_polyfit_agrees() -> None:
    for seed in range(20):
        values = noisy(3e-7, -1.2, 0.3, seed)
        x, y = np.log(WIDTHS), np.log(values)
        (slope, intercept), covariance = np.polyfit(x, y, 1, cov=True)
        residual = y - slope * x - intercept
        found = fit_predictor(WIDTHS, values)
        assert found.b == pytest.approx(slope, rel=1e-9)
        assert found.a == pytest.approx(math.exp(intercept), rel=1e-9)
        assert found.b_se == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-9)
        assert found.r2 == pytest.approx(1 - residual.var() / y.var(), rel=1e-9)
        # The sum C·I has the same residuals around a line of slope b + 1.
        assert found.sum_r2 == pytest.approx(1 - residual.var() / (x + y).var(), rel=1e-9)


def test_a_fit_of_the_values_themselves_agrees_when_noise_is_small() -> None:
    """The paper's form: non-linear least squares on I, here on data scaled to order one."""
    values = np.array(noisy(2e-9, -1.3, 0.01, seed=4))
    scale = values.mean()
    widths = np.array(WIDTHS) / 64
    (level, b), _ = curve_fit(lambda c, a, b: a * c**b, widths, values / scale, p0=(1, -1))
    found = fit_predictor(WIDTHS, values.tolist())
    assert found.b == pytest.approx(b, abs=0.02)
    assert found(64) == pytest.approx(level * scale, rel=0.01)


@given(seed=st.integers(0, 10_000), exponent=st.integers(-240, 240))
def test_scaling_the_importance_scales_a_and_nothing_else(seed: int, exponent: int) -> None:
    values = noisy(1.0, -1.4, 0.2, seed)
    one = fit_predictor(WIDTHS, values)
    other = fit_predictor(WIDTHS, [v * 10.0**exponent for v in values])
    assert other.a == pytest.approx(one.a * 10.0**exponent, rel=1e-9)
    for name in ("b", "b_se", "r2", "sum_r2"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9, abs=1e-12)


def test_importance_near_1e_12_is_fitted() -> None:
    found = fit_predictor(WIDTHS, noisy(1e-12, -1.4, 0.05, seed=0))
    assert found.b == pytest.approx(-1.4, abs=0.2)
    assert found.a == pytest.approx(1e-12, rel=0.7)


def test_constant_importance_has_no_r2_to_speak_of() -> None:
    found = fit_predictor(WIDTHS, [3e-9] * len(WIDTHS))
    assert (found.b, found.b_se, found.r2) == (0, 0, 0)
    assert found.a == pytest.approx(3e-9)
    assert found.sum_r2 == pytest.approx(1)
    shares = fit_predictor(WIDTHS, [3e-9 / c for c in WIDTHS])
    assert shares.r2 == pytest.approx(1)
    assert shares.sum_r2 == 0


@pytest.mark.parametrize("bad", [0.0, -1e-9, math.nan, math.inf])
def test_values_without_a_logarithm_are_refused(bad: float) -> None:
    with pytest.raises(UserError, match="importance of a fit must be finite and above zero"):
        fit_predictor([8, 16, 32], [1.0, bad, 0.5])
    with pytest.raises(UserError, match="width of a fit must be finite and above zero"):
        fit_predictor([8, bad, 32], [1.0, 0.7, 0.5])


@pytest.mark.parametrize("widths", [[], [8], [8, 8, 8], [8, 16, 8, 16]])
def test_fewer_than_three_distinct_widths_are_refused(widths: list[int]) -> None:
    with pytest.raises(UserError, match=f"not {len(set(widths))}; raise sample.networks"):
        fit_predictor(widths, [1.0] * len(widths))


def test_widths_too_close_for_a_power_law_are_refused() -> None:
    with pytest.raises(UserError, match=r"widen sample\.min_width"):
        fit_predictor([4000, 4001, 4002], [1.0, 0.9, 0.8])


# All groups ----------------------------------------------------------------------------------


def test_sound_groups_keep_their_own_fit() -> None:
    importance = {f"g{i}": noisy(1e-9 * (i + 1), -1.2 - i / 10, 0.1, seed=i) for i in range(4)}
    result = fit(importance)
    assert list(result.predictors) == list(importance)
    for group, values in importance.items():
        found = replace(result.predictors[group], b_low=None, b_high=None)
        assert found == fit_predictor(WIDTHS, values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1e-9 * c**0.5 for c in WIDTHS], "its own b = 0.5 is not below -0.1"),
        ([1e-9 * c**-0.05 for c in WIDTHS], "its own b = -0.05 is not below -0.1"),
        (noisy(1e-9, -0.5, 2.0, seed=3), "its own R² = 0."),
        ([2e-9] * len(WIDTHS), "its own b = 0 is not below -0.1"),
    ],
)
def test_an_unsound_group_gets_the_pooled_b_and_its_own_level(
    values: list[float], reason: str
) -> None:
    sound = {f"g{i}": [1e-9 * c**b for c in WIDTHS] for i, b in enumerate((-1.0, -1.5, -1.1))}
    result = fit(sound | {"odd": values})
    odd = result.predictors["odd"]
    assert odd.b == pytest.approx(-1.1)
    assert reason in odd.flag
    assert "the median of 3 sound groups" in odd.flag
    level = statistics.geometric_mean(v * c**1.1 for v, c in zip(values, WIDTHS, strict=True))
    assert odd.a == pytest.approx(level)
    own = fit_predictor(WIDTHS, values)
    assert (odd.b_se, odd.r2, odd.sum_r2) == (own.b_se, own.r2, own.sum_r2)
    assert all(result.predictors[g].flag == "" for g in sound)


def with_b_and_r2(b: float, r2: float) -> list[float]:
    """Importance whose fit has exactly this b and R²: a residual orthogonal to log C is added."""
    x = np.log(WIDTHS)
    x = x - x.mean()
    residual = np.random.default_rng(0).normal(size=len(x))
    residual -= residual.mean() + x * (residual @ x) / (x @ x)
    residual *= math.sqrt((b * b) * (x @ x) * (1 - r2) / r2 / (residual @ residual))
    return (1e-9 * np.exp(b * x + residual)).tolist()


@pytest.mark.parametrize(
    ("b", "r2", "sound"),
    [(-0.101, 0.9, True), (-0.099, 0.9, False), (-1.4, 0.501, True), (-1.4, 0.499, False)],
)
def test_the_guards_stand_where_they_are_stated(b: float, r2: float, sound: bool) -> None:
    values = with_b_and_r2(b, r2)
    own = fit_predictor(WIDTHS, values)
    assert (own.b, own.r2) == (pytest.approx(b), pytest.approx(r2))
    assert (fit({"g": values}).predictors["g"].flag == "") == sound


def test_without_any_sound_group_b_is_the_default() -> None:
    result = fit({"up": [1e-9 * c for c in WIDTHS], "flat": [1e-9] * len(WIDTHS)})
    for predictor in result.predictors.values():
        assert predictor.b == -1
        assert "the default, as none is sound" in predictor.flag
    flat = result.predictors["flat"]
    assert flat.a == pytest.approx(1e-9 * statistics.geometric_mean(WIDTHS))


def test_a_group_with_two_widths_is_pooled_not_fatal() -> None:
    """A group of 8 channels whose width must be a multiple of 8 has few widths to sample."""
    result = fit(
        {"g": [c**-1.2 for c in WIDTHS], "narrow": [1.0, 0.4] * 4},
        widths={"narrow": [8, 16] * 4},
    )
    narrow = result.predictors["narrow"]
    assert narrow.b == pytest.approx(-1.2)
    assert "at least 3 distinct widths, not 2" in narrow.flag
    assert narrow.a == pytest.approx(math.sqrt(1.0 * 8**1.2 * 0.4 * 16**1.2))


def test_a_layer_that_died_in_one_sample_is_fitted_to_the_others() -> None:
    values = [1e-9 * c**-1.3 for c in WIDTHS]
    result = fit({"g": [0.0, *values[1:]], "other": values})
    g = result.predictors["g"]
    assert g.b == pytest.approx(-1.3)
    assert g.a == pytest.approx(1e-9)
    assert g.flag == "importance is zero in 1 of 8 samples"
    assert result.predictors["other"].flag == ""


def test_a_dead_group_is_predicted_to_be_zero() -> None:
    result = fit({"dead": [0.0] * 8, "other": [c**-1.3 for c in WIDTHS]})
    dead = result.predictors["dead"]
    assert dead(64) == 0
    assert dead.flag.startswith("importance is zero in 8 of 8 samples")
    with pytest.raises(UserError, match="nothing was learned"):
        fit({"dead": [0.0] * 8, "dead too": [0.0] * 8})


@pytest.mark.parametrize("bad", [-1e-12, math.nan, math.inf])
def test_impossible_importance_names_the_row(bad: float) -> None:
    with pytest.raises(UserError, match="group 'g' in sample row2 must be finite"):
        fit_predictors(samples({"g": [1.0, 0.9, bad, 0.7]}), ["g"])


def test_two_samples_are_too_few() -> None:
    with pytest.raises(UserError, match="at least 3 finished samples, not 2"):
        fit_predictors(samples({"g": [1.0, 0.5]}), ["g"])


@settings(max_examples=100)
@given(
    st.lists(
        st.lists(
            st.one_of(st.just(0.0), st.floats(1e-30, 1e6)),
            min_size=len(WIDTHS),
            max_size=len(WIDTHS),
        ),
        min_size=1,
        max_size=4,
    )
)
@example([[0.0] * 7 + [1.0], [0.0, 756.0, 1.0, 5.169878828456423e-26, 0.0, 0.0, 0.0, 0.0]])
def test_whatever_the_samples_the_predictors_can_be_used(values: list[list[float]]) -> None:
    """Finite, never negative, and falling with width wherever there is any importance.

    Or refused in one line, where importance falls by tens of orders of magnitude.
    """
    importance = {f"g{i}": v for i, v in enumerate(values)}
    if not any(map(any, values)):
        return
    try:
        predictors = fit(importance).predictors
    except UserError as error:
        assert "too steep to be a power law" in str(error)
        assert max(map(max, values)) > 1e6 * min(v for group in values for v in group if v)
        return
    for group, predictor in predictors.items():
        assert predictor.b < -0.1
        assert 0 <= predictor.r2 <= 1
        assert predictor(256) < predictor(32) or not any(importance[group])
        assert predictor(32) >= 0
