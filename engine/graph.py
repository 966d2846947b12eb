"""A network whose widths and resolution can change: groups, costs, and modules of any size."""

import hashlib
import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.building import NORM_STATISTICS, initial_values, initialise, replacements, skeleton
from engine.channels import Channels, Segment
from engine.codec import digest
from engine.costs import NetworkCost
from engine.errors import UserError
from engine.formula import Count, LayerFormula, NetworkFormula
from engine.groups import WidthGroup, select
from engine.names import parse_name
from engine.networks import make_network
from engine.ops import WRITERS, Op
from engine.shapes import (
    BATCH,
    BaseRun,
    MetaRun,
    NodeFailed,
    Shape,
    images_of,
    shapes_of,
    storages_of,
)
from engine.spec import ModelRef, NetworkSpec, rounded_width
from engine.tracing import Traced, trace


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedOp:
    """An op at one resolution.

    Attributes:
        shape: of its output in the network as written, with the batch in front.
        fold_in, fold_out: positions that a flatten has made channels, for each channel that it
            reads and writes.
        formula: its cost; the numbers of channels are times these positions.
    """

    op: Op
    shape: Shape
    fold_in: int
    fold_out: int
    formula: LayerFormula


class NetworkGraph:
    """A traced network. Immutable; make one with `load_graph`."""

    def __init__(self, ref: ModelRef, traced: Traced) -> None:
        """Finds the width groups.

        Raises:
            UserError: none may change, or a pattern of its name takes a group apart or fits none.
        """
        self.ref = ref
        self.traced = traced
        found = self._find_groups()
        chosen = {group.name for group in select(list(found.values()), parse_name(ref.name))}
        self._name_of = {var: g.name for var, g in found.items() if g.name in chosen}
        self.groups = tuple(g for g in found.values() if g.name in chosen)
        self._by_name = {group.name: group for group in self.groups}
        # By group, what widths are rounded to a multiple of.
        self.steps = {group.name: group.multiple for group in self.groups}
        self.sized_ops = cache(self._sized_ops)
        self.touched = cache(self._touched)

    def in_steps(self, steps: Mapping[str, int]) -> "NetworkGraph":
        """Returns the graph with its widths rounded to coarser steps; other widths stay valid.

        Args:
            steps: by group, multiples of the group's own.
        """
        found = copy(self)
        found.steps = {**self.steps, **steps}
        return found

    # Groups ----------------------------------------------------------------------------------

    def _find_groups(self) -> dict[int, WidthGroup]:
        variables = self.traced.variables
        writers: dict[int, list[str]] = {}
        names: dict[int, str] = {}
        for op in self.traced.ops:
            if op.kind not in WRITERS or op.repeated:
                continue
            written = (segment.var for segment in variables.resolve(op.cout))
            free = list(dict.fromkeys(var for var in written if not variables.fixed(var)))
            for k, var in enumerate(free):
                names.setdefault(var, op.module + (f"#{k}" if len(free) > 1 else ""))
                writers.setdefault(var, []).append(op.module)
        return {
            var: WidthGroup(
                name=name,
                base=variables.size(var),
                multiple=variables.multiple(var),
                writers=tuple(writers[var]),
                coupled=variables.reasons(var),
            )
            for var, name in names.items()
        }

    def group_of(self, segment: Segment) -> str | None:
        """Returns the name of the group that the variable of a resolved segment is, if any."""
        return self._name_of.get(segment.var)

    @cached_property
    def fixed(self) -> dict[str, str]:
        """Layers that write channels whose number does not change, and why."""
        variables = self.traced.variables
        found: dict[str, str] = {}
        for op in self.traced.ops:
            if op.kind in WRITERS:
                written = [segment.var for segment in variables.resolve(op.cout)]
                kept = [var for var in written if var not in self._name_of]
                part = ", a part" if len(kept) < len(written) else ""
                for var in kept:
                    found[op.module] = (variables.fixed(var) or "excluded") + part
        return found

    @property
    def positions(self) -> dict[str, int]:
        """Linear layers that change with the resolution: the positions they were written for."""
        return dict(self.traced.positions)

    @property
    def unused(self) -> tuple[str, ...]:
        """Layers that are not called in evaluation mode, and left out of what is built."""
        return self.traced.unused

    def group(self, name: str) -> WidthGroup:
        """Returns the group of that name."""
        return self._by_name[name]

    def round_width(self, group: str, width: float) -> int:
        """Returns the valid width of ``group`` nearest to ``width``."""
        return rounded_width(width, self.steps[group])

    def _touched(self, group: str) -> tuple[int, ...]:
        """Returns the indexes of the layers whose cost depends on the width of ``group``."""
        variables = self.traced.variables
        return tuple(
            i
            for i, op in enumerate(self.traced.ops)
            if any(self._name_of.get(s.var) == group for s in variables.resolve(op.cin + op.cout))
        )

    # Specs -----------------------------------------------------------------------------------

    def spec(self, resolution: int, multiplier: float = 1.0) -> NetworkSpec:
        """Returns the network with all widths multiplied, each rounded to a valid one.

        Raises:
            UserError: the network cannot take that resolution.
        """
        self.check_resolution(resolution)
        widths = tuple((g.name, self.round_width(g.name, g.base * multiplier)) for g in self.groups)
        return NetworkSpec(model=self.ref, resolution=resolution, widths=widths)

    def check_resolution(self, resolution: int) -> None:
        """Raises a UserError if the network cannot take images of that side."""
        self.sized_ops(resolution)

    def _check(self, spec: NetworkSpec) -> None:
        if spec.model != self.ref or [g for g, _ in spec.widths] != [g.name for g in self.groups]:
            raise ValueError("the spec belongs to another network")
        for name, width in spec.widths:
            multiple = self._by_name[name].multiple
            if width < 1 or width % multiple:
                raise ValueError(f"{name}: width {width} is no positive multiple of {multiple}")

    # Costs -----------------------------------------------------------------------------------

    def cost(self, spec: NetworkSpec) -> NetworkCost:
        """Returns what every layer costs. Layers stand in execution order."""
        self._check(spec)
        widths = spec.width_of
        layers = self.sized_ops(spec.resolution)
        return NetworkCost(tuple([layer.formula.cost(widths) for layer in layers]))

    def formula(self, base: NetworkSpec) -> NetworkFormula:
        """Returns the network as arithmetic in its widths, at the resolution of ``base``.

        Raises:
            UserError: the network cannot take that resolution.
        """
        self._check(base)
        return NetworkFormula(
            base=base,
            multiples={group.name: group.multiple for group in self.groups},
            steps={
                g.name: self.steps[g.name] for g in self.groups if self.steps[g.name] > g.multiple
            },
            layers=tuple([layer.formula for layer in self.sized_ops(base.resolution)]),
        )

    def shapes(self, spec: NetworkSpec) -> dict[str, Shape]:
        """Returns the shape of every op's output, by its name, for two images."""
        widths = spec.width_of
        found: dict[str, Shape] = {}
        for layer in self.sized_ops(spec.resolution):
            shape = list(layer.shape)
            if layer.op.axis is not None:
                shape[layer.op.axis] = layer.formula.cout.at(widths) // layer.op.parts
            found[layer.op.name] = tuple(shape)
        return found

    def _sized_ops(self, resolution: int) -> tuple[SizedOp, ...]:
        shapes, storages = self._base_shapes(resolution)
        layers: list[SizedOp] = []
        for op in self.traced.ops:
            shape = shapes[op.name]
            # Of several inputs the largest counts: the others are broadcast over it.
            before = [layers[i] for i in op.inputs if i >= 0]
            fold_in = max((layer.fold_out for layer in before), default=1)
            fold = self._fold(op, shape)
            joined = {layers[i].fold_out if i >= 0 else 1 for i in op.inputs}
            if op.kind == "cat" and joined != {fold}:
                raise self._refused(
                    op, resolution, "it joins features flattened from unequal heights and widths"
                )
            if not fold:
                why = f"it returns the shape {shape}, whose axes are not those it was traced with"
                raise self._refused(op, resolution, why)
            *more, hout, wout = (1, 1, *(shape[i] for i in op.space))
            hout *= math.prod(more)
            layers.append(
                SizedOp(
                    op=op,
                    shape=shape,
                    fold_in=fold_in,
                    fold_out=fold,
                    formula=LayerFormula(
                        name=op.name,
                        kind=op.kind,
                        cin=self.count(op.cin, fold_in),
                        cout=self.count(op.cout, fold),
                        learnt=self.count(op.learnt, self._learnt_fold(op, fold)),
                        hin=max((layer.formula.hout for layer in before), default=resolution),
                        win=max((layer.formula.wout for layer in before), default=resolution),
                        hout=hout,
                        wout=wout,
                        kernel=op.kernel,
                        stride=op.stride[0],
                        across=op.stride[1] if op.stride[1] != op.stride[0] else None,
                        groups=op.groups,
                        repeated=op.repeated,
                        inputs=op.inputs,
                        storage=storages[op.name],
                    ),
                )
            )
        return tuple(layers)

    def _fold(self, op: Op, shape: Shape) -> int:
        """Positions that a flatten has made channels, 0 if the shape is not as was followed."""
        axes = 1 + len(op.space) + (op.axis is not None) + (op.parts > 1)
        if len(shape) != axes or shape[0] != BATCH:
            return 0
        followed = self.traced.variables.width(op.cout) * math.prod(shape[i] for i in op.space)
        fold, left = divmod(math.prod(shape[1:]), followed)
        return 0 if left else fold

    def _refused(self, op: Op, resolution: int, why: str) -> UserError:
        return UserError(
            f"model {self.ref.name!r} cannot take {resolution}×{resolution} px, node {op.name}: "
            f"{why}; average features to a fixed size before they are flattened, by "
            "nn.AdaptiveAvgPool2d"
        )

    def _learnt_fold(self, op: Op, fold: int) -> int:
        """Parameters are there for every position of a channel, but one for all channels is one."""
        width = self.traced.variables.width
        return fold if width(op.learnt) >= width(op.cout) else 1

    def _base_shapes(self, resolution: int) -> tuple[dict[str, Shape], dict[str, int]]:
        """Returns the shape of every op's output, and the op in whose memory it lies."""
        try:
            with torch.no_grad():
                values = BaseRun(self.traced.root).values(self.ref.channels, resolution)
        except NodeFailed as error:
            raise self._too_small(resolution, str(error)) from None
        shapes = shapes_of(values)
        empty = next((name for name, shape in shapes.items() if 0 in shape), None)
        if empty is not None:
            raise self._too_small(resolution, f"nothing is left after {empty}")
        return shapes, storages_of(values, [op.name for op in self.traced.ops])

    def _too_small(self, resolution: int, why: str) -> UserError:
        return UserError(
            f"model {self.ref.name!r} cannot take {resolution}×{resolution} px: {why}; give "
            "another resolution, mostly a larger one"
        )

    def outputs(self, resolution: int) -> Shape:
        """Returns the shape of what the network as written returns for one image."""
        (output,) = self.traced.root.graph.find_nodes(op="output")
        (result,) = output.all_input_nodes
        return self._base_shapes(resolution)[0][result.name][1:]

    def check_outputs(self, resolution: int) -> None:
        """Raises a UserError if there is not one output for each class of the data."""
        outputs, classes = self.outputs(resolution), self.ref.classes
        if outputs != (classes,):
            raise UserError(
                f"model {self.ref.name!r} returns {images_of(outputs)}, but cross-entropy needs "
                f"N×{classes} for the {classes} classes of the data; make the last layer as wide "
                "as the argument of the factory says"
            )

    def count(self, axis: Channels, fold: int = 1) -> Count:
        """Returns the number of channels of ``axis``, times ``fold``, as it depends on widths."""
        fixed = 0
        terms: dict[str, int] = {}
        for segment in self.traced.variables.resolve(axis):
            name = self._name_of.get(segment.var)
            if name is None:
                fixed += self.traced.variables.width([segment]) * fold
            else:
                terms[name] = terms.get(name, 0) + segment.times * fold
        return Count(fixed, tuple(terms.items()))

    # Modules ---------------------------------------------------------------------------------

    def skeleton(self, spec: NetworkSpec) -> fx.GraphModule:
        """Returns a module with the widths of ``spec`` on the meta device, without values."""
        return skeleton(self.traced, self.cost(spec), self._lengths(spec))

    def identity(self, spec: NetworkSpec) -> str:
        """Returns a digest of the layers, their options and the forward, at the widths given."""
        return digest(str(self.skeleton(spec)))

    @property
    def is_frozen(self) -> bool:
        """Whether it has parameters that no training changes."""
        return not all(parameter.requires_grad for parameter in self.traced.root.parameters())

    def values_identity(self) -> str:
        """Returns a digest of the values that all networks keep of the original.

        Not of the statistics of norms, which they do not keep, and of those that the factory draws
        at random, so that another call of it gives others.
        """
        again = initial_values(make_network(self.ref))
        same = {
            name: hashlib.sha256(value.double().numpy().tobytes()).hexdigest()
            for name, value in self._initial.items()
            if name.rpartition(".")[2] not in NORM_STATISTICS
            and name in again
            and torch.equal(value, again[name])
        }
        return digest(same)

    def options_identity(self) -> str:
        """Returns a digest of the plain attributes of layers of the user's own classes.

        Those of PyTorch's stand in `identity`; a user's layer need not say its options. What is
        drawn at random is left out.
        """
        here, again = (_own_options(net) for net in (self.traced.root, make_network(self.ref)))
        return digest({name: option for name, option in here.items() if again.get(name) == option})

    def replacements(self, spec: NetworkSpec, group: str) -> dict[str, nn.Module | Tensor]:
        """Returns the layers and parameters that ``group`` changes, with the widths of ``spec``.

        They are on the meta device, by their names.
        """
        base = self._lengths(self.spec(spec.resolution))
        changed = {n: length for n, length in self._lengths(spec).items() if length != base[n]}
        return replacements(self.traced, self.cost(spec), changed, self.touched(group))

    def _lengths(self, spec: NetworkSpec) -> dict[str, int]:
        widths = spec.width_of
        return {
            name: self.count(channels).at(widths)
            for name, (channels, _) in self.traced.parameters.items()
        }

    def build(self, spec: NetworkSpec, seed: int) -> fx.GraphModule:
        """Returns a freshly initialised module with the widths of ``spec``.

        The names in its ``state_dict`` are those of the original module. Its node names are the
        names of the layers' costs.

        Raises:
            UserError: the network cannot take the resolution of ``spec``.
        """
        return initialise(self.skeleton(spec), self.traced, self._initial, seed)

    @cached_property
    def _initial(self) -> dict[str, Tensor]:
        # The network was traced without values, so here it is made a second time.
        return initial_values(make_network(self.ref))

    def verify(self, spec: NetworkSpec) -> None:
        """Checks the followed shapes against PyTorch's own, on the meta device.

        Raises:
            UserError: they differ at some node, or the network with these widths does not run.
        """
        try:
            with torch.no_grad():
                run = MetaRun(self.skeleton(spec).eval())
                found = self.difference(spec, run.values(self.ref.channels, spec.resolution))
        except NodeFailed as error:
            found = str(error)
        if found:
            raise UserError(
                f"model {self.ref.name!r} does not work with other widths: {found}; it does "
                "something that cannot be followed"
            )

    def difference(self, spec: NetworkSpec, values: dict[fx.Node, Any]) -> str:
        """Says which op of a run has another shape than the graph says, "" if none has.

        Args:
            spec: of the network that was run.
            values: see `engine.shapes.MetaRun.values`.
        """
        shapes = shapes_of(values)
        for name, followed in self.shapes(spec).items():
            if shapes[name] != followed:
                return f"node {name}: its shape is {shapes[name]}, followed as {followed}"
        return ""


def trace_graph(ref: ModelRef, resolution: int) -> NetworkGraph:
    """Makes the network that ``ref`` names and traces it; see `load_graph`, which checks it too."""
    module = make_network(ref, without_values=True)
    traced = trace(module, ref.channels, resolution, ref.name, parse_name(ref.name).pool)
    graph = NetworkGraph(ref, traced)
    graph.check_resolution(resolution)
    return graph


@lru_cache(maxsize=32)
def load_graph(ref: ModelRef, resolution: int) -> NetworkGraph:
    """Makes the network that ``ref`` names, traces it, and checks it with other widths.

    Args:
        ref: the network.
        resolution: side of the square input it is first looked at with.

    Raises:
        UserError: no such network, it cannot be followed, or cannot take that resolution.
    """
    graph = trace_graph(ref, resolution)
    # No two groups grow by the same amount, as far as that can be, so that none stands in for
    # another.
    wider = {g.name: g.base + g.multiple * (1 + k % 13) for k, g in enumerate(graph.groups)}
    graph.verify(graph.spec(resolution).with_widths(wider))
    return graph


def graph_of(graph: NetworkGraph, spec: NetworkSpec) -> NetworkGraph:
    """Returns the graph of a network: ``graph``, or its own where it has another depth."""
    return graph if spec.model == graph.ref else load_graph(spec.model, spec.resolution)


def _own_options(network: nn.Module) -> dict[str, str]:
    return {
        f"{path}.{name}": repr(value)
        for path, layer in network.named_modules()
        if not type(layer).__module__.startswith("torch.")
        for name, value in vars(layer).items()
        if name != "training" and not name.startswith("_") and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    """Whether a value is a number, a text, or a tuple or list of such."""
    if isinstance(value, tuple | list):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | str)
