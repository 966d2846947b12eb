"""The figures of a run, each small enough to be read on a phone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from engine.display import milliseconds, percent, plural
from engine.drawing import (
    ACCENT,
    INK,
    MUTED,
    PAPER,
    Panel,
    ReportFigure,
    canvas,
    drawing_style,
    label_room,
    legend,
    padded,
    powers_of_two,
    raster,
    short,
    ticks,
    vector,
)
from engine.importance_figures import draw_fit, draw_importance
from engine.results import AlphaCandidate, AlphaResult, RunRecord, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFigures:
    """All figures of a run, in the order of the report."""

    widths: ReportFigure
    alpha: ReportFigure
    fit: ReportFigure
    importance: ReportFigure
    allocation: ReportFigure
    training: ReportFigure
    latency: ReportFigure

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Every panel of every figure."""
        parts = (
            self.widths,
            self.alpha,
            self.fit,
            self.importance,
            self.allocation,
            self.training,
            self.latency,
        )
        return tuple(panel for part in parts for panel in part.panels)


def draw_figures(record: RunRecord) -> ReportFigures:
    """Draws every figure of a run."""
    with drawing_style():
        return ReportFigures(
            widths=_widths(record),
            alpha=_alpha(record.alpha),
            importance=draw_importance(
                record.sample, record.fit, record.baseline.spec.width_of, record.result.widths
            ),
            fit=draw_fit(record.sample, record.fit),
            allocation=_allocation(record),
            training=_training(record),
            latency=_latency(record),
        )


def write_figures(record: RunRecord, directory: Path) -> tuple[Path, ...]:
    """Writes every panel as SVG and as PNG, on white.

    Returns:
        The files, two for each panel: SVG, then PNG at twice the size.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for panel in draw_figures(record).panels:
        for kind, image in (("svg", vector(panel)), ("png", raster(panel))):
            files.append(directory / f"{panel.name}.{kind}")
            files[-1].write_bytes(image)
    return tuple(files)


def _widths(record: RunRecord) -> ReportFigure:
    before, after = record.baseline.spec.width_of, record.result.widths
    names, n = list(after), len(after)
    labels = [short(name) for name in names]
    rows = range(n)
    old, new = [before[g] for g in names], [after[g] for g in names]
    changes = [f"{b} → {a}" for b, a in zip(old, new, strict=True)]
    drawing, ax = canvas(
        "Channels before and after scaling",
        height=19 * n + 80,
        left=label_room(labels),
        right=label_room(changes),
    )
    ax.hlines(rows, old, new, color=ACCENT, linewidth=2.4)
    ax.plot(old, rows, "o", color=MUTED, markerfacecolor=PAPER, markersize=7, label="before")
    ax.plot(new, rows, "o", color=ACCENT, markersize=4.5, label="after")
    for row, change in zip(rows, changes, strict=True):
        ax.text(1.03, row, change, transform=ax.get_yaxis_transform(), va="center")
    low, high = min(*old, *new), max(*old, *new)
    ax.set_xscale("log", base=2)
    ax.set_xlim(low / 1.25, high * 1.25)
    ticks(ax, "x", powers_of_two(low, high))
    ax.set_xlabel("channels")
    ax.set_yticks(rows, labels)
    ax.set_ylim(n - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    legend(drawing, ax)

    grown = [g for g in names if after[g] > before[g]]
    most = max(names, key=lambda g: after[g] / before[g])
    what = f", most of all {most} (×{after[most] / before[most]:.2f})" if grown else ""
    caption = (
        f"Channels of {plural(n, 'width group')} before (ring) and after (dot): "
        f"{len(grown)} grew{what}."
    )
    label = "Channels of every width group before and after scaling"
    return ReportFigure(
        caption=caption, panels=(Panel(name="widths", label=label, drawing=drawing),)
    )


def _alpha(result: AlphaResult) -> ReportFigure:
    drawing, ax = canvas("Validation accuracy (%) against α")
    shown = [c for c in result.candidates if c.accuracies]
    winner = winning(result)
    n, repeats = len(shown), sum(len(c.accuracies) for c in shown)
    # The pooled spread of one repeat, from the standard error of the winner's mean.
    spread = (result.standard_error or 0.0) * math.sqrt(len(winner.accuracies))
    ax.plot(
        [c.alphas[0] for c in shown for _ in c.accuracies],
        [100 * a for c in shown for a in c.accuracies],
        "o",
        color=MUTED,
        markersize=4,
        alpha=0.6,
        label="repeat",
    )
    others = [c for c in shown if c is not winner]
    name = f"winner, α = {result.alpha:.2f}"
    for group, colour, label in ((others, INK, "mean"), ([winner], ACCENT, name)):
        if found := [c for c in group if c.accuracies]:
            means = [100 * c.accuracy for c in found]
            ax.hlines(
                means, [min(c.alphas) for c in found], [max(c.alphas) for c in found], color=colour
            )
            ax.errorbar(
                [c.alphas[0] for c in found],
                means,
                yerr=[100 * spread / math.sqrt(len(c.accuracies)) for c in found]
                if spread
                else None,
                fmt="D",
                color=colour,
                markersize=6,
                elinewidth=1.4,
                capsize=3,
                label=label,
            )
    ax.set_xlim(padded([a for c in result.candidates for a in c.alphas], 0.1))
    reach = [
        a + sign * spread / math.sqrt(len(c.accuracies))
        for c in shown
        for a in (*c.accuracies, c.accuracy)
        for sign in (-1, 1)
    ]
    ax.set_ylim(padded([100 * a for a in reach] or [0, 100], 1))
    ax.set_xlabel("α (share of the compute budget given to resolution)")
    legend(drawing, ax)

    if len(result.candidates) == 1:
        outcome = "there was one candidate only, so nothing to choose between"
    elif result.tied is None:
        outcome = "with one training each it is unknown how far chance decided the winner"
    elif result.tied:
        outcome = (
            f"{plural(result.tied, 'other candidate')} cannot be told from the winner "
            "(at 95 %, by the spread between seeds), so α is known only roughly"
        )
    else:
        outcome = "all other candidates can be told from the winner, by the spread between seeds"
    bars = "no repeats to average"
    if result.standard_error is not None:
        bars = "mean and pooled standard error"
    joined = (
        " (a line joins the α that round to one network)"
        if any(len(c.alphas) > 1 for c in shown)
        else ""
    )
    caption = (
        f"Short trainings of {plural(n, 'network')}, {repeats} in all (dots), with {bars}{joined}: "
        f"{outcome}."
    )
    label = "Validation accuracy of every α candidate"
    return ReportFigure(
        caption=caption, panels=(Panel(name="alpha", label=label, drawing=drawing),)
    )


def winning(result: AlphaResult) -> AlphaCandidate:
    """The candidate that the α search chose."""
    return next(c for c in result.candidates if result.alpha in c.alphas)


def _allocation(record: RunRecord) -> ReportFigure:
    allocation = record.allocate.allocation
    limit, steps = allocation.limit, allocation.steps
    usages = [allocation.start, *(s.usage for s in steps)]
    latency = [100 * u.latency_ms / limit.latency_ms for u in usages]
    params = [100 * u.params / limit.params for u in usages]
    measured = 100 * record.allocate.latency.ms / limit.latency_ms
    drawing, ax = canvas("Share of each limit used (%)")
    x = range(len(usages))
    # Without a step there is no line to see, only the two points of the start.
    marker = "" if steps else "o"
    ax.axhline(100, color=INK, linewidth=1)
    ax.plot(x, latency, color=ACCENT, marker=marker, label="latency")
    ax.plot(x, params, color=INK, ls="--", linewidth=1.4, marker=marker, label="parameters")
    shares = [*latency, *params]
    if limit.memory_bytes is not None:
        memory = [100 * (u.memory_bytes or 0) / limit.memory_bytes for u in usages]
        ax.plot(x, memory, color=MUTED, ls=":", linewidth=1.4, marker=marker, label="memory")
        shares += memory
    ax.plot(len(steps), measured, "D", color=ACCENT, markersize=6, label="measured")
    ax.set_ylim(padded([*shares, measured, 100], 4))
    ax.set_xlim(padded([0, len(steps)], 1))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    ax.set_xlabel("step of the allocation")
    legend(drawing, ax)
    label = "Share of the latency and parameter limits used after each step"
    panels = [Panel(name="allocation-limits", label=label, drawing=drawing)]

    if steps:
        grown = [g for g in allocation.widths if any(s.group == g for s in steps)]
        panels.append(_growth(grown, steps, dict(allocation.closed)))
        most = max(grown, key=lambda g: sum(s.group == g for s in steps))
        what = (
            f"{plural(len(steps), 'step')} in {plural(len(grown), 'group')} (most in {most}) end at"
        )
    else:
        what = "No step fitted, so the allocation stays at"
    caption = (
        f"{what} {percent(latency[-1] / 100)} of the latency limit and "
        f"{percent(params[-1] / 100)} of the parameter limit as predicted, and at "
        f"{percent(measured / 100)} of the latency limit as measured."
    )
    return ReportFigure(caption=caption, panels=tuple(panels))


def _growth(names: Sequence[str], steps: Sequence[Step], closed: dict[str, str]) -> Panel:
    """Which group grew at which step: one row per group, one bar per run of its steps."""
    labels = [short(name) for name in names]
    drawing, ax = canvas(
        "Group widened at each step, and what closed it",
        height=max(17 * len(names) + 70, 240),
        left=label_room(labels),
        right=label_room(list(closed.values())),
        top=32,
    )
    # A step keeps a visible width, however many there are.
    half = max(0.5, len(steps) / 220)
    xs: list[float] = []
    ys: list[float] = []
    row_of = {name: row for row, name in enumerate(names)}
    end = 0
    for group, members in groupby(steps, key=lambda s: s.group):
        first, end = end, end + len(list(members))
        middle, reach = (first + 1 + end) / 2, (end - first - 1) / 2 + half
        xs += (middle - reach, middle + reach, math.nan)
        ys += (row_of[group], row_of[group], math.nan)
    ax.plot(xs, ys, color=ACCENT, linewidth=8, solid_capstyle="butt")
    for name, row in row_of.items():
        if name in closed:
            ax.text(
                1.03,
                row,
                closed[name],
                transform=ax.get_yaxis_transform(),
                va="center",
                color=MUTED,
            )
    ax.set_yticks(range(len(names)), labels)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(1 - 2 * half, len(steps) + 2 * half)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    ax.set_xlabel("step of the allocation")
    label = "Which width group was widened at each step of the allocation"
    return Panel(name="allocation-groups", label=label, drawing=drawing)


def _training(record: RunRecord) -> ReportFigure:
    series = (
        ("baseline", record.baseline.trained.history, MUTED),
        ("result", record.trained.history, ACCENT),
    )
    panels: list[Panel] = []
    for name, title, values in (
        (
            "training-accuracy",
            "Validation accuracy (%)",
            [[100 * e.val_accuracy for e in history] for _, history, _ in series],
        ),
        (
            "training-loss",
            "Validation loss",
            [[e.val_loss for e in history] for _, history, _ in series],
        ),
    ):
        drawing, ax = canvas(title)
        longest = max(map(len, values))
        for (label, _, colour), ys in zip(series, values, strict=True):
            # A single epoch makes no line.
            marker = "o" if len(ys) == 1 else ""
            ax.plot(range(1, len(ys) + 1), ys, color=colour, marker=marker, label=label)
        ax.set_xlim(padded([1, longest], 1))
        ax.set_ylim(padded([y for ys in values for y in ys], 0.02))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        ax.set_xlabel("epoch")
        legend(drawing, ax)
        panels.append(
            Panel(name=name, label=f"{title} by epoch, baseline and result", drawing=drawing)
        )
    base, result = record.baseline.trained, record.trained
    caption = (
        f"After {plural(len(result.history), 'epoch')} the result stands at "
        f"{percent(result.val_accuracy)} validation accuracy and the base network, trained alike "
        f"for {plural(len(base.history), 'epoch')}, at {percent(base.val_accuracy)}; one training "
        "each."
    )
    return ReportFigure(caption=caption, panels=tuple(panels))


def _latency(record: RunRecord) -> ReportFigure:
    quality = record.profile.quality
    drawing, ax = canvas("Predicted latency (ms) against measured")
    low, high = padded([*quality.predicted_ms, *quality.measured_ms], 0.01)
    low = max(low, 0.0)
    ends = [low, high]
    ax.fill_between(
        ends,
        [0.9 * e for e in ends],
        [1.1 * e for e in ends],
        color=ACCENT,
        alpha=0.12,
        linewidth=0,
        label="±10\u00a0%",
    )
    ax.plot(ends, ends, color=MUTED, linewidth=1, label="exact")
    ax.plot(quality.measured_ms, quality.predicted_ms, "o", color=ACCENT, label="held-out network")
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel("measured latency (ms)")
    legend(drawing, ax)
    caption = (
        f"On {plural(len(quality.measured_ms), 'network')} kept out of the fit, of "
        f"{milliseconds(min(quality.measured_ms))} to {milliseconds(max(quality.measured_ms))}, "
        f"the latency model errs by {percent(quality.mape)} on average (MAPE), and "
        f"{percent(quality.within_10, 0)} of them lie within ±10\u00a0%."
    )
    label = "Predicted against measured latency of the held-out networks"
    return ReportFigure(
        caption=caption, panels=(Panel(name="latency", label=label, drawing=drawing),)
    )
