"""The method, without Ray: network graphs, costs, latency, importance, allocation, the run store.

The names below are what a program of one's own needs for `cluster.run_search`: recipes, and what a
search returns. They are imported when they are first asked for, so that ``import engine`` costs
nothing and needs no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.errors import UserError as UserError
    from engine.limits import Limits as Limits
    from engine.recipe import Allocate as Allocate
    from engine.recipe import Alpha as Alpha
    from engine.recipe import Choose as Choose
    from engine.recipe import Cluster as Cluster
    from engine.recipe import Data as Data
    from engine.recipe import Device as Device
    from engine.recipe import Profile as Profile
    from engine.recipe import Recipe as Recipe
    from engine.recipe import Sample as Sample
    from engine.recipe import Task as Task
    from engine.recipe import load_recipe as load_recipe
    from engine.recipes import RECIPES as RECIPES
    from engine.results import RunRecord as RunRecord
    from engine.training import Training as Training

_MODULES = {
    "UserError": "errors",
    "Limits": "limits",
    "Allocate": "recipe",
    "Alpha": "recipe",
    "Choose": "recipe",
    "Cluster": "recipe",
    "Data": "recipe",
    "Device": "recipe",
    "Profile": "recipe",
    "Recipe": "recipe",
    "Sample": "recipe",
    "Task": "recipe",
    "load_recipe": "recipe",
    "RECIPES": "recipes",
    "RunRecord": "results",
    "Training": "training",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
