"""Statistics of a comparison against formulas by hand."""

import csv
import io
import math
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from example_comparison import comparison, entry
from rich.console import Console

from engine.comparison import difference
from engine.comparison_figures import draw_comparison
from engine.comparison_view import notes, render_comparison, render_csv, render_page_of, rows
from engine.nearness import nearness, rank_correlation


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


def test_the_table_says_what_breaks_a_limit_and_what_is_a_tie() -> None:
    shown = rows(
        comparison(
            entry("hacscale", 0.60, 0.62, 0.61),
            entry("flat", 0.63, 0.66, 0.63, ms=1.54),
            entry("uniform-params", 0.60, 0.63, 0.60, ms=1.52, params=800_001),
            entry("depth", None, None, None, ms=1.6),
        )
    )
    assert [row.method for row in shown] == ["flat", "hacscale", "uniform-params", "depth"]
    by_name = {row.method: row for row in shown}
    assert by_name["flat"].against == "better, +3.0\u00a0points"
    assert by_name["flat"].latency.endswith("!")
    assert by_name["hacscale"].accuracy == "61.0\u00a0% ± 1.0" and not by_name["hacscale"].against
    assert by_name["uniform-params"].against == "tie"
    assert not by_name["uniform-params"].latency.endswith("!")  # inside the noise floor of 2 %
    assert by_name["uniform-params"].params.endswith("!")
    assert by_name["depth"].accuracy == "failed" and by_name["depth"].against == ""


def test_the_csv_holds_the_numbers() -> None:
    text = render_csv(comparison(entry("hacscale", 0.5, 0.7), entry("flat", 0.6, None)))
    ours, flat = csv.DictReader(io.StringIO(text))
    assert (ours["method"], float(ours["top1_mean"])) == ("hacscale", pytest.approx(0.6))
    assert float(ours["top1_sd"]) == pytest.approx(math.sqrt(0.02), rel=1e-4)
    assert (flat["seeds"], flat["top1_sd"], flat["low_95"], flat["verdict"]) == ("1", "", "", "tie")


def test_terminal_table_and_notes() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(
        render_comparison(comparison(entry("hacscale", 0.5, 0.7), depth="no depth to multiply"))
    )
    text = console.export_text()
    assert "top-1 ± sd" in text and "depth is left out: no depth to multiply" in text


def test_a_cheaper_source_of_importance_is_ranked_by_its_widths() -> None:
    """Multipliers 1, 2, 4, 3 against 1, 2, 3, 4: ρ = 1 − 6·(1 + 1)/(4·15) = 0.8."""

    def widths(method: str, seconds: float, *channels: int):
        one = entry(method, 0.6)
        spec = replace(one.proposal.spec, widths=tuple(zip("abcd", channels, strict=True)))
        return replace(one, proposal=replace(one.proposal, spec=spec, search_seconds=seconds))

    found = comparison(
        widths("base", 0, 8, 16, 8, 8),
        widths("hacscale", 800, 8, 32, 32, 24),
        widths("hacscale-slimmable", 94, 8, 32, 24, 32),
        widths("hacscale-initial", 9, 8, 16, 8, 8),
    )
    assert rank_correlation(found, "hacscale", "hacscale-slimmable") == pytest.approx(0.8)
    slimmable, initial = nearness(found)
    assert "ρ = 0.80; 94 s of training in place of 800 s" in slimmable
    assert "have no ranks" in initial and slimmable in notes(found)
    assert nearness(comparison(entry("flat", 0.5))) == []


def test_the_page_needs_nothing_and_names_every_method() -> None:
    many = [entry(f"method-{i}", 0.60 + 0.001 * i, 0.61 + 0.001 * i, ms=1.4) for i in range(12)]
    page = render_page_of(comparison(entry("hacscale", 0.62, 0.63), *many))
    assert page.startswith("<!doctype html>") and "http://" not in page.replace(
        "http://www.w3.org/", ""
    )
    for method in ("hacscale", *(e.proposal.method for e in many)):
        assert page.count(f">{method}<") >= 3  # in the table and beside two points
    assert "better than method-0" in page


def test_names_of_points_do_not_lie_on_one_another() -> None:
    many = [entry(f"method-{i}", 0.6, 0.61, ms=1.4) for i in range(10)]
    for panel in draw_comparison(comparison(*many)).panels:
        panel.drawing.canvas.draw()
        boxes = [text.get_window_extent() for text in panel.drawing.axes[0].texts]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
