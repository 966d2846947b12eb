"""Whether a network can be scaled: every width group is widened, and the network is run."""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.errors import UserError, first_line
from engine.graph import NetworkGraph, trace_graph
from engine.groups import WidthGroup
from engine.model_source import why_not_plain
from engine.names import parse_name
from engine.networks import make_network
from engine.shapes import BATCH, MetaRun, NodeFailed, Shape
from engine.spec import ModelRef, NetworkSpec
from engine.tracing import called_by_mode

REAL_MACS = 500_000_000
"""Networks up to this size are also trained for one step on two images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCheck:
    """One width group, and what widening it alone did.

    Attributes:
        macs, params: of all layers that its width changes, in the network as written.
        failure: what went wrong, "" if nothing did.
    """

    group: WidthGroup
    macs: int
    params: int
    failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCheck:
    """What `check_network` found.

    Attributes:
        macs, params: of the network as written.
        groups: all that may change.
        fixed: layers whose output channels may not, and why.
        positions: linear layers that change with the resolution, and the height × width that
            they were written for.
        unused: layers that are left out, because they are called in training only.
        outputs: shape of what it returns for one image.
        training_only: functions that are called in training mode only, and left out, too.
        evaluation_only: functions that are called in evaluation mode only, by trainings as well.
            This and ``training_only`` are None where the network cannot be traced in training mode.
        larger: why it cannot take images with sides twice as long, "" if it can.
        not_plain: why it cannot be exported, nor measured offline, "" if it can.
        failure: what went wrong in the network as written, or with all groups widened together,
            "" if nothing did.
    """

    ref: ModelRef
    resolution: int
    outputs: Shape
    macs: int
    params: int
    groups: tuple[GroupCheck, ...]
    fixed: Mapping[str, str]
    positions: Mapping[str, int]
    unused: tuple[str, ...]
    training_only: tuple[str, ...] | None
    evaluation_only: tuple[str, ...] | None
    larger: str
    not_plain: str
    failure: str

    @property
    def passed(self) -> bool:
        """Whether nothing went wrong."""
        return not self.failure and not any(check.failure for check in self.groups)


def model_ref(
    model: str,
    size: str,
    classes: int,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    adaptive_pool: bool = False,
) -> tuple[ModelRef, int]:
    """Returns the network that arguments of a command line name, and the side of its images.

    Args:
        model: name of the model.
        size: of its images, for example ``3x224x224``.
        classes: of the data.
        include, exclude: patterns of width groups, beside those in the name.
        adaptive_pool: average features to the size that its linear layers were written for.

    Raises:
        UserError: a bad value; or the layers were written for no or more than one square size.
    """
    match = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)[x×]([1-9]\d*)", size)
    if match is None or match[2] != match[3]:
        raise UserError(f"--input must be CxHxW with equal H and W, as 3x224x224, not {size!r}")
    if classes < 1:
        raise UserError(f"--classes must be at least 1, not {classes}")
    channels, resolution = int(match[1]), int(match[2])
    name = parse_name(model)
    try:
        name = replace(name, include=(*name.include, *include), exclude=(*name.exclude, *exclude))
    except ValueError as error:
        raise UserError(str(error)) from None
    ref = ModelRef(name=str(name), classes=classes, channels=channels)
    if adaptive_pool:
        side = _written_for(trace_graph(ref, resolution))
        ref = replace(ref, name=str(replace(name, pool=side)))
    return ref, resolution


def _written_for(graph: NetworkGraph) -> int:
    """The height and width that the linear layers behind a flatten were written for."""
    positions = graph.positions
    if not positions:
        raise UserError(
            f"model {graph.ref.name!r} has no linear layer that depends on the resolution; leave "
            "--adaptive-pool out"
        )
    side = math.isqrt(min(positions.values()))
    if set(positions.values()) != {side**2}:
        sizes = ", ".join(f"{layer}: {count} pixels" for layer, count in positions.items())
        raise UserError(
            f"model {graph.ref.name!r}: its linear layers were not written for one square size "
            f"({sizes}); write an nn.AdaptiveAvgPool2d before each"
        )
    return side


def check_network(ref: ModelRef, resolution: int, seed: int = 0) -> NetworkCheck:
    """Widens every group of a network alone, and all together, by random amounts.

    Each time the network is rebuilt and run forward and backward on the meta device, in training
    mode, and the shape of every op's output is compared with what was followed. For one group
    only the nodes are run again whose inputs or weights differ from the network as written. With
    all groups widened MACs and parameters are counted by PyTorch, too; a network up to
    `REAL_MACS` is run with real numbers. Whether it also takes larger images is tried in
    evaluation mode.

    Args:
        ref: the network.
        resolution: side of the images, in pixels.
        seed: of the amounts.

    Raises:
        UserError: there is no such network, or it cannot be followed.
    """
    graph = trace_graph(ref, resolution)
    base = graph.spec(resolution)
    cost = graph.cost(base)
    amounts = random.Random(seed)
    wider = {
        g.name: g.base + g.multiple * amounts.randint(1, max(1, g.base // g.multiple))
        for g in graph.groups
    }
    before = MetaRun(graph.skeleton(base))
    failure = _as_written(before, base)
    alone: dict[str, str] = {}
    if not failure:
        alone = {
            group: _alone(graph, before, group, base.with_widths({group: width}))
            for group, width in wider.items()
        }
    groups = tuple(
        GroupCheck(
            group=group,
            macs=sum(cost.layers[i].macs for i in graph.touched(group.name)),
            params=sum(cost.layers[i].params for i in graph.touched(group.name)),
            failure=alone.get(group.name, ""),
        )
        for group in graph.groups
    )
    by_mode = called_by_mode(make_network(ref, without_values=True))
    return NetworkCheck(
        ref=ref,
        resolution=resolution,
        outputs=graph.outputs(resolution),
        macs=cost.macs,
        params=cost.params,
        groups=groups,
        fixed=graph.fixed,
        positions=graph.positions,
        unused=graph.unused,
        training_only=by_mode and by_mode[0],
        evaluation_only=by_mode and by_mode[1],
        larger="" if failure else _larger(graph, base.with_widths(wider).at(2 * resolution)),
        not_plain=why_not_plain(graph.skeleton(base), ref.classes, ref.channels),
        failure=failure or _together(graph, base.with_widths(wider), seed),
    )


def _as_written(run: MetaRun, spec: NetworkSpec) -> str:
    """Runs the network, and returns what went wrong."""
    try:
        with torch.no_grad():
            run.values(spec.model.channels, spec.resolution)
    except NodeFailed as error:
        return f"as written, in training mode: {error}"
    return ""


def _larger(graph: NetworkGraph, spec: NetworkSpec) -> str:
    """Says why the network cannot take larger images, "" if it can."""
    try:
        graph.verify(spec)
    except UserError as error:
        return str(error)
    return ""


def _alone(graph: NetworkGraph, before: MetaRun, group: str, spec: NetworkSpec) -> str:
    """Runs the network with one group widened, and returns what went wrong."""
    try:
        run = _Rerun(before, graph.replacements(spec, group))
        values = run.values(spec.model.channels, spec.resolution)
        _backward(run.again)
    except NodeFailed as error:
        return str(error)
    except RuntimeError as error:
        return f"backward: {first_line(error)}"
    return graph.difference(spec, values)


class _Rerun(MetaRun):
    """Runs the nodes of a network whose inputs or weights are other than in a run before.

    Args:
        before: the run before, of the network as written.
        replaced: layers and parameters of other widths, by name.

    Attributes:
        again: what nodes returned that were run again.
    """

    def __init__(self, before: MetaRun, replaced: Mapping[str, nn.Module | Tensor]) -> None:
        assert isinstance(before.module, fx.GraphModule)
        super().__init__(before.module)
        self._before = before.env
        self._replaced = replaced
        self.again: list[Any] = []

    def fetch_attr(self, target: str) -> Any:
        """Returns a layer or parameter."""
        return self._replaced[target] if target in self._replaced else super().fetch_attr(target)

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node, or returns what it returned before."""
        known = self._before[n]
        if n.target not in self._replaced and all(
            self.env[source] is self._before[source] for source in n.all_input_nodes
        ):
            return known
        value = super().run_node(n)
        self.again.append(value)
        return known if _same_shapes(value, known) else value


def _same_shapes(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor):
        return value.shape == other.shape
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return len(value) == len(other) and all(map(_same_shapes, value, other))
    return value == other


def _together(graph: NetworkGraph, spec: NetworkSpec, seed: int) -> str:
    """Runs the network with all groups widened, and returns what went wrong."""
    wrong = _counted(graph, spec, seed)
    return f"all groups together: {wrong}" if wrong else ""


def _counted(graph: NetworkGraph, spec: NetworkSpec, seed: int) -> str:
    module = graph.skeleton(spec)
    cost = graph.cost(spec)
    try:
        with FlopCounterMode(display=False) as flops:
            values = MetaRun(module).values(spec.model.channels, spec.resolution)
        counted = flops.get_total_flops() // (2 * BATCH)
        _backward([values[node] for node in module.graph.find_nodes(op="output")])
    except NodeFailed as error:
        return str(error)
    except RuntimeError as error:
        return f"backward: {first_line(error)}"
    params = sum(p.numel() for p in module.parameters())
    without = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    if without:
        return f"{', '.join(without)}: no gradient, so it takes no part in the output"
    if (counted, params) != (cost.macs, cost.params):
        return (
            f"PyTorch counts {counted} MACs and {params} parameters, the graph {cost.macs} and "
            f"{cost.params}"
        )
    return graph.difference(spec, values) or _trained(graph, spec, seed, cost.macs)


def _trained(graph: NetworkGraph, spec: NetworkSpec, seed: int, macs: int) -> str:
    if macs > REAL_MACS:
        return ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = graph.build(spec, seed)
            side = spec.resolution
            logits = module(torch.randn(BATCH, spec.model.channels, side, side))
            logits.square().mean().backward()
        except (RuntimeError, UserError) as error:
            return f"with real numbers: {first_line(error)}"
    finite = bool(logits.isfinite().all()) and all(
        p.grad is None or bool(p.grad.isfinite().all()) for p in module.parameters()
    )
    return "" if finite else "its output or gradients are not finite"


def _backward(values: Sequence[Any]) -> None:
    tensors = (value for value in values if isinstance(value, Tensor) and value.requires_grad)
    total = sum((tensor.sum() for tensor in tensors), torch.zeros((), device="meta"))
    if total.requires_grad:
        total.backward()
