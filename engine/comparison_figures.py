"""The figures of a comparison: those of the HACScale paper, for this network and device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.comparison import BASE, OURS, Comparison, Line, lines
from engine.dimension_figures import draw_dimensions
from engine.drawing import (
    ACCENT,
    INK,
    MUTED,
    Panel,
    ReportFigure,
    canvas,
    drawing_style,
    label_room,
    padded,
)
from engine.importance_figures import draw_fit, draw_importance

_AXES = 230.0
"""Width of the axes that have names beside them, in pixels."""
_LINE = 15.0
"""Pixels from one name to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonFigures:
    """All figures of a comparison, in the order of the page.

    Attributes:
        accuracy: against measured latency (Fig. 1) and against parameters (Fig. 4).
        use: utilisation and, where power was measured, power efficiency (Fig. 5).
        dimensions: utilisation and latency of networks scaled in one dimension (Fig. 2); None
            where they were not measured.
        fit: actual and predicted importance (Fig. 3).
        importance: of every group against its width (Eq. 6).
    """

    accuracy: ReportFigure
    use: ReportFigure
    dimensions: ReportFigure | None
    fit: ReportFigure
    importance: ReportFigure

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Every panel of every figure."""
        figures = (self.accuracy, self.use, self.dimensions, self.fit, self.importance)
        return tuple(panel for figure in figures if figure for panel in figure.panels)


def draw_comparison(comparison: Comparison) -> ComparisonFigures:
    """Draws every figure."""
    base, ours = (comparison.entry(name).proposal.spec.width_of for name in (BASE, OURS))
    with drawing_style():
        return ComparisonFigures(
            accuracy=_accuracy(comparison),
            use=_use(comparison),
            dimensions=comparison.dimensions and draw_dimensions(comparison.dimensions),
            importance=draw_importance(comparison.sample, comparison.fit, base, ours),
            fit=draw_fit(comparison.sample, comparison.fit),
        )


def _accuracy(comparison: Comparison) -> ReportFigure:
    trained = [line for line in lines(comparison) if line.top1_mean is not None]
    limits = comparison.latency_limit_ms, comparison.params_limit / 1e6
    score = comparison.score.capitalize()
    return ReportFigure(
        caption=(
            f"{score} on the test split against measured latency and against parameters; bars are "
            "standard deviations over seeds, dotted lines the limits."
        ),
        panels=(
            _against(score, "latency", "latency as measured, ms", trained, _latency_ms, limits[0]),
            _against(score, "params", "million parameters", trained, _million_params, limits[1]),
        ),
    )


def _latency_ms(line: Line) -> float:
    return line.latency_ms


def _million_params(line: Line) -> float:
    return line.params / 1e6


def _against(
    score: str,
    name: str,
    label: str,
    table: Sequence[Line],
    of: Callable[[Line], float],
    limit: float,
) -> Panel:
    """Points with all names in a column beside the axes, each joined to its point."""
    names = [line.method for line in table]
    room = label_room(names) + 26
    height = max(360.0, _LINE * len(names) + 90)
    drawing, ax = canvas(
        f"{score} (%)", width=_AXES + 46 + room, height=height, right=room, top=30, bottom=40
    )
    xs = [of(line) for line in table]
    means = [100 * (line.top1_mean or 0.0) for line in table]
    spreads = [100 * (line.top1_sd or 0.0) for line in table]
    ends = [m + s for m, s in zip(means, spreads, strict=True)]
    ends += [m - s for m, s in zip(means, spreads, strict=True)]
    ax.set_xlim(padded([*xs, limit], 0.1 * limit))
    ax.set_ylim(padded(ends or [0, 100], 1.0))
    ax.set_xlabel(label)
    ax.axvline(limit, color=MUTED, linewidth=1.2, linestyle=":")
    low, high = ax.get_ylim()
    tall = height - 70
    wanted = [tall * (mean - low) / (high - low) for mean in means]
    for line, x, mean, sd, y in zip(
        table, xs, means, spreads, spaced_out(wanted, _LINE, tall), strict=True
    ):
        colour = _colour(line.method)
        ours = line.method == OURS
        ax.vlines(x, mean - sd, mean + sd, color=colour, linewidth=1, alpha=1.0 if ours else 0.4)
        ax.plot(x, mean, "o", color=colour, zorder=4 if ours else 3)
        ax.annotate(
            line.method,
            (x, mean),
            xytext=(1 + 26 / _AXES, y / tall),
            textcoords="axes fraction",
            va="center",
            color=colour,
            weight="bold" if ours else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": colour if ours else MUTED,
                "alpha": 1.0 if ours else 0.4,
                "linewidth": 0.8,
                "relpos": (0.0, 0.5),
                "shrinkA": 2,
                "shrinkB": 3,
            },
        )
    return Panel(name=f"accuracy-{name}", label=f"{score} against {label}", drawing=drawing)


def spaced_out(wanted: Sequence[float], least: float, most: float) -> list[float]:
    """Returns places near those that are wanted, ``least`` apart and in [0, most] if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [wanted[i] for i in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + least)
    top = most
    for i in reversed(range(len(places))):
        places[i] = min(places[i], top)
        top = places[i] - least
    found = [0.0] * len(wanted)
    for i, place in zip(order, places, strict=True):
        found[i] = place
    return found


def _use(comparison: Comparison) -> ReportFigure:
    table = lines(comparison)
    panels = [_bars("utilisation", "Utilisation (GFLOP/s)", table, lambda x: x.gflops_per_second)]
    if comparison.no_power:
        power = f"Power efficiency is left out: power was not measured ({comparison.no_power})."
    else:
        panels.append(
            _bars("efficiency", "Power efficiency (GFLOP/J)", table, lambda x: x.gflops_per_joule)
        )
        power = (
            "Power efficiency: the same operations over the energy that a sensor of the device "
            "measured."
        )
    return ReportFigure(
        caption=(
            "Utilisation: two operations for every multiply-accumulate, over measured latency; "
            f"in the order of accuracy. {power}"
        ),
        panels=tuple(panels),
    )


def _bars(
    name: str, title: str, table: Sequence[Line], of: Callable[[Line], float | None]
) -> Panel:
    shown = [(line, value) for line in table if (value := of(line)) is not None]
    names = [line.method for line, _ in shown]
    values = [value for _, value in shown]
    drawing, ax = canvas(
        title,
        width=260 + label_room(names),
        height=17 * len(names) + 60,
        left=label_room(names),
        top=30,
        right=48,
        bottom=24,
    )
    rows, digits = range(len(names)), 1 if max(values, default=0) >= 10 else 2
    ax.barh(rows, values, height=0.62, color=[_colour(n, MUTED) for n in names])
    for row, value in zip(rows, values, strict=True):
        told = f"{value:.{digits}f}"
        ax.text(1.02, row, told, transform=ax.get_yaxis_transform(), va="center", color=MUTED)
    ax.set_yticks(rows, names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    return Panel(name=name, label=f"{title} of every method", drawing=drawing)


def _colour(method: str, other: str = INK) -> str:
    return {OURS: ACCENT, BASE: MUTED}.get(method, other)
