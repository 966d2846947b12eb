"""The cells of a comparison's table, for terminal, page and Markdown alike."""

from collections.abc import Callable
from dataclasses import dataclass

from engine.comparison import OURS, Comparison, Line, lines
from engine.display import count, signed

_MINUTES, _HOURS = 120, 7200
"""Seconds from which a time is told in minutes, and in hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        short: heading where there is little room.
        heading: elsewhere.
        cell: text of a line.
        wraps: whether the text may take two lines where there is little room.
    """

    short: str
    heading: str
    cell: Callable[[Line], str]
    wraps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonTable:
    """Columns and lines, the best method first."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of every line; the first is the method."""
        return [[column.cell(line) for column in self.columns] for line in self.lines]


def table_of(comparison: Comparison) -> ComparisonTable:
    """Returns the table; it has no columns of power where none was measured."""
    found = lines(comparison)
    power = (_POWER, _EFFICIENCY) if any(line.power_w is not None for line in found) else ()
    return ComparisonTable(columns=(*_COSTS, *power, *_quality(comparison.score)), lines=found)


def _marked(text: str, kept: bool) -> str:
    return text if kept else f"{text}!"


def _size(number: float) -> str:
    return count(number).replace("\u00a0", "")


def _fine(number: float) -> str:
    """Three digits or more: ``1.720``, ``12.35``, ``142.1``."""
    return f"{number:.{3 if number < 10 else 2 if number < 100 else 1}f}"


def _optional(number: float | None) -> str:
    return "" if number is None else f"{number:.{1 if number >= 10 else 2}f}"


def _power(line: Line) -> str:
    return "" if line.power_w is None else f"{line.power_w:.1f}"


def _accuracy(line: Line) -> str:
    if line.top1_mean is None:
        return "failed"
    spread = "" if line.top1_sd is None else f"±{100 * line.top1_sd:.1f}"
    return f"{100 * line.top1_mean:.1f}{spread}"


def against(line: Line) -> str:
    """``better +3.0``, ``tie −0.4``: beside the run's result, in points."""
    if line.verdict is None or line.difference is None:
        return ""
    gain = round(100 * line.difference, 1) + 0.0  # no minus before a zero
    return f"{line.verdict} {'+' if gain > 0 else ''}{signed(gain, 1)}"


def _search(line: Line) -> str:
    return f"{line.search_trials}, {duration(line.search_seconds)}" if line.search_trials else "0"


def duration(seconds: float) -> str:
    """``95s``, ``21m``, ``3.5h``."""
    if seconds < _MINUTES:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < _HOURS else f"{seconds / 3600:.1f}h"


_COSTS = (
    Column(short="method", heading="method", cell=lambda line: line.method),
    Column(
        short="params",
        heading="params",
        cell=lambda line: _marked(_size(line.params), line.keeps_params),
    ),
    Column(short="MACs", heading="MACs", cell=lambda line: _size(line.macs)),
    Column(short="px", heading="px", cell=lambda line: str(line.resolution)),
    Column(
        short="ms",
        heading="latency, ms",
        cell=lambda line: _marked(_fine(line.latency_ms), line.keeps_latency),
    ),
    Column(short="GF/s", heading="GFLOP/s", cell=lambda line: _optional(line.gflops_per_second)),
)
_POWER = Column(short="W", heading="power, W", cell=_power)
_EFFICIENCY = Column(
    short="GF/J", heading="GFLOP/J", cell=lambda line: _optional(line.gflops_per_joule)
)


def _quality(score: str) -> tuple[Column, ...]:
    return (
        Column(short=score, heading=f"{score}, %", cell=_accuracy),
        Column(short="verdict", heading=f"against {OURS}", cell=against, wraps=True),
        Column(short="search", heading="search", cell=_search, wraps=True),
    )
