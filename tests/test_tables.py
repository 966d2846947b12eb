from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from engine.errors import UserError
from engine.tables import COLUMNS, TableRow, read_table

ROW = {
    "op": "conv", "cin": 8, "cout": 16, "h": 32, "w": 32, "kernel": 3, "stride": 1, "groups": 1,
    "ms": 0.25,
}  # fmt: skip


def written(path: Path, *rows: dict[str, object], columns: tuple[str, ...] = COLUMNS) -> Path:
    lines = [",".join(columns)] + [",".join(str(row[c]) for c in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_csv_and_parquet_hold_the_same_in_any_order_of_columns(tmp_path: Path):
    rows = [ROW, ROW | {"op": "linear", "h": 1, "w": 1, "kernel": 1, "ms": 2}]
    csv = written(tmp_path / "a.csv", *rows, columns=COLUMNS[::-1])
    pa.parquet.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    found = read_table(csv)
    assert found == (
        TableRow(op="conv", cin=8, cout=16, h=32, w=32, kernel=3, stride=1, groups=1, ms=0.25),
        TableRow(op="linear", cin=8, cout=16, h=1, w=1, kernel=1, stride=1, groups=1, ms=2.0),
    )
    assert read_table(tmp_path / "a.parquet") == found[:1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ms": -0.1}, r"row 2 of .*: ms must be a time above zero, not -0.1"),
        ({"ms": "nan"}, r"row 2 of .*: ms must be a time above zero, not nan"),
        ({"ms": "inf"}, r"row 2 of .*: ms must be a time above zero, not inf"),
        ({"ms": ""}, r"row 2 of .*: ms must be a time above zero, not None"),
        ({"ms": "fast"}, r"ms must be a time above zero, not '0.25'"),
        ({"cin": 0}, r"row 2 of .*: cin must be a whole number of at least 1, not 0"),
        ({"h": 1.5}, r"row 2 of .*: h must be a whole number of at least 1, not 1.5"),
        ({"groups": 3}, r"row 2 of .*: cin 8 is no multiple of groups 3"),
        ({"op": ""}, r"row 2 of .*: op must be one of conv, .* reshape, not ''"),
        ({"op": "conv2d"}, r"row 2 of .*: op must be one of .* not 'conv2d'; did you mean 'conv'"),
    ],
)
def test_a_row_that_cannot_be_is_one_line(tmp_path: Path, change: dict[str, object], message: str):
    with pytest.raises(UserError, match=message) as error:
        read_table(written(tmp_path / "a.csv", ROW, ROW | change))
    assert "\n" not in str(error.value)


def test_two_times_of_one_layer_must_be_near_each_other(tmp_path: Path):
    noisy = [ROW | {"ms": ms} for ms in (0.25, 0.3, 0.45)]
    assert [row.ms for row in read_table(written(tmp_path / "a.csv", *noisy))] == [0.25, 0.3, 0.45]
    other = ROW | {"cin": 16, "ms": 99}
    with pytest.raises(UserError, match=r"rows 1 and 3 of .* same layer 0.25 and 99 ms; keep the"):
        read_table(written(tmp_path / "a.csv", ROW, other, ROW | {"ms": 99}))


def test_whole_numbers_may_be_written_as_fractions(tmp_path: Path):
    (row,) = read_table(written(tmp_path / "a.csv", ROW | {"cin": "8.0"}))
    assert row.cin == 8 and type(row.cin) is int


def test_other_columns_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no column 'groups'; it must have op, cin, .* ms"):
        read_table(written(tmp_path / "a.csv", ROW, columns=(*COLUMNS[:-2], "ms")))
    row = ROW | {"strides": 1}
    with pytest.raises(UserError, match=r"has the column 'strides', which is none.*stride"):
        read_table(written(tmp_path / "a.csv", row, columns=(*COLUMNS, "strides")))
    with pytest.raises(UserError, match="has the column 'ms' twice"):
        read_table(written(tmp_path / "a.csv", ROW, columns=(*COLUMNS, "ms")))


def test_a_head_in_another_encoding_is_one_line(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(",".join([*COLUMNS, "Gerät"]).encode("cp1252") + b"\n")
    with pytest.raises(UserError, match=r"a\.csv is no table of layers \(.*codec"):
        read_table(path)


def test_a_table_without_rows_or_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no rows"):
        read_table(written(tmp_path / "a.csv"))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="is no table of layers"):
        read_table(tmp_path / "empty.csv")
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="is no table of layers"):
        read_table(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"ends in \.csv or \.parquet"):
        read_table(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"cannot read .*missing\.csv"):
        read_table(tmp_path / "missing.csv")
