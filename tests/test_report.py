"""What a run shows of itself: the report, its figures and the terminal summary."""

import dataclasses
import io
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from example_run import example_run
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from rich.console import Console
from sklearn.metrics import r2_score

from engine import display
from engine.drawing import Panel
from engine.figures import draw_figures, write_figures
from engine.importance_figures import PANELS
from engine.report import render_report
from engine.results import Round, RunRecord
from engine.summary import render_summary

RESNET50 = tuple(
    f"layer{stage}.{block}.conv{conv}"
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 4))
    for block in range(blocks)
    for conv in (1, 2, 3)
)[:50]
NASTY = ('<b>&"$x_1$', "</svg><script>alert(1)</script>", "layer'1.0\x07[red]")
VOID = {"meta", "link", "br", "img", "hr", "input"}


def changed(record: RunRecord, path: str, **values: object) -> RunRecord:
    """The record with fields of the dataclass at a dotted path replaced."""
    if not path:
        return dataclasses.replace(record, **values)
    head, _, rest = path.partition(".")
    return dataclasses.replace(record, **{head: changed(getattr(record, head), rest, **values)})


class Page(HTMLParser):
    """Elements, text and tables of a page; fails on a tag that is closed out of turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, *start: str) -> list[str]:
        cells = [[" ".join(c.split()) for c in row] for row in self.rows]
        return next(c for c in cells if c[: len(start)] == list(start))


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return example_run()


@pytest.fixture(scope="module")
def html(record: RunRecord) -> str:
    return render_report(record)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def large() -> RunRecord:
    return example_run(RESNET50, candidates=12, steps=400, epochs=100)


def test_the_page_needs_nothing_from_outside(html: str, page: Page) -> None:
    tags = Counter(tag for tag, _ in page.elements)
    for tag in ("script", "link", "img", "iframe", "object", "embed", "base", "form"):
        assert tags[tag] == 0
    assert "@import" not in html
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    policy = next(m for m in page.named("meta") if "http-equiv" in m)
    assert policy["content"].startswith("default-src 'none';")


def test_ids_are_unique_and_every_reference_resolves(html: str, page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', html)
    assert len(references) > 100
    assert set(references) <= set(ids)


def test_every_figure_is_there_with_a_name_and_something_drawn(
    record: RunRecord, html: str, page: Page
) -> None:
    assert "flagged" not in html
    panels = draw_figures(record).panels
    names = {p.name for p in panels}
    assert len(names) == len(panels)
    assert {"widths", "alpha", "allocation-limits", "allocation-groups", "latency"} < names
    assert {"training-accuracy", "training-loss", "importance-01", "importance-08"} < names
    drawn = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawn) == len(panels)
    for panel, text in zip(panels, drawn, strict=True):
        root = ElementTree.fromstring(text)
        assert root.get("aria-label") == panel.label
        assert root.get("role") == "img"
        assert root.get("width") is None
        assert len(root.get("viewBox", "").split()) == 4
        assert "var(--accent)" in text
        assert "#0f62b4" not in text
    assert len(page.named("figcaption")) == len(page.named("figure")) == 7


def test_figures_show_the_data(record: RunRecord) -> None:
    figures = draw_figures(record)

    def line(name: str, label: str) -> np.ndarray:
        panel = next(p for p in figures.panels if p.name == name)
        lines = panel.drawing.axes[0].get_lines()
        return next(i for i in lines if i.get_label() == label).get_xydata()

    quality = record.profile.quality
    expected = np.column_stack([quality.measured_ms, quality.predicted_ms])
    np.testing.assert_allclose(line("latency", "held-out network"), expected)

    repeats = [(c.alphas[0], 100 * a) for c in record.alpha.candidates for a in c.accuracies]
    np.testing.assert_allclose(line("alpha", "repeat"), repeats)

    history = record.trained.history
    expected = [(e + 1, 100 * epoch.val_accuracy) for e, epoch in enumerate(history)]
    np.testing.assert_allclose(line("training-accuracy", "result"), expected)

    np.testing.assert_array_equal(
        line("widths", "after")[:, 0], [record.result.widths[g] for g in record.fit.predictors]
    )
    allocation = record.allocate.allocation
    share = [allocation.start.params, *(s.usage.params for s in allocation.steps)]
    np.testing.assert_allclose(
        line("allocation-limits", "parameters")[:, 1],
        100 * np.array(share) / allocation.limit.params,
    )


def test_an_importance_panel_shows_samples_and_the_power_law(record: RunRecord) -> None:
    figure = draw_figures(record).importance
    group, predictor = next(iter(record.fit.predictors.items()))
    dots, curve = figure.panels[0].drawing.axes[0].get_lines()
    expected = [(s.widths[group], s.importance[group]) for s in record.sample.samples]
    np.testing.assert_allclose(dots.get_xydata(), expected)
    x, y = np.asarray(curve.get_xydata()).T
    np.testing.assert_allclose(y, predictor.a * x**predictor.b)
    assert x.min() == pytest.approx(min(w for w, _ in expected))
    assert x.max() == pytest.approx(max(w for w, _ in expected))
    (band,) = figure.panels[0].drawing.axes[0].collections
    edges = band.get_paths()[0].vertices
    widest = edges[np.isclose(edges[:, 0], x.max()), 1]
    middle = np.exp(np.mean([np.log(w) for w, _ in expected]))
    ends = [
        predictor(middle) * (x.max() / middle) ** b for b in (predictor.b_low, predictor.b_high)
    ]
    assert (widest.min(), widest.max()) == pytest.approx((min(ends), max(ends)))
    spans = {round(float(np.ptp(np.log10(p.drawing.axes[0].get_ylim()))), 9) for p in figure.panels}
    assert len(spans) == 1


def test_actual_and_predicted_importance_with_r2(record: RunRecord) -> None:
    figure = draw_figures(record).fit
    ax = figure.panels[0].drawing.axes[0]
    dots = np.asarray(ax.get_lines()[0].get_xydata())
    pairs = [
        (s.importance[g], p(s.widths[g]))
        for g, p in record.fit.predictors.items()
        for s in record.sample.samples
    ]
    np.testing.assert_allclose(dots, pairs)
    r2 = r2_score(*np.log(pairs).T)
    assert f"R² {r2:.3f} over all points" in figure.caption
    assert [t.get_text() for t in ax.texts] == [f"R² {r2:.3f}"]


def test_energy_is_told_where_it_was_measured_and_else_why_not(record: RunRecord) -> None:
    reason = "the system shows no RAPL counter and no INA sensor"
    blind = changed(record, "profile", environment={"power": f"not measured: {reason}"})
    assert f"Energy and power were not measured: {reason}." in Page(render_report(blind)).text
    measured = {"energy_mj": 12.3, "power_mw": 5_250.0, "idle_mw": 3_000.0}
    seen = changed(changed(record, "latency", **measured), "baseline.latency", **measured)
    page = Page(render_report(seen))
    assert "not measured" not in page.text
    assert page.row("Energy of a forward, with idle power")[1:] == ["12.3 mJ", "12.3 mJ"]
    assert page.row("Power, mean")[2] == "5.25 W" and page.row("Power when idle")[2] == "3 W"


def test_latency_is_told_with_its_clock_and_by_the_wall(record: RunRecord) -> None:
    latency = replace(record.latency, wall_ms_median=7.125)
    environment = {**record.profile.environment, "clock": "CPU time of the thread"}
    profile = replace(record.profile, environment=environment)
    told = render_report(replace(record, latency=latency, profile=profile))
    assert "the figure that counts: least CPU time of the thread" in told
    assert f"wall-clock median {display.milliseconds(7.125)}" in told


def test_the_verdict_says_that_one_training_of_each_stands_behind_it(record: RunRecord) -> None:
    accuracy = replace(record.result.accuracy, test=0.9, baseline_test=0.5)
    clear = replace(record, result=replace(record.result, accuracy=accuracy))
    assert "(one training of each), with" in display.verdict(clear)


def test_the_growth_figure_marks_every_step_once(record: RunRecord) -> None:
    panel = next(p for p in draw_figures(record).panels if p.name == "allocation-groups")
    ax = panel.drawing.axes[0]
    labels = [t.get_text() for t in ax.get_yticklabels()]
    bars = np.asarray(ax.get_lines()[0].get_xydata()).reshape(-1, 3, 2)[:, :2]
    by_step = {}
    for (left, row), (right, _) in bars:
        for step in range(round(left + 0.5), round(right - 0.5) + 1):
            assert step not in by_step
            by_step[step] = labels[int(row)]
    steps = record.allocate.allocation.steps
    assert by_step == {i: s.group for i, s in enumerate(steps, start=1)}


@pytest.mark.parametrize(
    "options",
    [{}, {"names": RESNET50, "steps": 400}, {"names": ("stem",), "steps": 0, "epochs": 1}],
    ids=["vgg11", "resnet50", "one group"],
)
def test_no_text_is_clipped_or_lies_on_another(options: dict) -> None:
    # Measured in DejaVu Sans, which is wider than the fonts that browsers use.
    for panel in draw_figures(example_run(**options)).panels:
        check_texts(panel)


def test_no_text_is_clipped_with_a_limit_of_memory() -> None:
    record = example_run()

    def with_memory(done: Round) -> Round:
        allocation = done.allocation
        return replace(
            done,
            allocation=replace(
                allocation,
                limit=replace(allocation.limit, memory_bytes=4_000_000),
                start=replace(allocation.start, memory_bytes=2_000_000),
                steps=tuple(
                    replace(step, usage=replace(step.usage, memory_bytes=3_000_000))
                    for step in allocation.steps
                ),
            ),
        )

    rounds = tuple(with_memory(done) for done in record.allocate.rounds)
    figures = draw_figures(replace(record, allocate=replace(record.allocate, rounds=rounds)))
    (panel,) = [panel for panel in figures.panels if panel.name == "allocation-limits"]
    assert "memory" in [text for text, _ in text_boxes(panel)]
    check_texts(panel)


def check_texts(panel: Panel) -> None:
    """No text is clipped, and none lies on another."""
    boxes = text_boxes(panel)
    assert len(boxes) > 3
    for (one, a), (other, b) in combinations(boxes, 2):
        over_x = min(a.x1, b.x1) - max(a.x0, b.x0)
        over_y = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert over_x <= 1 or over_y <= 2, (panel.name, one, other)


def text_boxes(panel: Panel) -> list[tuple[str, Bbox]]:
    """All texts with the boxes that they fill, each of which lies on the canvas."""
    canvas = FigureCanvasAgg(panel.drawing)
    canvas.draw()
    width, height = canvas.get_width_height()
    boxes = [
        (text.get_text(), Text.get_window_extent(text))  # of an annotation without its arrow
        for text in panel.drawing.findobj(Text)
        if text.get_text() and text.get_visible() and on_axis(text, panel.drawing.axes[0])
    ]
    for text, box in boxes:
        assert box.x0 >= -1, (panel.name, text)
        assert box.y0 >= -1, (panel.name, text)
        assert box.x1 <= width + 1, (panel.name, text)
        assert box.y1 <= height + 1, (panel.name, text)
    return boxes


def on_axis(text: Text, ax) -> bool:
    """Whether a text is drawn: matplotlib keeps labels for ticks outside the limits too."""
    for axis, limits, which in ((ax.xaxis, ax.get_xlim(), 0), (ax.yaxis, ax.get_ylim(), 1)):
        if text in [tick.label1 for tick in axis.get_major_ticks()]:
            return min(limits) <= text.get_position()[which] <= max(limits)
    return True


def test_equal_records_give_equal_bytes_whatever_the_settings(html: str, record: RunRecord) -> None:
    settings = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert render_report(record) == html
    assert dict(matplotlib.rcParams) == settings


def test_every_number_of_the_result_is_told(record: RunRecord, page: Page) -> None:
    result, base = record.result, record.baseline
    assert page.row("Parameters") == [
        "Parameters",
        f"{base.params:,}",
        f"{result.params:,}",
        f"{result.memory.limit:,}",
        f"×{result.params / base.params:.2f}",
    ]
    assert page.row("MACs per image")[1:3] == [f"{base.macs:,}", f"{result.macs:,}"]
    assert page.row("Input resolution")[1:3] == ["32 px", f"{result.resolution} px"]
    assert page.row("α", "")[2] == f"{result.alpha:.3f}"
    accuracy = result.accuracy
    assert page.row("Test accuracy")[1:3] == [
        f"{100 * accuracy.baseline_test:.2f} %",
        f"{100 * accuracy.test:.2f} %",
    ]
    assert page.row("Validation accuracy")[2] == f"{100 * accuracy.val:.2f} %"
    for name, value in (
        ("Limit", result.latency_ms.limit),
        ("Predicted", result.latency_ms.predicted),
        ("Measured, the figure that counts", result.latency_ms.measured),
    ):
        assert page.row(name)[2] == f"{value:.3f} ms"
    assert page.row("Noise floor")[2] == f"{100 * result.latency_ms.noise_floor:.1f} %"
    for group, width in result.widths.items():
        before = base.spec.width_of[group]
        closed = record.allocate.allocation.closed[group]
        row = [group, str(before), str(width), f"×{width / before:.2f}", closed]
        assert page.row(group, str(before)) == row
        predictor = record.fit.predictors[group]
        cells = next(r for r in page.rows if r[0] == group and "·10" in r[1])
        assert f"{predictor.b:.2f} ± {predictor.b_se:.2f}".replace("-", "−") in cells
        assert f"{predictor.b_low:.2f} … {predictor.b_high:.2f}".replace("-", "−") in cells
        assert f"{predictor.r2:.3f}" in cells
        assert f"{predictor.sum_r2:.3f}" in cells
    assert page.row("Recipe key")[1] == result.recipe_key
    assert page.row("Seed")[1] == str(result.seed)
    for key, value in record.profile.environment.items():
        assert page.row(key)[1] == value
    assert result.stop_reason in page.text
    assert f"{100 * record.profile.quality.mape:.1f} %" in page.text
    assert record.data.name in page.text
    assert record.trained.weights in page.text


def test_tables_have_scoped_headers(page: Page) -> None:
    assert all(th["scope"] in ("row", "col") for th in page.named("th"))
    assert len(page.named("table")) == len(page.named("caption")) >= 6
    assert len(page.named("h1")) == len(page.named("main")) == 1


def test_the_report_says_which_network_was_chosen(record: RunRecord, page: Page) -> None:
    assert page.row("algorithm-1, chosen")[4:] == ["2", "73.4 %", "0.905"]
    assert page.row("uniform-alpha")[4:] == ["2", "71.6 %", "0.975"]
    assert "response was left out: no sampled network has a loss." in page.text
    assert "left out of the fit it tells with R² = 0.43, to 0.021" in " ".join(page.text.split())
    assert "has beaten" not in page.text

    rival = changed(changed(record, "choose", chosen=1), "result", method="uniform-alpha")
    other = Page(render_report(rival))
    assert other.row("uniform-alpha, chosen") and other.row("algorithm-1")
    assert "which that of uniform-alpha has beaten" in " ".join(other.text.split())
    for group, before in record.baseline.spec.widths:  # the reason is that of other widths
        assert len(other.row(group, str(before))) == 4

    alone = changed(record, "choose", candidates=record.choose.candidates[:1], left_out={})
    assert "Candidates for the result" not in Page(render_report(alone)).text


def test_foreign_text_is_escaped_everywhere() -> None:
    record = example_run(NASTY, failures=("row <i>1</i>: loss is NaN & more",))
    predictors = dict(record.fit.predictors)
    flag = "R² < 0.5 & 'b' > \"-0.1\""
    predictors[NASTY[0]] = dataclasses.replace(predictors[NASTY[0]], flag=flag)
    record = changed(record, "fit", predictors=predictors)
    record = changed(record, "result", stop_reason="a <em>reason</em>", recipe_key="<key>")
    record = changed(record, "profile", environment={"<th>": "<script>alert(2)</script>"})
    record = changed(record, "", name="</title><script>", recipe="</pre><script>")
    record = changed(record, "data", name="&amp;")
    page = Page(render_report(record))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "b", "i", "em"}
    for text in (*NASTY, flag, "a <em>reason</em>", "<key>", "<th>", "</pre><script>", "&amp;"):
        assert text in page.text
    assert page.text.count(record.failures[0]) == 1
    drawn = [t for t in page.words if t == NASTY[0]]
    assert len(drawn) == 5, "in two tables and three figures"


def test_at_most_twelve_panels_those_of_the_most_widened_groups(large: RunRecord) -> None:
    before, after = large.baseline.spec.width_of, large.result.widths
    assert len(after) == 50
    figure = draw_figures(large).importance
    shown = [p.label.split()[2] for p in figure.panels]
    assert len(shown) == PANELS == 12
    assert shown == [g for g in after if g in shown], "in the order of the network"
    left_out = max(after[g] / before[g] for g in after if g not in shown)
    assert min(after[g] / before[g] for g in shown) >= left_out
    assert "12 most widened of 50 groups" in figure.caption
    page = Page(render_report(large))
    assert sum(row[0] in after for row in page.rows) == 100, "both tables have every group"


def test_the_widths_figure_grows_with_the_groups(record: RunRecord, large: RunRecord) -> None:
    small, tall = (draw_figures(r).widths.panels[0].drawing for r in (record, large))
    assert tall.get_figwidth() == small.get_figwidth()
    assert (tall.get_figheight() - small.get_figheight()) * 72 / 42 == pytest.approx(19)


def test_a_flagged_predictor_says_so_in_panel_caption_and_table() -> None:
    record = example_run(("stem", "head"), steps=4)
    group = "head"
    reason = "its own R² = 0.31 is below 0.5; b = -1.3 is the median of 7 sound groups"
    predictors = dict(record.fit.predictors)
    predictors[group] = dataclasses.replace(predictors[group], flag=reason)
    flagged = changed(record, "fit", predictors=predictors)
    page = Page(render_report(flagged))
    assert sum("flagged" in word for word in page.words) == 3
    assert "1 of all 2 groups flagged" in page.text
    assert reason in next(r for r in page.rows if r[0] == group and "·10" in r[1])
    panels = draw_figures(flagged).importance.panels
    dashed = [p.drawing.axes[0].get_lines()[1].get_linestyle() == "--" for p in panels]
    assert dashed == [g == group for g in predictors]


def test_a_group_without_importance_has_a_panel_that_says_so(record: RunRecord) -> None:
    for dead in ({"features.0"}, set(record.fit.predictors)):
        predictors = {
            g: dataclasses.replace(p, a=0.0, flag="importance is zero") if g in dead else p
            for g, p in record.fit.predictors.items()
        }
        samples = tuple(
            dataclasses.replace(s, importance={**s.importance, **dict.fromkeys(dead, 0.0)})
            for s in record.sample.samples
        )
        silent = changed(record, "fit", predictors=predictors)
        silent = changed(silent, "sample", samples=samples)
        said = [
            [t.get_text() for t in panel.drawing.axes[0].texts] == ["importance 0\nin all samples"]
            for panel in draw_figures(silent).importance.panels
        ]
        assert said == [g in dead for g in predictors]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, ["No row of this run failed.", "2 other candidates cannot be told from the winner"]),
        (
            {
                "names": ("conv",),
                "candidates": 1,
                "repeats": 1,
                "steps": 0,
                "epochs": 1,
                "samples": 3,
            },
            [
                "there was one candidate only",
                "no repeats to average",
                "No step fitted",
                "After 1 epoch ",
                "in 3 sampled networks",
                "for 1 group;",
            ],
        ),
        (
            {
                "names": ("a.very.long.name." * 12, "b" * 300),
                "repeats": 1,
                "candidates": 2,
                "steps": 1,
                "failures": ("0a1b: worker died",),
            },
            [
                "a.very.long.name." * 12,
                "1 step in 1 group ",
                "no repeats to average",
                "unknown how far chance decided",
                "(dots; 1 more failed)",
                "Failures (1)",
                "0a1b: worker died",
            ],
        ),
    ],
)
def test_unusual_runs_are_told_in_words(options: dict, told: list[str]) -> None:
    record = example_run(**options)
    text = Page(render_report(record)).text
    assert [t for t in told if t not in text] == []
    Console(file=io.StringIO()).print(render_summary(record))


@pytest.mark.parametrize(("before", "after"), [(0.0, 1.0), (0.0, 0.0)])
def test_extreme_accuracies(before: float, after: float) -> None:
    record = example_run(("stem", "head"), steps=4)

    def history(value: float) -> tuple:
        return tuple(
            dataclasses.replace(e, val_accuracy=value, val_loss=0.0) for e in record.trained.history
        )

    candidates = tuple(
        dataclasses.replace(c, accuracies=(after, after)) for c in record.alpha.candidates
    )
    extreme = changed(record, "alpha", candidates=candidates, standard_error=0.0)
    extreme = changed(extreme, "trained", history=history(after))
    extreme = changed(extreme, "baseline.trained", history=history(before))
    extreme = changed(extreme, "result.accuracy", baseline_test=before, test=after)
    row = Page(render_report(extreme)).row("Test accuracy")
    assert row[1:3] == [f"{100 * before:.2f} %", f"{100 * after:.2f} %"]


def test_a_candidate_whose_repeats_all_failed_is_listed_and_not_drawn() -> None:
    record = example_run(("stem", "head"), steps=4)
    first, *rest = record.alpha.candidates
    broken = dataclasses.replace(first, accuracies=(), losses=())
    record = changed(record, "alpha", candidates=(broken, *rest), failed=2)
    page = Page(render_report(record))
    assert page.row(f"{first.alphas[0]:.3f}")[-2:] == ["0", "failed"]
    assert "2 trainings of the α search failed." in page.text
    assert "Short trainings of 5 networks, 10 in all" in page.text


def test_the_verdict_names_a_limit_that_is_broken(record: RunRecord) -> None:
    assert display.verdict(record).endswith("allowed: both limits are kept.")
    figures = {"limit": 8.0, "predicted": 7.9, "noise_floor": 0.02}
    for measured, told in (
        (8.0, "both limits are kept."),
        (8.08, "latency is 1.00 % over its limit (inside the noise floor of 2.0 %)."),
        (8.4, "latency is 5.00 % over its limit (the noise floor is 2.0 %)."),
    ):
        timed = dataclasses.replace(record.latency, ms=measured, noise_floor=0.02)
        latency = dataclasses.replace(
            record.result.latency_ms,
            **figures,
            measured=measured,
            verdict=timed.verdict(figures["limit"]),
        )
        verdict = display.verdict(changed(record, "result", latency_ms=latency))
        assert verdict.replace("\u00a0", " ").endswith(told)
    over = changed(record, "result.memory", limit=1_000_000, used=1_010_000)
    verdict = display.verdict(over).replace("\u00a0", " ")
    assert verdict.endswith("parameters are 1.00 % over their limit.")
    worse = changed(record, "result.accuracy", baseline_test=0.75, test=0.736)
    assert "−1.4 points against the base network's 75.0 %" in display.verdict(worse).replace(
        "\u00a0", " "
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (display.count(999), "999"),
        (display.count(999_600), "1.00 M"),
        (display.count(579_216), "579 k"),
        (display.count(9_231_114), "9.23 M"),
        (display.count(99_960_000), "100 M"),
        (display.count(1_814_000_000), "1.81 G"),
        (display.milliseconds(0.81249), "0.812 ms"),
        (display.milliseconds(12.345), "12.35 ms"),
        (display.milliseconds(142.06), "142.1 ms"),
        (display.percent(0.934), "93.4 %"),
        (display.points(-0.014), "−1.4 points"),
        (display.points(0.0), "+0.0 points"),
        (display.points(-0.0004), "+0.0 points"),
        (display.percent(-0.0004), "0.0 %"),
        (display.scientific(1.234e-5), "1.23·10⁻⁵"),
        (display.scientific(-4e12), "−4.00·10¹²"),
        (display.scientific(0.0), "0.00·10⁰"),
        (display.plural(1, "step"), "1 step"),
        (display.plural(0, "step"), "0 steps"),
    ],
)
def test_numbers_as_text(text: str, expected: str) -> None:
    assert text.replace("\u00a0", " ") == expected


@given(st.integers(0, 10**13))
def test_a_count_is_right_to_half_a_percent_and_short(number: int) -> None:
    value, _, unit = display.count(number).partition("\u00a0")
    size = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit]
    assert float(value) * size == pytest.approx(number, rel=0.005001)
    assert len(value) <= 5


def test_the_summary_prints_costs_and_widths_without_reading_markup() -> None:
    record = example_run(NASTY)
    output = io.StringIO()
    Console(file=output, width=120).print(render_summary(record))
    text = output.getvalue().replace("\u00a0", " ")
    result, base = record.result, record.baseline
    assert "both limits are kept" in " ".join(text.split())
    for number in (
        f"{base.params:,}",
        f"{result.params:,}",
        f"{result.macs:,}",
        f"{result.latency_ms.limit:.3f} ms",
        f"{result.latency_ms.measured:.3f} ms",
        f"{100 * result.accuracy.test:.2f} %",
        f"{result.resolution} px",
        f"{result.alpha:.3f}",
    ):
        assert number in text
    assert "[red]" in text
    for group, before in base.spec.widths:
        after = result.widths[group]
        cells = [str(before), str(after), f"×{after / before:.2f}"]
        assert any(line.split()[-3:] == cells for line in text.splitlines())


def test_figures_as_files(tmp_path: Path) -> None:
    record = example_run(("a", "b/../c"), steps=4)
    files = write_figures(record, tmp_path / "figures")
    again = write_figures(record, tmp_path / "again")
    assert sorted(files) == sorted((tmp_path / "figures").iterdir())
    assert {f.stem for f in files} == {p.name for p in draw_figures(record).panels}
    for vector, raster, same in zip(files[::2], files[1::2], again[::2], strict=True):
        root = ElementTree.parse(vector).getroot()
        _, _, width, height = map(float, root.get("viewBox", "").split())
        image = Image.open(raster)
        assert image.size == pytest.approx((2 * width, 2 * height), abs=2)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert len(image.convert("RGB").getcolors(maxcolors=10**6)) > 5
        assert vector.read_bytes() == same.read_bytes()


def test_a_difference_within_the_noise_of_the_test_images_is_called_a_tie() -> None:
    record = changed(example_run(), "data", test_images=400)
    close = changed(record, "result.accuracy", baseline_test=0.90, test=0.92)
    # 1.96 · √((0.9·0.1 + 0.92·0.08) / 400) = 3.96 points
    assert "a tie: 400 test images tell apart no less than 4.0 points" in display.verdict(close)
    apart = changed(record, "result.accuracy", baseline_test=0.90, test=0.95)
    assert "tie" not in display.verdict(apart)
