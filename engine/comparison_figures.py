"""The figures of a comparison: accuracy against latency, and against parameters."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from engine.comparison import BASE, OURS, Comparison, Entry
from engine.drawing import ACCENT, INK, MUTED, Panel, canvas, drawing_style, padded
from engine.figures import ReportFigure

_SIZE = {"width": 470.0, "height": 380.0}
_NEAR = 13.0
"""Labels of two points this many pixels apart or nearer would lie on one another."""


def draw_comparison(comparison: Comparison) -> ReportFigure:
    """Draws every trained network twice; bars are standard deviations over seeds."""
    entries = [entry for entry in comparison.entries if entry.mean is not None]
    with drawing_style():
        panels = (
            _against(
                "latency",
                "latency as measured, ms",
                entries,
                lambda entry: entry.proposal.latency.ms,
                comparison.latency_limit_ms,
            ),
            _against(
                "params",
                "parameters, M",
                entries,
                lambda entry: entry.proposal.params / 1e6,
                comparison.params_limit / 1e6,
            ),
        )
    return ReportFigure(
        caption=(
            "Top-1 on the test split against measured latency and against parameters; bars are "
            "standard deviations over seeds, dotted lines the limits."
        ),
        panels=panels,
    )


def _against(
    name: str,
    label: str,
    entries: Sequence[Entry],
    of: Callable[[Entry], float],
    limit: float,
) -> Panel:
    drawing, ax = canvas("Top-1 (%)", bottom=40, top=34, right=20, **_SIZE)
    xs = [of(entry) for entry in entries]
    means = [100 * (entry.mean or 0.0) for entry in entries]
    spreads = [100 * (entry.spread or 0.0) for entry in entries]
    colours = [_colour(entry.proposal.method) for entry in entries]
    ax.axvline(limit, color=MUTED, linewidth=1.2, linestyle=":")
    for x, mean, spread, colour in zip(xs, means, spreads, colours, strict=True):
        ax.errorbar(x, mean, yerr=spread, fmt="o", color=colour, elinewidth=1, capsize=0)
    ends = [m + s for m, s in zip(means, spreads, strict=True)]
    ends += [m - s for m, s in zip(means, spreads, strict=True)]
    low, high = padded([*xs, limit], 0.1 * limit)
    # Room for the longest name to the right of the last point.
    ax.set_xlim(low, high + 0.3 * (high - low))
    ax.set_ylim(*padded(ends, 1.0))
    ax.set_xlabel(label)
    _label(ax, [entry.proposal.method for entry in entries], xs, means, colours)
    return Panel(name=f"accuracy-{name}", label=f"Top-1 accuracy against {label}", drawing=drawing)


def _label(
    ax: Axes, names: Sequence[str], xs: Sequence[float], ys: Sequence[float], colours: list[str]
) -> None:
    """Names beside the points, moved apart from the top down where they would overlap."""
    places = ax.transData.transform(list(zip(xs, ys, strict=True)))
    taken: list[tuple[float, float, float]] = []
    for i in sorted(range(len(names)), key=lambda i: -places[i][1]):
        x, y = places[i]
        width = 6.2 * len(names[i])
        while any(
            abs(y - other) < _NEAR and x < end and start < x + width for start, end, other in taken
        ):
            y -= 1.0
        taken.append((x, x + width + 8, y))
        ax.annotate(
            names[i],
            (xs[i], ys[i]),
            xytext=(7, y - places[i][1]),
            textcoords="offset pixels",
            va="center",
            size=9,
            color=colours[i],
        )


def _colour(method: str) -> str:
    return {OURS: ACCENT, BASE: MUTED}.get(method, INK)
