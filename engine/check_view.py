"""What `hacscale check` shows."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.check import GroupCheck, NetworkCheck
from engine.display import count, plural
from engine.groups import WidthGroup
from engine.shapes import images_of

_LISTED = 3


def render_check(check: NetworkCheck) -> RenderableType:
    """Returns the width groups as a table, what does not change, and the verdict."""
    side = check.resolution
    title = (
        f"{check.ref.name} at {check.ref.channels}×{side}×{side}: {check.params:,} parameters, "
        f"{check.macs:,} MACs, {plural(len(check.groups), 'width group')}; it returns "
        f"{images_of(check.outputs)}"
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("width group", overflow="fold")
    for name in ("width", "params", "MACs"):
        table.add_column(name, justify="right")
    table.add_column("changes with, and why", overflow="fold")
    for row in check.groups:
        table.add_row(
            Text(row.group.name),
            str(row.group.base),
            count(row.params),
            count(row.macs),
            Text(_together(row.group)),
        )
    notes = (Text(line) for line in _notes(check))
    return Group(Text(title), table, *notes, _verdict(check))


def _together(group: WidthGroup) -> str:
    """The other layers that write the group, what its width is a multiple of, and the reasons."""
    said = [_some(group.writers[1:])] if len(group.writers) > 1 else []
    if group.multiple > 1:
        said.append(f"in multiples of {group.multiple}")
    return "\n".join([*said, _some(group.coupled, "\n")] if group.coupled else said)


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
    if check.training_only is None:
        lines.append(
            "what it does in training mode only is left out, and not known: it cannot be traced in "
            "that mode"
        )
    if check.training_only:
        lines.append(
            f"left out, because called in training mode only: {_some(check.training_only)}"
        )
    if check.evaluation_only:
        lines.append(
            "done in training as well, though called in evaluation mode only: "
            f"{_some(check.evaluation_only)}"
        )
    if check.not_plain:
        lines.append(f"cannot be exported, nor measured on a device offline: {check.not_plain}")
    return [*lines, check.larger] if check.larger else lines


def _verdict(check: NetworkCheck) -> Text:
    failed = [row for row in check.groups if row.failure]
    if failed:
        return Text("\n".join(f"failed: group {_failure(row)}" for row in failed), style="red")
    if check.failure:
        return Text(f"failed: {check.failure}", style="red")
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
