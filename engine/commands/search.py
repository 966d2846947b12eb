"""The search that a command asks for, here or on a cluster."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.codec import pretty
from engine.commands.options import (
    add_limits,
    add_runs_dir,
    find_recipe,
    stated_limits,
    with_limits,
)
from engine.errors import UserError
from engine.recipe import Recipe, override

if TYPE_CHECKING:
    from cluster.hours import MaxHours

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KINDS = ("gpu", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSearch:
    """A recipe with everything that the options change in it, and the name of its run."""

    recipe: Recipe
    recipe_name: str
    name: str

    @property
    def files(self) -> dict[str, bytes]:
        """The recipe as a file, for a machine that does not have it."""
        return {f"{self.recipe_name}.yaml": pretty(self.recipe)}

    def remote_words(self, arguments: argparse.Namespace) -> list[str]:
        """Returns the words that run this search on a machine that has `files`.

        Raises:
            UserError: the run or the data would not be where the cluster can find them.
        """
        kind, _, path = self.recipe.data.source.partition(":")
        if kind in ("imagefolder", "parquet") and not _is_found_anywhere(path):
            raise UserError(
                f"data.source {self.recipe.data.source} is a path of this machine; give an "
                "absolute path that the cluster has"
            )
        profile = self.recipe.profile
        for field, path in (("file", profile.file), ("table", profile.table)):
            if path and not _is_found_anywhere(path):
                raise UserError(
                    f"profile.{field} {path} is a path of this machine; give an absolute path that "
                    "the cluster has"
                )
        return [
            *("run", f"{self.recipe_name}.yaml", "--name", self.name),
            *remote_words(arguments),
        ]


def add_search(parser: argparse.ArgumentParser) -> None:
    """Adds what a search is and how it is driven."""
    add_recipe(parser)
    add_retry(parser)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds what a search is and what it may use."""
    parser.add_argument("recipe", metavar="RECIPE|FILE.yaml", help="see `hacscale recipes`")
    add_limits(parser)
    parser.add_argument("--name", help="of the run; default: the recipe's")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="recipe fields, for example train.epochs=20",
    )
    add_runs_dir(parser)
    add_max_hours(parser)


def add_driving(parser: argparse.ArgumentParser) -> None:
    """Adds how a search is driven whose recipe is known."""
    add_retry(parser)
    add_max_hours(parser)


def add_retry(parser: argparse.ArgumentParser) -> None:
    """Adds that failed trainings are tried again."""
    parser.add_argument(
        "--retry-failed", action="store_true", help="train again what failed before"
    )


def add_max_hours(parser: argparse.ArgumentParser) -> None:
    """Adds a ceiling on what trainings may use."""
    hours = parser.add_mutually_exclusive_group()
    for kind in _KINDS:
        hours.add_argument(
            f"--max-{kind}-hours",
            type=float,
            metavar="X",
            help=f"stop in order when trainings have used so many {kind.upper()}-hours",
        )


def max_hours(arguments: argparse.Namespace) -> "MaxHours | None":
    """Returns the ceiling that the options give."""
    from cluster.hours import MaxHours

    for kind in _KINDS:
        hours = getattr(arguments, f"max_{kind}_hours")
        if hours is not None:
            return MaxHours(kind=kind, hours=hours)
    return None


def asked_search(arguments: argparse.Namespace) -> AskedSearch:
    """Returns what the options ask for.

    Raises:
        UserError: there is no such recipe, it does not fit together, or the name is none.
    """
    recipe, recipe_name = find_recipe(arguments.recipe, stated_limits(arguments))
    recipe = with_limits(override(recipe, arguments.set), arguments)
    name = recipe_name if arguments.name is None else arguments.name
    if not _NAME.fullmatch(name):
        raise UserError(
            "the name of a run has at most 100 letters, digits, '.', '_' and '-' and begins with "
            f"a letter or digit; {name!r} does not: give another --name"
        )
    return AskedSearch(recipe=recipe, recipe_name=recipe_name, name=name)


def remote_words(arguments: argparse.Namespace, run: str = "") -> list[str]:
    """Returns the options of driving as words for a machine of the cluster.

    Args:
        run: that is driven, if it is there: as a path or URI it says itself where it is.

    Raises:
        UserError: the runs would not be kept where they outlive the cluster's processes.
    """
    runs_dir = str(arguments.runs_dir)
    if not (_is_found_anywhere(runs_dir) or _is_found_anywhere(run)):
        raise UserError(
            f"--runs-dir {runs_dir} is a path of this machine; give an absolute path that every "
            "machine of the cluster shares, or a URI"
        )
    words = ["--runs-dir", runs_dir, "--address", "auto"]
    if arguments.retry_failed:
        words.append("--retry-failed")
    hours = max_hours(arguments)
    return [*words, hours.option, str(hours.hours)] if hours else words


def _is_found_anywhere(path: str) -> bool:
    return Path(path).is_absolute() or "://" in path
