"""Statistics of a comparison against formulas by hand."""

import csv
import dataclasses
import io
import math
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import pytest
from example_comparison import METHODS, comparison, entry, whole_comparison
from hypothesis import given
from hypothesis import strategies as st
from quick_run import quick_recipe, without_ray
from rich.console import Console
from test_report import check_texts

from cluster.compare import compare_run
from cluster.driver import read_run, run_search
from engine.codec import decode
from engine.comparison import ComparisonFile, Entry, difference, least_visible, lines
from engine.comparison_figures import ComparisonFigures, draw_comparison, spaced_out
from engine.comparison_table import table_of
from engine.comparison_view import render_comparison, render_csv, write_comparison
from engine.comparison_words import noise, notes, twins, visible
from engine.dimensions import measure_dimensions, scale_dimensions
from engine.errors import UserError
from engine.graph import load_graph
from engine.nearness import nearness, rank_correlation
from engine.peers.methods import chosen
from engine.recipe import override
from engine.spec import ModelRef, NetworkSpec
from engine.storage import open_folder


@pytest.fixture(scope="module")
def powered() -> ComparisonFigures:
    return draw_comparison(whole_comparison(power=True))


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
    assert (same.mean, same.low, same.high, same.verdict) == (0, 0, 0, "tie")
    # One image of 300 more, twice: no spread, and no proof.
    equal = difference(entry("a", 180 / 300, 190 / 300), entry("b", 181 / 300, 191 / 300))
    assert (equal.verdict, equal.high) == ("tie", math.inf) and equal.mean > 0


def test_seeds_that_failed_are_left_out_of_both() -> None:
    found = difference(entry("a", 0.6, None, 0.7), entry("b", 0.62, 0.9, 0.73))
    assert found.mean == pytest.approx(0.025)
    assert difference(entry("a", None, 0.5), entry("b", 0.5, None)) is None
    assert entry("a", None).mean is None and entry("a", 0.5, None).spread is None


def line_of(*entries, method: str = "a"):
    return next(line for line in lines(comparison(*entries)) if line.method == method)


def test_utilisation_and_power_efficiency_follow_from_what_was_measured() -> None:
    """10 M multiply-accumulates in 2 ms are 20 M operations in 2 ms: 10 GFLOP/s.

    At 5 W the 2 ms take 10 mJ: 20 M operations in 10 mJ are 2 GFLOP/J.
    """
    ours = entry("hacscale", 0.5)
    line = line_of(ours, entry("a", 0.5, macs=10_000_000, ms=2.0, power_w=5.0))
    assert line.gflops_per_second == pytest.approx(10.0)
    assert (line.power_w, line.gflops_per_joule) == (pytest.approx(5.0), pytest.approx(2.0))
    unknown = line_of(ours, entry("a", 0.5))
    assert unknown.power_w is None and unknown.gflops_per_joule is None
    batched = dataclasses.replace(comparison(ours, entry("a", 0.5, ms=2.0)), batch=4)
    assert lines(batched)[1].gflops_per_second == pytest.approx(40.0)


def test_the_table_says_what_breaks_a_limit_and_what_is_a_tie() -> None:
    shown = table_of(
        comparison(
            entry("hacscale", 0.60, 0.62, 0.61),
            entry("flat", 0.63, 0.66, 0.63, ms=1.54),
            entry("uniform-params", 0.60, 0.63, 0.60, ms=1.52, params=800_001),
            entry("depth", None, None, None, ms=1.6),
        )
    )
    assert [line.method for line in shown.lines] == ["flat", "hacscale", "uniform-params", "depth"]
    headings = [column.short for column in shown.columns]
    by_name = {row[0]: dict(zip(headings, row, strict=True)) for row in shown.rows}
    assert by_name["flat"]["verdict"] == "better +3.0"
    assert by_name["flat"]["ms"] == "1.540!"
    assert by_name["hacscale"]["top-1"] == "61.0±1.0" and not by_name["hacscale"]["verdict"]
    assert by_name["uniform-params"]["verdict"] == "tie 0.0"
    assert by_name["uniform-params"]["ms"] == "1.520"  # inside the noise floor of 2 %
    assert by_name["uniform-params"]["params"].endswith("!")
    assert by_name["depth"]["top-1"] == "failed" and by_name["depth"]["verdict"] == ""


def test_the_least_difference_that_shows_is_half_an_interval() -> None:
    gains = [0.03, 0.04, 0.02]
    half = 4.302653 * stdev(gains) / math.sqrt(3)
    made = comparison(entry("hacscale", 0.60, 0.62, 0.61), entry("flat", 0.63, 0.66, 0.63))
    assert least_visible(lines(made)) == pytest.approx((half, half, half), rel=1e-5)
    assert f"below about {100 * half:.1f} points is a tie" in visible(made)
    once = comparison(entry("hacscale", 0.6), entry("flat", 0.9))
    assert least_visible(lines(once)) is None and "every difference is called a tie" in visible(
        once
    )


def test_the_csv_holds_the_numbers() -> None:
    text = render_csv(comparison(entry("hacscale", 0.5, 0.7), entry("flat", 0.6, None)))
    ours, flat = csv.DictReader(io.StringIO(text))
    assert (ours["method"], float(ours["top1_mean"])) == ("hacscale", pytest.approx(0.6))
    assert float(ours["top1_sd"]) == pytest.approx(math.sqrt(0.02), rel=1e-4)
    assert (flat["seeds"], flat["top1_sd"], flat["low_95"], flat["verdict"]) == ("1", "", "", "tie")
    assert flat["power_w"] == flat["gflops_per_joule"] == ""


def test_eighty_columns_hold_the_table_of_all_methods() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_comparison(whole_comparison()))
    text = console.export_text()
    assert "…" not in text
    table = text.split("\n\n")[1].splitlines()
    assert len(table) == 1 + len(METHODS)
    assert table[0].split() == ["method", "params", "MACs", "px", "ms", "GF/s", "top-1", "verdict",
                                "search"]  # fmt: skip
    said = " ".join(text.split())
    assert "Power and GFLOP/J were not measured: the system shows no RAPL counter." in said
    assert "lfv is left out: no such method" in said


def test_measured_power_has_columns_and_no_excuse(powered: ComparisonFigures) -> None:
    made = whole_comparison(power=True)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_comparison(made))
    text = console.export_text()
    assert "…" not in text and "not measured" not in text
    assert [c.heading for c in table_of(made).columns][6:8] == ["power, W", "GFLOP/J"]
    names = [panel.name for panel in powered.panels]
    assert names[:6] == ["accuracy-latency", "accuracy-params", "utilisation", "efficiency",
                         "dimensions-utilisation", "dimensions-latency"]  # fmt: skip


def test_a_cheaper_source_of_importance_is_ranked_by_its_widths() -> None:
    """Multipliers 1, 2, 4, 3 against 1, 2, 3, 4: ρ = 1 − 6·(1 + 1)/(4·15) = 0.8."""

    def widths(method: str, seconds: float, trials: int, *channels: int):
        one = entry(method, 0.6)
        spec = dataclasses.replace(
            one.proposal.spec, widths=tuple(zip("abcd", channels, strict=True))
        )
        return dataclasses.replace(
            one,
            proposal=dataclasses.replace(
                one.proposal, spec=spec, search_seconds=seconds, search_trials=trials
            ),
        )

    found = comparison(
        widths("base", 0, 0, 8, 16, 8, 8),
        widths("hacscale", 990, 20, 8, 17, 8, 8),
        widths("uniform-alpha", 300, 12, 8, 17, 8, 8),
        widths("hacscale-per-limit", 800, 20, 8, 32, 32, 24),
        widths("hacscale-slimmable", 394, 13, 8, 32, 24, 32),
        widths("hacscale-initial", 309, 13, 8, 16, 8, 8),
    )
    assert rank_correlation(found, "hacscale-per-limit", "hacscale-slimmable") == pytest.approx(0.8)
    slimmable, initial = nearness(found)
    # Without the 300 s that found the resolution, on both sides.
    assert "ρ = 0.80; 94 s of training in place of 500 s" in slimmable
    assert "have no ranks" in initial and slimmable in notes(found)
    assert nearness(comparison(entry("flat", 0.5))) == []
    alone = comparison(
        widths("base", 0, 0, 8, 16, 8, 8),
        widths("hacscale", 990, 20, 8, 17, 8, 8),
        widths("hacscale-per-limit", 800, 20, 8, 32, 32, 24),
        widths("hacscale-slimmable", 394, 13, 8, 32, 24, 32),
    )
    assert nearness(alone)[0].endswith("correlate by rank with ρ = 0.80.")
    cheap = comparison(
        widths("base", 0, 0, 8, 16, 8, 8),
        widths("hacscale", 990, 20, 8, 17, 8, 8),
        widths("uniform-alpha", 300, 12, 8, 17, 8, 8),
        widths("hacscale-per-limit", 394, 13, 8, 32, 32, 24),
        widths("hacscale-initial", 309, 13, 8, 16, 8, 8),
    )
    assert nearness(cheap) == [], "the run's own importance is of a cheaper source"


def with_floor(found: Entry, floor: float) -> Entry:
    latency = dataclasses.replace(found.proposal.latency, noise_floor=floor)
    return dataclasses.replace(found, proposal=dataclasses.replace(found.proposal, latency=latency))


def test_latencies_that_were_not_told_well_are_named() -> None:
    rows = [with_floor(entry(m, 0.5), f) for m, f in (("hacscale", 0.02), ("flat", 0.04))]
    assert "is 3.0\u00a0% in the median, 4.0\u00a0% at most." in noise(comparison(*rows))
    said = noise(comparison(*rows, with_floor(entry("depth", 0.5), 0.39)))
    assert "is 4.0\u00a0% in the median" in said
    assert "those of depth (39.0\u00a0%)" in said and "flat" not in said
    assert said in notes(comparison(*rows, with_floor(entry("depth", 0.5), 0.39)))


def test_methods_with_one_network_are_named_together() -> None:
    """It is no difference that seeds could show, and none that they could not."""
    made = comparison(*(entry(m, 0.5) for m in ("hacscale", "flat", "base")))
    (said,) = twins(made)
    assert said == "One network each: hacscale and flat and base."
    assert said in notes(made)
    widths = made.spec("flat").with_widths({g: w + 1 for g, w in made.spec("flat").widths})
    flat = made.entry("flat")
    other = dataclasses.replace(flat, proposal=dataclasses.replace(flat.proposal, spec=widths))
    assert twins(comparison(made.entry("hacscale"), other)) == []
    assert least_visible(lines(made)) is None


def test_the_files_of_a_comparison(tmp_path: Path, powered: ComparisonFigures) -> None:
    made = whole_comparison()
    write_comparison(made, open_folder(tmp_path))
    kept = decode(ComparisonFile, (tmp_path / "comparison.json").read_bytes(), "comparison.json")
    assert kept.comparison == made and kept.table == lines(made)
    page = (tmp_path / "comparison.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    for method in METHODS:
        assert page.count(f">{method}<") >= 4  # in the table, beside two points and at a bar
    names = {panel.name for panel in powered.panels} - {"efficiency"}
    files = {path.name for path in (tmp_path / "comparison").iterdir()}
    assert files == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}


def test_no_text_of_a_figure_is_clipped_or_lies_on_another(powered: ComparisonFigures) -> None:
    for panel in powered.panels:
        check_texts(panel)


def test_every_method_is_a_point_and_a_bar(powered: ComparisonFigures) -> None:
    made = whole_comparison(power=True)
    panels = {panel.name: panel for panel in powered.panels}
    points = [
        tuple(line.get_xydata()[0])
        for line in panels["accuracy-latency"].drawing.axes[0].get_lines()
        if line.get_marker() == "o"
    ]
    table = lines(made)
    assert points == [pytest.approx((x.latency_ms, 100 * x.top1_mean)) for x in table]
    bars = [bar.get_width() for bar in panels["utilisation"].drawing.axes[0].patches]
    assert bars == pytest.approx([line.gflops_per_second for line in table])


@given(st.lists(st.floats(0, 300), max_size=20))
def test_names_keep_their_distance_and_their_order(wanted: list[float]) -> None:
    places = spaced_out(wanted, 15, 300)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    sorted_places = [places[i] for i in order]
    assert all(b - a >= 15 - 1e-9 for a, b in pairwise(sorted_places))
    assert max(places, default=0) <= 300 and min(places, default=0) >= -1e-9


def test_dimensions_scale_one_thing_alone_and_leave_out_a_depth_that_is_none() -> None:
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    base = graph.spec(32, 0.25)
    asked: list[NetworkSpec] = []

    def measure(specs):
        asked.extend(specs)
        return [entry("", ms=1.0 + k).proposal.latency for k in range(len(specs))]

    found = measure_dimensions(graph, base, 2, measure)
    assert set(found.families) == {"width", "depth", "resolution"}
    assert len(asked) == len(set(asked)) == 10  # the unscaled network once
    wide, tall = found.families["width"][2], found.families["resolution"][2]
    assert wide.params > 3 * found.families["width"][0].params
    assert tall.macs == pytest.approx(4 * found.families["resolution"][0].macs, rel=0.01)
    first = found.families["depth"][0]
    assert first.gflops_per_second(2) == pytest.approx(4e-6 * first.macs / first.latency.ms)
    small = load_graph(ModelRef(name="shufflenet_v2_x0_5", classes=10), 32)
    assert "depth" not in scale_dimensions(small, small.spec(32))


def test_a_score_of_ones_own_is_not_called_top_1() -> None:
    made = whole_comparison()
    assert "top-1, %" in [column.heading for column in table_of(made).columns]
    scored = dataclasses.replace(made, metric="mine:overlap")
    assert "score, %" in [column.heading for column in table_of(scored).columns]
    said = " ".join(notes(scored))
    assert "Score on the test split" in said
    assert "top-1" not in said.lower()


@dataclasses.dataclass(frozen=True)
class Doubtful:
    """Trains one network as the search trains them, and answers the base network; or has none."""

    name: str = "doubtful"
    answers: bool = True
    limits: tuple[str, ...] = ("latency", "params")
    rests_on: tuple[str, ...] = ()

    def propose(self, question):
        if not self.answers:
            raise UserError("this network has no such dimension")
        question.train([question.short(question.multiplied(1.25))])
        return question.base


def test_a_comparison_goes_on_where_it_stopped_and_counts_each_search_alone(tmp_path: Path) -> None:
    recipe = override(quick_recipe(), ["alpha.training.epochs=2", "sample.training.epochs=2"])
    assert recipe.alpha.training == recipe.sample.training
    output = io.StringIO()
    with without_ray():
        run_search(recipe, tmp_path, "quick", console=Console(quiet=True))
        methods = [Doubtful(), *chosen("response"), Doubtful(name="refuser", answers=False)]
        done = compare_run(tmp_path, methods, 2, console=Console(file=output, width=200))
        again = compare_run(tmp_path, methods, 2, console=Console(quiet=True))
    assert again == done
    table = {line.method: line for line in lines(done)}
    known = read_run(tmp_path)
    searched = known.sample.networks + sum(len(c.accuracies) for c in known.alpha.candidates)
    searched += len({row for c in known.choose.candidates for row in c.trained})
    assert table["hacscale"].search_trials == searched
    assert table["hacscale"].search_seconds == 2.0 * searched
    assert table["doubtful"].search_trials == 1 and table["base"].search_trials == 0
    assert done.refusals == {"refuser": "this network has no such dimension"}
    assert {family[0].macs for family in done.dimensions.families.values()} == {
        table["base"].macs
    }  # fmt: skip
    told = output.getvalue()
    for method in ("doubtful", "response"):
        assert f"✓ propose-{method}: " in told
    assert "✓ propose-refuser: left out: this network has no such dimension" in told
    assert "✓ dimensions: width, depth, resolution alone, measured" in told
    kept = decode(ComparisonFile, (tmp_path / "comparison.json").read_bytes(), "comparison.json")
    assert kept.comparison == done
