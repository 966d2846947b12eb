"""Utilisation and latency against MACs for width, depth and resolution (Fig. 2, HACScale)."""

from typing import Literal

from matplotlib.axes import Axes

from engine.dimensions import Dimension, Dimensions
from engine.drawing import (
    ACCENT,
    INK,
    MUTED,
    Panel,
    ReportFigure,
    canvas,
    legend,
    one_two_five,
    ticks,
)

Quantity = Literal["utilisation", "latency"]
_TITLES: dict[Quantity, str] = {
    "utilisation": "Utilisation (GFLOP/s)",
    "latency": "Latency (ms)",
}
_STYLES: dict[Dimension, tuple[str, str]] = {
    "width": ("o", ACCENT),
    "depth": ("D", INK),
    "resolution": ("s", MUTED),
}


def plot_dimensions(ax: Axes, found: Dimensions, quantity: Quantity) -> None:
    """Draws one line for each dimension; keys are left to the caller."""
    for dimension, family in found.families.items():
        marker, colour = _STYLES[dimension]
        values = [
            scaled.latency.ms if quantity == "latency" else scaled.gflops_per_second(found.batch)
            for scaled in family
        ]
        macs = [scaled.macs / 1e6 for scaled in family]
        ax.plot(macs, values, color=colour, marker=marker, label=dimension)
    ax.set_xscale("log")
    ticks(ax, "x", one_two_five(*ax.get_xlim()))
    if quantity == "latency":
        ax.set_yscale("log")
        ticks(ax, "y", one_two_five(*ax.get_ylim()))
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel("million MACs")


def draw_dimensions(found: Dimensions) -> ReportFigure:
    """Draws both quantities. To be called in `engine.drawing.drawing_style`."""
    panels: list[Panel] = []
    for quantity, title in _TITLES.items():
        drawing, ax = canvas(f"{title} of one dimension alone")
        plot_dimensions(ax, found, quantity)
        legend(drawing, ax)
        label = f"{title} against multiply-accumulates for width, depth and resolution"
        panels.append(Panel(name=f"dimensions-{quantity}", label=label, drawing=drawing))
    best = max(found.families, key=lambda d: found.families[d][-1].gflops_per_second(found.batch))
    depth = "" if "depth" in found.families else " Its depth cannot be multiplied."
    return ReportFigure(
        caption=(
            "The base network scaled in one dimension alone, measured in one session; "
            f"at its largest, {best} uses this device best.{depth}"
        ),
        panels=tuple(panels),
    )
