"""The report of a run: one HTML file that needs neither network nor script."""

import re
from pathlib import Path
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine import display, fidelity
from engine.drawing import ACCENT, FAINT, INK, MUTED, PAPER, Panel, svg
from engine.figures import draw_figures, winning
from engine.results import RunRecord

_VARIABLES = {INK: "ink", MUTED: "muted", FAINT: "faint", PAPER: "paper", ACCENT: "accent"}
_COLOUR = re.compile("|".join(_VARIABLES))
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"


def render_report(record: RunRecord) -> str:
    """Returns the report of a run as one HTML page."""
    return render_page(
        "report.html.j2",
        run=record,
        result=record.result,
        figures=draw_figures(record),
        verdict=display.verdict(record),
        comparisons=display.comparisons(record),
        winner=winning(record.alpha),
        fidelity=fidelity,
    )


def render_page(template: str, **values: object) -> str:
    """Returns a page of this folder's templates, with `engine.display` as ``show``."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template)
    return page.render(show=display, inline_svg=inline_svg, **values)


def inline_svg(panel: Panel) -> Markup:
    """Returns a panel as an SVG element for an HTML page.

    Colours become the page's variables, so that the figure follows light and dark; fonts are the
    page's; ids carry the panel's name, because a page has one space of ids for all its figures.
    """
    root = ElementTree.fromstring(svg(panel))
    for definitions in root.iter(f"{_SVG}defs"):
        # A style sheet would hold for the whole page.
        for sheet in definitions.findall(f"{_SVG}style"):
            definitions.remove(sheet)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        given = element.attrib
        if "id" in given:
            given["id"] = f"{panel.name}-{given['id']}"
        if _HREF in given:
            given["href"] = given.pop(_HREF).replace("#", f"#{panel.name}-")
        if "clip-path" in given:
            given["clip-path"] = given["clip-path"].replace("#", f"#{panel.name}-")
        if "style" in given:
            given["style"] = _COLOUR.sub(lambda c: f"var(--{_VARIABLES[c[0]]})", given["style"])
        if "d" in given:
            given["d"] = " ".join(given["d"].split())
    _, _, width, _ = root.attrib["viewBox"].split()
    for key in ("width", "height", "version"):
        del root.attrib[key]
    # A little larger than drawn, on a wide screen, and no more: beyond, the text shouts.
    root.attrib |= {
        "role": "img",
        "aria-label": panel.label,
        "style": f"max-width:{1.3 * float(width):.0f}px",
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))
