"""Utilisation and latency against MACs for width, depth and resolution (Fig. 2, HACScale)."""

from typing import Literal

from matplotlib.axes import Axes

from engine.dimensions import Dimension, Dimensions
from engine.drawing import ACCENT, INK, MUTED, one_two_five, ticks

_STYLES: dict[Dimension, tuple[str, str]] = {
    "width": ("o", ACCENT),
    "depth": ("D", INK),
    "resolution": ("s", MUTED),
}


def plot_dimensions(ax: Axes, found: Dimensions, quantity: Literal["utilisation", "latency"]) -> None:
    """Draws one line for each dimension; keys are left to the caller."""
    for dimension, family in found.families.items():
        marker, colour = _STYLES[dimension]
        values = [
            scaled.latency.ms
            if quantity == "latency"
            else scaled.gflops_per_second(found.batch)
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
