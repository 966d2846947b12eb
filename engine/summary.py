"""What the terminal prints at the end of a run."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from engine.display import comparisons, ratio, verdict
from engine.results import RunRecord


def render_summary(record: RunRecord) -> Group:
    """Returns the verdict, base network against result, and the widths before and after."""
    outcome = Table(box=None, header_style="bold", pad_edge=False)
    outcome.add_column("")
    for name in ("base network", "result", "limit", "change"):
        outcome.add_column(name, justify="right")
    for row in comparisons(record):
        outcome.add_row(row.quantity, row.baseline, row.result, row.limit, row.change)

    widths = Table(box=None, header_style="bold", pad_edge=False)
    # Text, because markup could stand in a group's name.
    widths.add_column("width group", overflow="fold")
    for name in ("before", "after", "ratio"):
        widths.add_column(name, justify="right")
    for group, before in record.baseline.spec.widths:
        after = record.result.widths[group]
        widths.add_row(Text(group), str(before), str(after), ratio(after, before))
    return Group(Text(verdict(record)), "", outcome, "", widths)
