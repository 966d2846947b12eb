"""Lookup tables of layer latency, as others publish them: CSV or Parquet, one layer a row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from engine.codec import STRICT
from engine.errors import UserError, first_line, nearest
from engine.ops import KINDS

COLUMNS = ("op", "cin", "cout", "h", "w", "kernel", "stride", "groups", "ms")
"""The first is text, the last a number, those between are whole numbers."""
_COUNTS = COLUMNS[1:-1]
_APART = 2.0
"""Times of one layer that differ by more than this factor are no noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One layer that was timed alone.

    Attributes:
        op: its kind, one of `engine.ops.KINDS`.
        cin, cout: channels in and out.
        h, w: spatial size of its input.
        kernel: side of its window.
        ms: its latency.
    """

    __pydantic_config__ = STRICT

    op: str
    cin: int
    cout: int
    h: int
    w: int
    kernel: int
    stride: int
    groups: int
    ms: float


def read_table(path: Path) -> tuple[TableRow, ...]:
    """Reads a lookup table; columns may stand in any order.

    Args:
        path: a file that ends in ``.csv`` or ``.parquet``.

    Raises:
        UserError: it cannot be read, is empty, has other columns, or holds what is no size or no
            time.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"a table of layers ends in .csv or .parquet, {path} does not")
    try:
        table: Any = _parsed(path)
        names: list[str] = table.column_names
    except OSError as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        why = first_line(error)
        raise UserError(f"{path} is no table of layers ({why}); see docs/profile.md") from None
    _check_columns(path, names)
    if not table.num_rows:
        raise UserError(f"{path} holds no rows; a table has one for each layer")
    rows = tuple(_row(path, number, row) for number, row in enumerate(table.to_pylist(), start=1))
    _check_agreement(path, rows)
    return rows


def _parsed(path: Path) -> Any:
    if path.suffix == ".parquet":
        return parquet.read_table(str(path))
    # By default "nan" would be read as if nothing stood there.
    empty = csv.ConvertOptions(null_values=[""])
    return csv.read_csv(str(path), convert_options=empty)


def _check_columns(path: Path, names: Sequence[str]) -> None:
    wanted = f"it must have {', '.join(COLUMNS)}"
    for name in names:
        if name not in COLUMNS:
            hint = nearest(name, COLUMNS)
            raise UserError(f"{path} has the column {name!r}, which is none{hint}; {wanted}")
        if names.count(name) > 1:
            raise UserError(f"{path} has the column {name!r} twice; {wanted}")
    for name in COLUMNS:
        if name not in names:
            raise UserError(f"{path} has no column {name!r}; {wanted}")


def _check_agreement(path: Path, rows: Sequence[TableRow]) -> None:
    """Rows of one layer count by their median; far apart, one of them is a mistake."""
    seen: dict[TableRow, tuple[int, float]] = {}
    for number, row in enumerate(rows, start=1):
        first, ms = seen.setdefault(replace(row, ms=0.0), (number, row.ms))
        if max(ms, row.ms) > _APART * min(ms, row.ms):
            raise UserError(
                f"rows {first} and {number} of {path} give the same layer {ms:g} and {row.ms:g} "
                "ms; keep the right one"
            )


def _row(path: Path, number: int, row: dict[str, Any]) -> TableRow:
    where = f"row {number} of {path}"
    op = row["op"]
    if op not in KINDS:
        hint = nearest(op, KINDS) if isinstance(op, str) else ""
        raise UserError(f"{where}: op must be one of {', '.join(KINDS)}, not {op!r}{hint}")
    for name in _COUNTS:
        value = row[name]
        if isinstance(value, float) and value.is_integer():  # one fraction makes a column of them
            value = row[name] = int(value)
        if type(value) is not int or value < 1:
            raise UserError(f"{where}: {name} must be a whole number of at least 1, not {value!r}")
    for name in ("cin", "cout"):
        if row[name] % row["groups"]:
            raise UserError(f"{where}: {name} {row[name]} is no multiple of groups {row['groups']}")
    ms = row["ms"]
    # NaN is not above zero either.
    if type(ms) not in (int, float) or not 0 < ms < float("inf"):
        raise UserError(f"{where}: ms must be a time above zero, not {ms!r}; measure that layer")
    return TableRow(**{name: row[name] for name in COLUMNS[:-1]}, ms=float(ms))
