"""Importance of the width groups, and what Eq. 6 makes of it (Fig. 3, HACScale)."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, geometric_mean, median

from engine.display import plural, signed
from engine.drawing import (
    ACCENT,
    INK,
    MUTED,
    PAPER,
    Panel,
    ReportFigure,
    canvas,
    centred,
    legend,
    log_span,
    one_two_five,
    short,
    spaced,
    sweep,
    ticks,
)
from engine.results import FitResult, ImportancePredictor, SampleResult

PANELS = 12
"""At most so many groups have an importance panel; a table holds them all."""


def draw_importance(
    sample: SampleResult, fit: FitResult, before: Mapping[str, int], after: Mapping[str, int]
) -> ReportFigure:
    """Draws importance against width with the fit of Eq. 6, a panel for every group.

    To be called in `engine.drawing.drawing_style`.

    Args:
        sample: the trained networks.
        fit: the predictors.
        before, after: widths of the base network and of the result.
    """
    predictors, samples = fit.predictors, sample.samples
    names = sorted(predictors, key=lambda g: after[g] / before[g], reverse=True)[:PANELS]
    names.sort(key=list(predictors).index)
    dots = {
        g: [
            (s.widths[g], s.importance[g])
            for s in samples
            # A dead layer has importance 0, which has no logarithm.
            if s.importance.get(g, 0.0) > 0
        ]
        for g in names
    }
    curves = {
        g: [(c, predictors[g](c)) for c in sweep([w for w, _ in dots[g]])] if dots[g] else []
        for g in names
    }
    # One span for all panels, so that slopes can be compared by eye.
    spans = [
        tuple(log_span([point[axis] for point in (*dots[g], *curves[g])]) for axis in (0, 1))
        for g in names
        if dots[g]
    ] or [(0.0, 0.0)]
    width_span, importance_span = (max(s[axis] for s in spans) * 1.15 + 0.1 for axis in (0, 1))
    panels: list[Panel] = []
    for i, g in enumerate(names):
        drawing, ax = canvas(
            short(g, 20), width=180, height=160, left=48, right=8, top=38, bottom=32
        )
        p = predictors[g]
        told = f"R² {p.r2:.2f}, b {signed(p.b)}" + (", flagged" if p.flag else "")
        drawing.text(2 / 180, 1 - 18 / 160, told, va="top", color=ACCENT)
        ax.set_xlabel("channels", labelpad=1)
        if points := [*dots[g], *curves[g]]:
            xs, ys = [x for x, _ in points], [y for _, y in points]
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.plot(*zip(*dots[g], strict=True), "o", color=MUTED, markersize=4)
            ax.plot(*zip(*curves[g], strict=True), color=ACCENT, ls="--" if p.flag else "-")
            if not p.flag and p.b_low is not None and p.b_high is not None:
                ax.fill_between(
                    *_band(p, (p.b_low, p.b_high), [c for c, _ in dots[g]], curves[g]),
                    color=ACCENT,
                    alpha=0.18,
                    linewidth=0,
                )
            ax.set_xlim(centred(xs, width_span))
            ax.set_ylim(centred(ys, importance_span))
            ticks(ax, "x", spaced([min(xs), before[g], max(xs)], width_span / 4.5))
            ticks(ax, "y", one_two_five(*ax.get_ylim()))
        else:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.text(0.5, 0.5, "importance 0\nin all samples", ha="center", va="center")
        label = f"Importance of {g} against its channels, with the fitted power law"
        panels.append(Panel(name=f"importance-{i + 1:02d}", label=label, drawing=drawing))

    n, flagged = len(samples), [g for g, p in predictors.items() if p.flag]
    which = (
        f"the {PANELS} most widened of {len(predictors)} groups (the table has all)"
        if len(predictors) > len(names)
        else plural(len(names), "group")
    )
    doubt = (
        f"; {len(flagged)} of all {plural(len(predictors), 'group')} flagged (dashed; the table "
        "says why)"
        if flagged
        else ""
    )
    failed = len(sample.failures)
    lost = f"; {failed} more failed" if failed else ""
    caption = (
        f"Importance (Eq. 5) against channels in {plural(n, 'sampled network')} (dots{lost}) with "
        f"the fit a·Cᵇ (line{_banded(predictors)}), for {which}; log-log, with the same span in "
        f"every panel, so that slopes compare{doubt}."
    )
    return ReportFigure(caption=caption, panels=tuple(panels))


def _banded(predictors: Mapping[str, ImportancePredictor]) -> str:
    known = any(p.b_low is not None for p in predictors.values())
    return "; band: b within its 95 % interval" if known else ""


def _band(
    predictor: ImportancePredictor,
    ends: tuple[float, float],
    widths: Sequence[float],
    curve: Sequence[tuple[float, float]],
) -> tuple[list[float], list[float], list[float]]:
    """Widths, and the power laws of both exponents, through the middle of the points."""
    middle = geometric_mean(widths)
    at = [c for c, _ in curve]
    one, other = ([predictor(middle) * (c / middle) ** b for c in at] for b in ends)
    return at, one, other


def draw_fit(sample: SampleResult, fit: FitResult) -> ReportFigure:
    """Draws predicted against actual importance of all groups in all sampled networks.

    R² of all points is that of their logarithms. To be called in `engine.drawing.drawing_style`.
    """
    drawing, ax = canvas("Predicted importance against actual", left=56)
    pairs = {
        group: [
            (s.importance[group], predictor(s.widths[group]))
            for s in sample.samples
            # A dead layer has importance 0, which has no logarithm.
            if s.importance.get(group, 0.0) > 0
        ]
        for group, predictor in fit.predictors.items()
    }
    every = [pair for of in pairs.values() for pair in of]
    flagged = {group for group, predictor in fit.predictors.items() if predictor.flag}
    for label, colour, groups in (
        ("group", ACCENT, [g for g in pairs if g not in flagged]),
        ("flagged group", PAPER, [g for g in pairs if g in flagged]),
    ):
        if shown := [pair for g in groups for pair in pairs[g]]:
            edge = ACCENT if colour == ACCENT else INK
            ax.plot(
                *zip(*shown, strict=True),
                "o",
                color=edge,
                markerfacecolor=colour,
                markersize=4,
                alpha=0.7,
                label=label,
            )
    told = "no importance above zero"
    if every:
        low, high = min(map(min, every)) / 1.3, max(map(max, every)) * 1.3
        ax.plot([low, high], [low, high], color=MUTED, linewidth=1, label="exact")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(low, high)
        ax.set_ylim(low, high)
        for axis in "xy":
            ticks(ax, axis, one_two_five(low, high))
        told = f"R² {signed(_r2(every), 3)}"
        ax.text(0.97, 0.05, told, transform=ax.transAxes, ha="right", color=ACCENT)
        legend(drawing, ax)
    ax.set_xlabel("actual importance (Eq. 5)")
    r2 = [predictor.r2 for predictor in fit.predictors.values()]
    caption = (
        f"Importance of {plural(len(pairs), 'group')} in {plural(len(sample.samples), 'network')} "
        f"as collected and as Eq. 6 predicts it: {told} over all points, which differ mostly by "
        f"group; R² within a group {signed(min(r2), 2)} at the least, {signed(median(r2), 2)} in "
        "the median (both of the logarithm)."
    )
    label = "Predicted against actual importance of every group in every sampled network"
    return ReportFigure(caption=caption, panels=(Panel(name="fit", label=label, drawing=drawing),))


def _r2(pairs: Sequence[tuple[float, float]]) -> float:
    """Of log predicted against log actual importance, 0 where the actual one does not vary."""
    logs = [(math.log(actual), math.log(max(predicted, 1e-300))) for actual, predicted in pairs]
    mean = fmean(actual for actual, _ in logs)
    total = sum((actual - mean) ** 2 for actual, _ in logs)
    return 1 - sum((a - p) ** 2 for a, p in logs) / total if total > 0 else 0.0
