"""``hacscale recipes``: the named recipes."""

import argparse

from rich.console import Console
from rich.table import Table

from engine.commands.options import Commands
from engine.recipes import RECIPES


def add(commands: Commands) -> None:
    """Adds the command."""
    recipes = commands.add_parser("recipes", help="list the named recipes")
    recipes.set_defaults(command=_recipes)


def _recipes(arguments: argparse.Namespace, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe")
    table.add_column("what it is")
    for name, recipe in RECIPES.items():
        table.add_row(name, (recipe.__doc__ or "").splitlines()[0])
    console.print(table)
