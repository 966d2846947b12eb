"""How this project draws: colours, one style, and small canvases for pages and files.

Sizes are in CSS pixels. Every panel has its own canvas, so that a page can arrange them.
"""

import io
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from engine.display import power_of_ten

INK = "#1c2430"
MUTED = "#667085"
FAINT = "#e1e5ea"
PAPER = "#ffffff"
ACCENT = "#0f62b4"

_FILES = {"Date": None, "Creator": None, "Format": None, "Type": None}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hacscale",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.4,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One drawing.

    Attributes:
        name: file name without extension, unique in a run.
        label: what is plotted, for those who cannot see it.
    """

    name: str
    label: str
    drawing: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFigure:
    """Panels that belong together, and one sentence that says what they show."""

    caption: str
    panels: tuple[Panel, ...]


@contextmanager
def drawing_style() -> Generator[None]:
    """The style in which panels are drawn and written."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def svg(panel: Panel, background: str = "none") -> str:
    """Returns a panel as SVG text; equal panels give equal text."""
    with drawing_style():
        text = io.StringIO()
        panel.drawing.savefig(text, format="svg", metadata=_FILES, facecolor=background)
    return text.getvalue()


def vector(panel: Panel) -> bytes:
    """Returns a panel on white as an SVG file."""
    return svg(panel, PAPER).encode()


def raster(panel: Panel) -> bytes:
    """Returns a panel on white as a PNG file, at twice the size."""
    with drawing_style():
        image = io.BytesIO()
        panel.drawing.savefig(
            image, format="png", dpi=144, metadata={"Software": None}, facecolor=PAPER
        )
    return image.getvalue()


def canvas(
    title: str,
    *,
    width: float = 360,
    height: float = 260,
    left: float = 46,
    right: float = 14,
    top: float = 46,
    bottom: float = 36,
) -> tuple[Figure, Axes]:
    """A canvas with a title and one pair of axes, all measures in pixels."""
    drawing = Figure(figsize=(width / 72, height / 72), dpi=72)
    box = (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - top - bottom) / height,
    )
    drawing.text(2 / width, 1 - 3 / height, title, va="top", weight="bold", size=11.5)
    return drawing, drawing.add_axes(box)


def legend(drawing: Figure, ax: Axes) -> None:
    """One row of keys between the title and the axes, where no data can be hidden."""
    handles, labels = ax.get_legend_handles_labels()
    height = drawing.get_figheight() * 72
    drawing.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(2 / 360, 1 - 22 / height),
        ncols=len(labels),
    )


def ticks(ax: Axes, which: str, values: Sequence[float]) -> None:
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: _compact(value))


def _compact(value: float) -> str:
    """``128``, ``0.2``, ``5·10⁻⁴``: short enough for a tick."""
    if 1e-2 <= value < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    power = power_of_ten(int(exponent))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def short(name: str, most: int = 18) -> str:
    """A name that fits a label: its middle is cut, because its ends tell groups apart."""
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    tail = most * 2 // 3
    return name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}"


def label_room(labels: Sequence[str]) -> float:
    """Pixels that the longest label needs beside the axes."""
    # The mean character of DejaVu Sans at the size of tick labels; system fonts are narrower.
    return 6.5 * max(map(len, labels), default=0) + 14


def padded(values: Iterable[float], least: float) -> tuple[float, float]:
    """Axis limits with some room about the values, spanning at least ``least``."""
    known = list(values)
    low, high = min(known), max(known)
    room = max(0.06 * (high - low), (least - (high - low)) / 2, 0.02 * least)
    return low - room, high + room


def log_span(values: Sequence[float]) -> float:
    """Decades between the least and the largest value."""
    return math.log10(max(values) / min(values))


def centred(values: Sequence[float], span: float) -> tuple[float, float]:
    """Log-axis limits of ``span`` decades about the middle of the values."""
    middle = (math.log10(min(values)) + math.log10(max(values))) / 2
    return 10 ** (middle - span / 2), 10 ** (middle + span / 2)


def sweep(widths: Sequence[float], n: int = 24) -> list[float]:
    """``n`` widths from the least to the largest, evenly spaced in the logarithm."""
    low, high = min(widths), max(widths)
    return [low * (high / low) ** (i / (n - 1)) for i in range(n)]


def powers_of_two(low: float, high: float) -> list[float]:
    """Powers of two from below ``low`` to above ``high``, at most six."""
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    return [2.0**i for i in range(first, last + 1, 1 + (last - first) // 6)]


def one_two_five(low: float, high: float) -> list[float]:
    """Round values 1, 2, 5 of each decade in the range; powers of ten alone if they suffice."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**d for d in decades if low <= 10.0**d <= high]
    fine = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    if len(powers) >= 2:
        return powers[:: 1 + len(powers) // 5]
    return fine


def spaced(values: Sequence[float], least: float) -> list[float]:
    """Those of the ends and the values between that lie ``least`` decades apart."""
    low, *between, high = sorted({*values}) if len({*values}) > 1 else (values[0], values[0])
    inner = [v for v in between if min(math.log10(v / low), math.log10(high / v)) >= least]
    apart = math.log10(high / low) >= least
    return [low, *inner, high] if apart else [low]
