"""The method, without Ray: network graphs, costs, latency, importance, allocation, the run store.

Names are imported when they are first asked for, so that ``import engine`` costs nothing and
needs no PyTorch. A whole search is `cluster.run_search`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.allocation import allocate as allocate
    from engine.errors import UserError as UserError
    from engine.graph import NetworkGraph as NetworkGraph
    from engine.graph import load_graph as load_graph
    from engine.hardware.contract import LatencyModel as LatencyModel
    from engine.hardware.models import fit_latency as fit_latency
    from engine.hardware.models import load_latency as load_latency
    from engine.importance import ImportanceMeter as ImportanceMeter
    from engine.latency import profile_specs as profile_specs
    from engine.limits import Limits as Limits
    from engine.limits import Usage as Usage
    from engine.measure import time_networks as time_networks
    from engine.predictors import fit_predictors as fit_predictors
    from engine.recipe import Allocate as Allocate
    from engine.recipe import Alpha as Alpha
    from engine.recipe import Cluster as Cluster
    from engine.recipe import Data as Data
    from engine.recipe import Device as Device
    from engine.recipe import Profile as Profile
    from engine.recipe import Recipe as Recipe
    from engine.recipe import Sample as Sample
    from engine.recipe import load_recipe as load_recipe
    from engine.recipes import RECIPES as RECIPES
    from engine.report import write_report as write_report
    from engine.results import ImportanceSample as ImportanceSample
    from engine.results import RunRecord as RunRecord
    from engine.spec import ModelRef as ModelRef
    from engine.spec import NetworkSpec as NetworkSpec
    from engine.training import Training as Training
    from engine.widening import NetworkWidening as NetworkWidening

_MODULES = {
    "allocate": "allocation",
    "UserError": "errors",
    "NetworkGraph": "graph",
    "load_graph": "graph",
    "ImportanceMeter": "importance",
    "LatencyModel": "hardware.contract",
    "fit_latency": "hardware.models",
    "load_latency": "hardware.models",
    "profile_specs": "latency",
    "Limits": "limits",
    "Usage": "limits",
    "time_networks": "measure",
    "fit_predictors": "predictors",
    "Allocate": "recipe",
    "Alpha": "recipe",
    "Cluster": "recipe",
    "Data": "recipe",
    "Device": "recipe",
    "Profile": "recipe",
    "Recipe": "recipe",
    "Sample": "recipe",
    "load_recipe": "recipe",
    "RECIPES": "recipes",
    "write_report": "report",
    "ImportanceSample": "results",
    "RunRecord": "results",
    "ModelRef": "spec",
    "NetworkSpec": "spec",
    "Training": "training",
    "NetworkWidening": "widening",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
