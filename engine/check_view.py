"""What `hacscale check` shows."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.check import GroupCheck, NetworkCheck

_LISTED = 3


def render_check(check: NetworkCheck) -> RenderableType:
    """Returns the width groups as a table, what does not change, and the verdict."""
    side = check.resolution
    title = (
        f"{check.ref.name} at {check.ref.channels}×{side}×{side}: {check.params:,} parameters, "
        f"{check.macs:,} MACs, {len(check.groups)} width groups"
    )
    table = Table(title=Text(title), title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("written by", overflow="fold")
    table.add_column("width", justify="right")
    table.add_column("multiple", justify="right")
    table.add_column("why together")
    table.add_column("parameters", justify="right")
    table.add_column("MACs", justify="right")
    for row in check.groups:
        group = row.group
        table.add_row(
            Text(group.name),
            Text(_some(group.writers)),
            str(group.base),
            "" if group.multiple == 1 else str(group.multiple),
            Text(_some(group.coupled, "; ")),
            f"{row.params:,}",
            f"{row.macs:,}",
        )
    return Group(table, *(Text(line) for line in _notes(check)), _verdict(check))


def _notes(check: NetworkCheck) -> list[str]:
    reasons = dict.fromkeys(check.fixed.values())
    lines = [
        f"of fixed width, {why}: {_some([k for k, v in check.fixed.items() if v == why])}"
        for why in reasons
    ]
    lines += [
        f"{layer} changes with the resolution: it was written for {count} pixels of each channel; "
        "--adaptive-pool keeps it as it was written"
        for layer, count in check.positions.items()
    ]
    lines += [f"{layer} is left out: it is not called in evaluation mode" for layer in check.unused]
    return lines


def _verdict(check: NetworkCheck) -> Text:
    failed = [row for row in check.groups if row.failure]
    if failed:
        return Text("\n".join(f"failed: group {_failure(row)}" for row in failed), style="red")
    if check.failure:
        return Text(f"failed: all groups together: {check.failure}", style="red")
    return Text(
        "pass: every group was widened alone, and all together; the network ran forward and "
        "backward",
        style="green",
    )


def _failure(row: GroupCheck) -> str:
    return f"{row.group.name}: {row.failure}"


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = len(names) - _LISTED
    return between.join(names[:_LISTED]) + (f"{between}… {more} more" if more > 0 else "")
