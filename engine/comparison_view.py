"""A comparison as a table: for the terminal, as CSV, and as the sentences beside it."""

import csv
import io
import math
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from engine.comparison import OURS, Comparison, Difference, Entry, difference, ranked
from engine.comparison_figures import draw_comparison
from engine.display import count, milliseconds, percent, points
from engine.nearness import nearness
from engine.report import render_page


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One line of the table, as text."""

    method: str
    params: str
    macs: str
    resolution: str
    latency: str
    arithmetic: str
    accuracy: str
    against: str
    cost: str

    @property
    def cells(self) -> tuple[str, ...]:
        """All but the method."""
        return tuple(getattr(self, name) for name in _fields()[1:])


HEADINGS = ComparisonRow(
    method="method",
    params="params",
    macs="MACs",
    resolution="px",
    latency="latency",
    arithmetic="GFLOP/s",
    accuracy="top-1 ± sd",
    against=f"against {OURS}",
    cost="search",
)


def rows(comparison: Comparison) -> list[ComparisonRow]:
    """Returns the methods by mean accuracy, the best first."""
    ours = next((e for e in comparison.entries if e.proposal.method == OURS), None)
    return [_row(comparison, entry, ours) for entry in ranked(comparison)]


def _row(comparison: Comparison, entry: Entry, ours: Entry | None) -> ComparisonRow:
    proposal = entry.proposal
    late = proposal.latency.ms > comparison.latency_limit_ms * (1 + proposal.latency.noise_floor)
    large = proposal.params > comparison.params_limit
    return ComparisonRow(
        method=proposal.method,
        params=count(proposal.params) + (" !" if large else ""),
        macs=count(proposal.macs),
        resolution=str(proposal.spec.resolution),
        latency=milliseconds(proposal.latency.ms) + (" !" if late else ""),
        arithmetic=f"{entry.gflops_per_second:.1f}",
        accuracy=_accuracy(entry),
        against="" if ours is None or entry is ours else _against(difference(ours, entry)),
        cost=f"{proposal.search_seconds:.0f} s, {proposal.search_trials}",
    )


def _accuracy(entry: Entry) -> str:
    if entry.mean is None:
        return "failed"
    spread = "" if entry.spread is None else f" ± {100 * entry.spread:.1f}"
    return percent(entry.mean) + spread


def _against(found: Difference | None) -> str:
    if found is None:
        return ""
    return "tie" if found.verdict == "tie" else f"{found.verdict}, {points(found.mean)}"


def notes(comparison: Comparison) -> list[str]:
    """Returns the sentences that the table needs to be read."""
    seeds = len(comparison.seeds)
    said = [
        f"Limits: {milliseconds(comparison.latency_limit_ms)} as measured and "
        f"{count(comparison.params_limit)} parameters; a ! marks what a method does not keep. "
        f"Top-1 on the test split, mean and standard deviation over {seeds} "
        f"seed{'s' * (seeds > 1)}; a tie is what the paired t-test over seeds does not tell apart "
        "(5 %). Search: seconds of training, and trainings, that the answer rests on.",
        f"Data: {comparison.data}.",
    ]
    said += nearness(comparison)
    said += [f"{method} is left out: {why}" for method, why in comparison.refusals.items()]
    return said


def verdict(comparison: Comparison) -> str:
    """Returns what the comparison says of the run's own result, in one sentence."""
    ours = next((e for e in comparison.entries if e.proposal.method == OURS), None)
    if ours is None or ours.mean is None:
        return f"{OURS} has no trained network to compare"
    beside = [
        (entry.proposal.method, found.verdict)
        for entry in comparison.entries
        if entry is not ours and (found := difference(ours, entry)) is not None
    ]
    said = [
        f"{word} {', '.join(names)}"
        for word, outcome in (("better than", "worse"), ("tied with", "tie"), ("behind", "better"))
        if (names := [method for method, found in beside if found == outcome])
    ]
    return f"{OURS} reaches {percent(ours.mean)}: {'; '.join(said) or 'nothing beside it'}"


def render_page_of(comparison: Comparison) -> str:
    """Returns the comparison as one HTML page that needs neither network nor script."""
    return render_page(
        "comparison.html.j2",
        comparison=comparison,
        verdict=verdict(comparison),
        drawn=draw_comparison(comparison),
        headings=[HEADINGS.method, *HEADINGS.cells],
        rows=rows(comparison),
        notes=notes(comparison),
        ours=OURS,
    )


def render_comparison(comparison: Comparison) -> Group:
    """Returns the table and its notes for a terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(HEADINGS.method)
    for heading in HEADINGS.cells:
        table.add_column(heading, justify="right")
    for row in rows(comparison):
        table.add_row(*map(Text, (row.method, *row.cells)))
    return Group(Text(verdict(comparison)), "", table, "", *map(Text, notes(comparison)))


def render_csv(comparison: Comparison) -> str:
    """Returns one line for each method with plain numbers, the best first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("method", "params", "macs", "resolution", "latency_ms", "gflops_per_second"),
            *("top1_mean", "top1_sd", "seeds", "difference", "low_95", "high_95", "verdict"),
            *("search_seconds", "search_trials"),
        ]
    )
    ours = next((e for e in comparison.entries if e.proposal.method == OURS), None)
    for entry in ranked(comparison):
        found = None if ours is None else difference(ours, entry)
        proposal = entry.proposal
        writer.writerow(
            [
                *(proposal.method, proposal.params, proposal.macs, proposal.spec.resolution),
                *(_number(proposal.latency.ms), _number(entry.gflops_per_second)),
                *(_number(entry.mean), _number(entry.spread), len(entry.trained)),
                *(map(_number, (found.mean, found.low, found.high)) if found else ("", "", "")),
                found.verdict if found else "",
                *(_number(proposal.search_seconds), proposal.search_trials),
            ]
        )
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def _fields() -> tuple[str, ...]:
    return tuple(ComparisonRow.__dataclass_fields__)
