"""Latency models by kind: made from measurements, or read from their JSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.codec import decode
from engine.errors import UserError, nearest
from engine.hardware.contract import Box, LatencyModel

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing

_Fit: TypeAlias = "Callable[[NetworkGraph, Sequence[Timing], Box, int], LatencyModel]"


@dataclass(frozen=True, slots=True)
class _Kind:
    model: type[LatencyModel]
    fit: _Fit


KINDS: dict[str, str] = {
    "insitu": "InSitu",
    "lut": "Lut",
    "neuralpower": "NeuralPower",
    "paleo": "Paleo",
    "roofline": "Roofline",
    "flops": "Flops",
    "systolic": "Systolic",
    "pim": "Pim",
}
"""By ``profile.model``, which is also the name of a module of this package: the class there.

A module is imported when its kind is used, because some need libraries that take seconds.
"""


def fit_latency(
    kind: str, graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int = 1
) -> LatencyModel:
    """Makes a latency model of one device for one graph.

    Args:
        kind: as in ``profile.model``.
        graph: of the timed networks.
        timings: networks from ``box``, timed op by op.
        box: what the model is to hold for.
        batch: images per forward of the measurements.

    Raises:
        UserError: no such kind, or measurements that it cannot be made from.
    """
    return _kind(kind).fit(graph, timings, box, batch)


def load_latency(text: str) -> LatencyModel:
    """Reads what ``to_json`` of any latency model wrote.

    Raises:
        UserError: it is something else.
    """
    try:
        tree: Any = json.loads(text)
    except ValueError as error:
        raise UserError(f"the latency model: not valid JSON ({error})") from None
    kind = tree.get("kind") if isinstance(tree, dict) else None
    if not isinstance(kind, str):
        raise UserError("the latency model: it must be a JSON object with a kind")
    try:
        return decode(_kind(kind).model, text, "the latency model")
    except UserError as error:
        raise UserError(
            f"{error}; if another version of this program wrote it, profile the device again "
            "(hacscale profile; a run needs a new --name)"
        ) from None


def _kind(name: str) -> _Kind:
    if name not in KINDS:
        raise UserError(
            f"unknown latency model {name!r}{nearest(name, KINDS)}; it must be one of "
            f"{', '.join(KINDS)}"
        )
    module = import_module(f"engine.hardware.{name}")
    return _Kind(getattr(module, KINDS[name]), module.fit)
