"""HACScale beside every other way to scale: Table I and Figures 1 to 5 of the paper, measured here.

    python benchmarks/table1.py [--recipes A B] [--runs DIR] [--seeds 3] [--set data=parquet:PATH]

Runs the search and the comparison of every recipe, or goes on with them: all is kept in the run
stores under --runs, and nothing that is there is trained or measured again. Each recipe has its
result in docs/results/table1-RECIPE.json and its figures in docs/figures/. docs/table1.md and the
first screen of README.md are written from all result files that are there; `--recipes` without a
name does only that.
"""

import argparse
import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from record import options, run, where, write_block, write_results
from rich.console import Console
from table1_words import FIGURES, README_PAGE, Decisions, beside, essence, section

from engine.codec import decode, jsonable
from engine.commands.options import find_recipe
from engine.comparison import Comparison, lines
from engine.comparison_figures import draw_comparison
from engine.drawing import vector
from engine.peers.methods import chosen
from engine.recipe import Recipe, override
from engine.recipes import RECIPES
from engine.results import RunRecord
from engine.storage import open_folder

DEFAULT = ("cifar10-vgg11-loose-small", "cifar10-vgg11-tight-small")
PAPER = RECIPES["cifar10-vgg11-tight"]()
"""What a reduced form is a reduction of."""
PREFIX = "table1-"
PAGE = "table1.md"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--recipes", nargs="*", default=DEFAULT, help="names or files of recipes")
    parser.add_argument("--name", help="of the run and its result; default: that of the recipe")
    parser.add_argument("--runs", default="runs", help="directory of the runs, or a URI")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every network")
    parser.add_argument("--methods", default="all", help="names divided by commas; default: all")
    parser.add_argument("--set", nargs="+", action="extend", default=[], help="recipe fields")
    parser.add_argument("--data-name", help="how the data is called; default: as its source is")
    parser.add_argument("--address", help="of a Ray cluster; default: a session of its own")
    asked = parser.parse_args()
    chosen(asked.methods)  # a wrong name is told before hours of search
    for reference in asked.recipes:
        recipe, name = find_recipe(reference)
        recipe, name = override(recipe, asked.set), asked.name or name
        comparison, record = compared(recipe, name, asked)
        comparison = published(comparison, asked.data_name)
        found = {
            "recipe": name,
            "form": form_of(recipe),
            "n": len(comparison.seeds),
            "table": [jsonable(line) for line in lines(comparison)],
            "latency_model": jsonable(record.profile.quality),
            "rounds_ms": [done.latency.ms for done in record.allocate.rounds],
            "alpha": jsonable(record.alpha),
            "choice": jsonable(record.choose),
            "fidelity": jsonable(record.fidelity),
            "comparison": jsonable(comparison),
        }
        write_results(PREFIX + name, found, asked.out)
        draw(name, comparison, asked.out)
    write_pages(asked.out)


def compared(recipe: Recipe, name: str, asked: argparse.Namespace) -> tuple[Comparison, RunRecord]:
    """Runs a search and its comparison, as far as they are not done."""
    from cluster import run_search
    from cluster.compare import compare_run
    from engine.comparison_view import render_comparison

    location, console = (open_folder(asked.runs) / name).location, Console()
    record = run_search(recipe, location, name, asked.address, console)
    done = compare_run(location, chosen(asked.methods), asked.seeds, asked.address, console)
    console.print(render_comparison(done))
    return done, record


def published(comparison: Comparison, data_name: str | None) -> Comparison:
    """The comparison without paths of this machine."""
    source, _, numbers = comparison.data.rpartition(": ")
    source = data_name or re.sub(r"/\S*[^\s,]", "PATH", source)
    return replace(comparison, data=f"{source}: {numbers}")


def form_of(recipe: Recipe) -> str:
    """What a recipe has less of than the paper, for people."""
    images = recipe.data.train_images
    less = [
        text
        for differs, text in (
            (recipe.model != PAPER.model, f"{recipe.model} in place of {PAPER.model}"),
            (recipe.width != PAPER.width, f"widths × {recipe.width:g}"),
            (images != PAPER.data.train_images, f"{images or 0:,} training images"),
            (
                recipe.train.epochs != PAPER.train.epochs,
                f"{recipe.train.epochs} epochs in place of {PAPER.train.epochs}",
            ),
        )
        if differs
    ]
    limits = f"Limits: latency {recipe.limits.latency}, parameters {recipe.limits.params}."
    form = f"Reduced form: {', '.join(less)}." if less else "The paper's width, images and epochs."
    return f"{form} {limits} {way_of(recipe)}"


def way_of(recipe: Recipe) -> str:
    """How the answer is found, where recipes differ, for people."""
    compared = (
        f"networks of {recipe.alpha.budget:g} times the base's multiply-accumulates"
        if recipe.alpha.candidates == "compute"
        else "uniform networks that use up the limits"
    )
    # With "and" before the last, if there are several.
    rivals = " and ".join(", ".join(f"`{name}`" for name in recipe.choose.rivals).rsplit(", ", 1))
    answer = f"Algorithm 1 widens by `allocate.choice={recipe.allocate.rule}`" + (
        f", and short trainings choose between its network and those of {rivals}" if rivals else ""
    )
    return f"The α search compares {compared}; {answer}."


def draw(name: str, comparison: Comparison, out: Path) -> None:
    """Writes the figures of the paper to OUT/figures, and says so."""
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for panel in draw_comparison(comparison).panels:
        if panel.name in FIGURES:
            path = folder / f"{name}-{panel.name}.svg"
            path.write_bytes(vector(panel))
            print(f"wrote {path}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A result file, read again."""

    recipe: str
    form: str
    decisions: Decisions
    comparison: Comparison
    versions: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Found":
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kept = json.dumps(tree["comparison"]).encode()
        names = [field.name for field in fields(Decisions)]
        decisions = {name: tree[name] for name in names if name in tree}
        return cls(
            recipe=tree["recipe"],
            form=tree["form"],
            decisions=decode(Decisions, json.dumps(decisions), str(path)),
            comparison=decode(Comparison, kept, str(path)),
            versions=tree["versions"],
        )


def write_pages(out: Path) -> None:
    """Writes docs/table1.md and README.md from all result files."""
    found = [Found.read(path) for path in sorted((out / "results").glob(f"{PREFIX}*.json"))]
    # The first, which the README shows, is the one of most methods.
    found.sort(key=lambda one: (one.recipe not in DEFAULT, -len(one.comparison.entries)))
    if not found:
        print("there is no result yet, so the pages stay as they are")
        return
    sections = [
        section(
            one.recipe,
            one.form,
            one.decisions,
            one.comparison,
            setting(one),
            [name for name in FIGURES if (out / "figures" / f"{one.recipe}-{name}.svg").exists()],
        )
        for one in found
    ]
    write_block(PAGE, "table1", "\n\n".join(sections), out)
    first, *others = [one for one in found if one.recipe in DEFAULT] or found[:1]
    parts = [
        essence(first.recipe, first.form, first.comparison, setting(first)),
        *(beside(one.recipe, one.comparison) for one in others),
        "[All methods, figures and what each row means](docs/table1.md).",
    ]
    write_block(README_PAGE, "table1", "\n\n".join(parts), out)


def setting(found: Found) -> str:
    """What it was measured and trained on and with."""
    environment = found.comparison.environment
    versions = "" if "torch" in environment else f", PyTorch {found.versions['torch']}"
    return f"{where({'batch': str(found.comparison.batch), **environment})}{versions}"


if __name__ == "__main__":
    run(main)
