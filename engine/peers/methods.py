"""All methods by name, in the order of a comparison."""

import re
from collections.abc import Sequence

from engine.errors import UserError, nearest
from engine.peers import legr, steps
from engine.peers.algorithm1 import ImportanceWidths, InverseWidth, ResponseSurfaceWidths
from engine.peers.cheap import CheapImportance
from engine.peers.contract import BOTH, Method
from engine.peers.depth import FAST_COMPOUND, Compound, DepthOnly
from engine.peers.flat import Flat
from engine.peers.grid import CompoundGrid
from engine.peers.growing import NetAdaptGrowing
from engine.peers.joint import JointResolution
from engine.peers.legr import LeGR
from engine.peers.morphnet import MorphNet
from engine.peers.netadapt import NetAdapt
from engine.peers.neuralscale import NeuralScale
from engine.peers.paper import PaperHACScale
from engine.peers.randomised import RandomWidths
from engine.peers.resolution import ResolutionOnly, ThenResolution
from engine.peers.uniform import Uniform
from engine.recipe import CHOICES

METHODS: tuple[Method, ...] = (
    Uniform(),
    Uniform(name="uniform-latency", limits=("latency",)),
    Uniform(name="uniform-params", limits=("params",)),
    Uniform(name="uniform-alpha", searched=True, rests_on=("alpha",)),
    Flat(),
    ResolutionOnly(),
    DepthOnly(),
    Compound(),
    FAST_COMPOUND,
    CompoundGrid(),
    NetAdapt(),
    NetAdaptGrowing(),
    LeGR(),
    RandomWidths(),
    InverseWidth(),
    PaperHACScale(),
    *(ImportanceWidths(name=f"hacscale-{choice}", choice=choice) for choice in CHOICES),
    CheapImportance(source="slimmable"),
    CheapImportance(source="initial"),
    ResponseSurfaceWidths(),
    ThenResolution(method=Uniform()),
    ThenResolution(method=Flat()),
    ThenResolution(method=ImportanceWidths(name="hacscale")),
    JointResolution(),
    NeuralScale(name="neuralscale-1", iterations=1),
    NeuralScale(),
    MorphNet(),
    MorphNet(name="morphnet-params", resource="params"),
)

_DRAW = re.compile(r"random-(0|[1-9]\d{0,5})")
"""More draws of `RandomWidths` than the one that is among all."""
PUBLISHED: tuple[Method, ...] = (
    NetAdapt(name="netadapt-published", steps=steps.PUBLISHED),
    legr.PUBLISHED,
)
"""With as many trainings as in their papers, more than ``all`` would be worth; how else they differ
stands with each."""


def chosen(names: str) -> tuple[Method, ...]:
    """Returns the methods that ``names``, divided by commas, or ``all`` ask for.

    Raises:
        UserError: a name that is none.
    """
    if names == "all":
        return METHODS
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UserError("--methods names no method; give all, or names divided by commas")
    return named(tuple(dict.fromkeys(wanted)))


def rivals(names: Sequence[str]) -> tuple[Method, ...]:
    """Returns the methods whose networks may be the answer of a run (`engine.recipe.Choose`).

    Raises:
        UserError: no such method, one that need not keep all limits, or one that changes the depth.
    """
    methods = named(names)
    for method in methods:
        if isinstance(method, DepthOnly | Compound | CompoundGrid):
            raise UserError(
                f"choose.rivals: {method.name} changes the depth, and the answer of a run has the "
                "layers of its base network; leave it out"
            )
        if set(method.limits) != set(BOTH):
            raise UserError(
                f"choose.rivals: what {method.name} makes need not keep all limits and so cannot "
                "be the answer; leave it out"
            )
    return methods


def named(names: Sequence[str]) -> tuple[Method, ...]:
    """Returns the methods of these names.

    Raises:
        UserError: a name that is none.
    """
    by_name = {method.name: method for method in (*METHODS, *PUBLISHED)}
    for name in names:
        if draw := _DRAW.fullmatch(name):
            by_name[name] = RandomWidths(draw=int(draw[1]))
        elif name not in by_name:
            raise UserError(f"unknown method {name!r}{nearest(name, by_name)}")
    return tuple(by_name[name] for name in names)
