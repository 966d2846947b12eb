"""A comparison as files and for a terminal."""

import csv
import io
from dataclasses import astuple, fields

from rich.console import Group
from rich.table import Table
from rich.text import Text

from engine.codec import pretty
from engine.comparison import OURS, Comparison, ComparisonFile, Line, lines
from engine.comparison_figures import ComparisonFigures, draw_comparison
from engine.comparison_table import table_of
from engine.comparison_words import notes, verdict
from engine.drawing import raster, vector
from engine.folder import Folder
from engine.report import render_page

WRITTEN = ("comparison.json", "comparison.csv", "comparison.html", "comparison")
"""Files of a run that hold its comparison; the last is the folder of the figures."""


def write_comparison(comparison: Comparison, folder: Folder) -> None:
    """Writes `WRITTEN`: all of it as JSON, the table as CSV, a page, the figures as SVG and PNG.

    Raises:
        StorageError: they cannot be written.
    """
    file = ComparisonFile(comparison=comparison, table=lines(comparison))
    as_json, as_csv, as_html, figures = WRITTEN
    folder.write(as_json, pretty(file))
    folder.write(as_csv, render_csv(comparison).encode())
    drawn = draw_comparison(comparison)
    folder.write(as_html, render_page_of(comparison, drawn).encode())
    for panel in drawn.panels:
        (folder / figures).write(f"{panel.name}.svg", vector(panel))
        (folder / figures).write(f"{panel.name}.png", raster(panel))


def render_page_of(comparison: Comparison, figures: ComparisonFigures) -> str:
    """Returns the comparison as one HTML page that needs neither network nor script."""
    return render_page(
        "comparison.html.j2",
        comparison=comparison,
        verdict=verdict(comparison),
        figures=figures,
        shown=table_of(comparison),
        notes=notes(comparison),
        ours=OURS,
    )


def render_comparison(comparison: Comparison) -> Group:
    """Returns the table and its notes for a terminal; 80 columns are enough without power."""
    shown = table_of(comparison)
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for column in shown.columns:
        justify = "left" if column is shown.columns[0] else "right"
        table.add_column(column.short, justify=justify, no_wrap=not column.wraps)
    for line, cells in zip(shown.lines, shown.rows, strict=True):
        style = "bold" if line.method == OURS else ""
        table.add_row(*map(Text, cells), style=style)
    return Group(Text(verdict(comparison)), "", table, "", *map(Text, notes(comparison)))


def render_csv(comparison: Comparison) -> str:
    """Returns one line for each method with plain numbers, the best first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Line))
    for line in lines(comparison):
        writer.writerow(map(_plain, astuple(line)))
    return text.getvalue()


def _plain(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
