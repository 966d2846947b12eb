"""Figures of benchmarks: panels side by side in one SVG, in the style of the reports."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.drawing import PAPER, Panel, svg

WIDTH, HEIGHT = 360, 270
"""Of a panel, in CSS pixels."""
BOTTOM = 38
"""Below its axes."""


def board(
    titles: Sequence[str], *, columns: int = 2, left: float = 48
) -> tuple[Figure, list[Axes]]:
    """Returns a drawing and its panels, row by row, each with a title."""
    rows = -(-len(titles) // columns)
    drawing = Figure(figsize=(columns * WIDTH / 72, rows * HEIGHT / 72), dpi=72)
    axes: list[Axes] = []
    box = (
        left / WIDTH,
        BOTTOM / HEIGHT,
        (WIDTH - left - 16) / WIDTH,
        (HEIGHT - BOTTOM - 48) / HEIGHT,
    )
    parts = drawing.subfigures(rows, columns, squeeze=False).flat
    for part, title in zip(parts, titles, strict=False):
        part.set_facecolor("none")
        part.text(4 / WIDTH, 1 - 4 / HEIGHT, title, va="top", weight="bold", size=11.5)
        axes.append(part.add_axes(box))
    return drawing, axes


def keys(ax: Axes) -> None:
    """One row of keys between the title and the axes, where no data can be hidden."""
    box = ax.get_position()
    corner = (4 / WIDTH - box.x0) / box.width
    _, labels = ax.get_legend_handles_labels()
    ax.legend(loc="lower left", bbox_to_anchor=(corner, 1.03), ncols=len(labels))


def write_board(name: str, drawing: Figure, out: Path) -> None:
    """Writes OUT/NAME.svg on white, and says so."""
    path = out / f"{name}.svg"
    path.write_text(svg(Panel(name=name, label=name, drawing=drawing), PAPER), encoding="utf-8")
    print(f"wrote {path}")
