"""Limits as users state them: what they come to, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UserError
from engine.limits import Limits, Usage

BASE = Usage(latency_ms=2.0, params=9_231_114)


def limits(latency: str = "2x", params: str = "2x") -> Limits:
    return Limits(latency=latency, params=params)


@pytest.mark.parametrize(
    ("latency", "params", "ms", "count"),
    [
        ("1.065x", "1.33x", 2.13, 12_277_381),  # 1.33 × 9,231,114 = 12,277,381.62
        ("8ms", "12M", 8.0, 12_000_000),
        (" 8.5 ms ", " 12000000 ", 8.5, 12_000_000),
        ("1x", "1x", 2.0, 9_231_114),
        ("3e0x", "1e7", 6.0, 10_000_000),
        ("+2x", "9300K", 4.0, 9_300_000),
        ("2x", "9300k", 4.0, 9_300_000),
        ("2x", "0.01G", 4.0, 10_000_000),
        ("2x", "9.5m", 4.0, 9_500_000),
        ("2x", "10000000.0", 4.0, 10_000_000),
        ("2x", "18.2M", 4.0, 18_200_000),  # 18.2 * 10**6 is 18,199,999.999999996
    ],
)
def test_limits_resolve_to_what_they_say(latency: str, params: str, ms: float, count: int) -> None:
    usage = limits(latency, params).resolve(BASE)
    assert usage.latency_ms == pytest.approx(ms, rel=1e-12)
    assert usage.params == count


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "ms", "8", "8s", "8 m s", "1.2.3x", ".x", "nanms", "infms", "-infms", "1e999ms",
        "٣x", "0x", "-1x", "-3ms", "0ms", "0.5x", "0.999999x", "1e15ms", "8ms; rm", "1,5x", "2x2",
    ],
)  # fmt: skip
def test_impossible_latencies_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="latency") as caught:
        limits(latency=text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "x", "12MB", "12 million", "1.5", "0", "-5", "0.9x", "1e15", "1e300G", "nan", "9ms"],
)
def test_impossible_parameter_limits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="params") as caught:
        limits(params=text)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=12))
def test_any_text_is_a_limit_or_one_line(text: str) -> None:
    for field in ("latency", "params"):
        try:
            usage = limits(**{field: text}).resolve(Usage(latency_ms=1e-9, params=1))
        except (ValueError, UserError) as error:
            assert "\n" not in str(error)
        else:
            assert math.isfinite(usage.latency_ms)


@given(st.floats(0.001, 1e4), st.floats(0.001, 0.999))
def test_the_remedy_for_a_latency_limit_below_the_baseline_works(ms: float, share: float) -> None:
    base = Usage(latency_ms=ms, params=1)
    with pytest.raises(UserError, match="below the baseline's own") as caught:
        limits(latency=f"{ms * share:.9f}ms").resolve(base)
    remedy = str(caught.value).rpartition(" ")[2]
    assert limits(latency=remedy).resolve(base).latency_ms >= ms


def test_the_remedy_for_a_parameter_limit_below_the_baseline_works() -> None:
    with pytest.raises(UserError, match="below the baseline's own 9231114") as caught:
        limits(params="1000").resolve(BASE)
    remedy = str(caught.value).rpartition(" ")[2]
    assert limits(params=remedy).resolve(BASE).params == BASE.params


@given(st.floats(0.001, 1e6), st.integers(1, 10**12))
def test_the_baseline_keeps_a_ratio_of_one(ms: float, params: int) -> None:
    base = Usage(latency_ms=ms, params=params)
    assert base.within(limits("1x", "1x").resolve(base))


def test_usage_is_within_a_limit_that_it_meets_exactly() -> None:
    assert BASE.within(BASE)
    assert not Usage(latency_ms=2.0000001, params=1).within(BASE)
    assert not Usage(latency_ms=0.1, params=BASE.params + 1).within(BASE)
