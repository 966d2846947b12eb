"""A network whose widths and resolution can change: groups, costs, and modules of any size."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import torch
from torch import fx

from engine.building import build_module
from engine.channels import Channels
from engine.costs import LayerCost, NetworkCost
from engine.errors import UserError
from engine.networks import make_network
from engine.spec import ModelRef, NetworkSpec
from engine.tracing import Traced, trace


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthGroup:
    """Channels that must change together: the unit that is widened.

    Attributes:
        name: the first layer that writes them, with ``#k`` if that layer writes several groups.
        base: channels in the network as written.
        multiple: a width must be a multiple of this.
        writers: convolutions and linear layers whose output channels these are.
        coupled: why they change together, one sentence for each coupling.
    """

    name: str
    base: int
    multiple: int
    writers: tuple[str, ...]
    coupled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Size:
    """Height and width of an op's input and output, and the factor that flattening left."""

    hin: int
    win: int
    hout: int
    wout: int
    fold_in: int
    fold_out: int


class NetworkGraph:
    """A traced network. Immutable; make one with `load_graph`."""

    def __init__(self, ref: ModelRef, traced: Traced) -> None:
        self.ref = ref
        self._traced = traced
        self._axes = [(self._resolved(op.cin), self._resolved(op.cout)) for op in traced.ops]
        self.groups = self._find_groups()
        self._by_name = {group.name: group for group in self.groups}
        self._sizes = cache(self._compute_sizes)
        if not self.groups:
            raise UserError(f"model {ref.name!r} has no width that may change")

    # Groups ----------------------------------------------------------------------------------

    @cached_property
    def _variable_of(self) -> dict[str, int]:
        return {name: var for var, name in self._name_of.items()}

    def _find_groups(self) -> tuple[WidthGroup, ...]:
        variables = self._traced.variables
        writers: dict[int, list[str]] = {}
        names: dict[int, str] = {}
        for op, (_, cout) in zip(self._traced.ops, self._axes, strict=True):
            if op.kind not in ("conv", "linear") or op.repeated:
                continue
            free = [var for var, _ in cout if not variables.is_fixed(var)]
            for k, var in enumerate(dict.fromkeys(free)):
                suffix = f"#{k}" if len(set(free)) > 1 else ""
                names.setdefault(var, op.module + suffix)
                writers.setdefault(var, []).append(op.module)
        self._name_of = names
        return tuple(
            WidthGroup(
                name=names[var],
                base=variables.size(var),
                multiple=variables.multiple(var),
                writers=tuple(writers[var]),
                coupled=tuple(dict.fromkeys(variables.reasons.get(var, []))),
            )
            for var in names
        )

    def _resolved(self, axis: Channels) -> tuple[tuple[int, int], ...]:
        return tuple((s.var, s.times) for s in self._traced.variables.resolve(axis))

    def group(self, name: str) -> WidthGroup:
        """Returns the group of that name."""
        return self._by_name[name]

    def round_width(self, group: str, width: float) -> int:
        """Returns the valid width of ``group`` nearest to ``width``."""
        multiple = self._by_name[group].multiple
        return max(1, round(width / multiple)) * multiple

    @cache  # noqa: B019 - graphs are few and live as long as the program
    def touched(self, group: str) -> tuple[int, ...]:
        """Returns the indexes of the layers whose cost depends on the width of ``group``."""
        var = self._variable_of[group]
        return tuple(
            i for i, (cin, cout) in enumerate(self._axes) if any(v == var for v, _ in (*cin, *cout))
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
        """Raises a UserError if some window does not fit at that resolution."""
        self._sizes(resolution)

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
        width_of = spec.width_of
        return NetworkCost(
            tuple(
                self.layer_cost(i, width_of, spec.resolution) for i in range(len(self._traced.ops))
            )
        )

    def layer_cost(self, index: int, widths: Mapping[str, int], resolution: int) -> LayerCost:
        """Returns what one layer costs."""
        op = self._traced.ops[index]
        size = self._sizes(resolution)[index]
        axis_in, axis_out = self._axes[index]
        cin = self._width(axis_in, widths) * size.fold_in
        cout = self._width(axis_out, widths) * size.fold_out
        kernel = op.window.kernel if op.window else (1, 1)
        groups = op.groups or cin
        macs = params = 0
        if op.kind == "conv":
            weights = kernel[0] * kernel[1] * (cin // groups) * cout
            macs = weights * size.hout * size.wout
            params = weights + cout * op.bias
        elif op.kind == "linear":
            macs = cin * cout
            params = macs + cout * op.bias
        else:
            params = op.affine * cout
        return LayerCost(
            name=op.name,
            kind=op.kind,
            cin=cin,
            cout=cout,
            hin=size.hin,
            win=size.win,
            hout=size.hout,
            wout=size.wout,
            kernel=kernel,
            stride=op.window.stride[0] if op.window else 1,
            groups=groups,
            macs=macs,
            params=0 if op.repeated else params,
            inputs=len(op.inputs) if op.kind in ("add", "mul") else 1,
        )

    def _width(self, axis: tuple[tuple[int, int], ...], widths: Mapping[str, int]) -> int:
        total = 0
        for var, times in axis:
            name = self._name_of.get(var)
            total += times * (self._traced.variables.size(var) if name is None else widths[name])
        return total

    def _compute_sizes(self, resolution: int) -> tuple[_Size, ...]:
        sizes: list[_Size] = []
        for op in self._traced.ops:
            # Of several inputs the largest counts: the others are broadcast over it.
            before = [sizes[i] for i in op.inputs if i >= 0]
            h = max((s.hout for s in before), default=resolution)
            w = max((s.wout for s in before), default=resolution)
            fold = max((s.fold_out for s in before), default=1)
            out = (h, w)
            if op.pooled_to is not None:
                out = op.pooled_to
            elif op.window is not None:
                out = op.window.output_size((h, w))
            if min(out) < 1:
                raise UserError(
                    f"model {self.ref.name!r} cannot take {resolution}×{resolution} px: nothing "
                    f"is left after {op.module or op.name}; give a larger resolution"
                )
            if op.flattens:
                sizes.append(_Size(h, w, 1, 1, fold, fold * h * w))
            elif op.kind == "linear":
                sizes.append(_Size(1, 1, 1, 1, fold, 1))
            else:
                sizes.append(_Size(h, w, *out, fold, fold))
        return tuple(sizes)

    # Modules ---------------------------------------------------------------------------------

    def build(self, spec: NetworkSpec, seed: int) -> fx.GraphModule:
        """Returns a freshly initialised module with the widths of ``spec``.

        The names in its ``state_dict`` are those of the original module. Its node names are the
        names of the layers' costs.

        Raises:
            UserError: the network cannot take the resolution of ``spec``.
        """
        cost = self.cost(spec)
        return build_module(self._traced.root, self._traced.ops, cost, self._traced.constants, seed)

    def verify(self, resolution: int) -> None:
        """Checks the followed shapes against PyTorch's own, on the meta device.

        Raises:
            UserError: they differ at some node; the network does something that was misread.
        """
        cost = NetworkCost(
            tuple(
                self.layer_cost(i, {g.name: g.base for g in self.groups}, resolution)
                for i in range(len(self._traced.ops))
            )
        )
        shapes = _ShapeReader(self._traced.root)
        shapes.run(torch.empty(1, self.ref.channels, resolution, resolution, device="meta"))
        for op, layer in zip(self._traced.ops, cost.layers, strict=True):
            shape = shapes.shape_of[op.name]
            followed = (layer.cout, layer.hout, layer.wout)[: len(shape) - 1]
            if tuple(shape[1:]) != followed:
                raise UserError(
                    f"model {self.ref.name!r}, node {op.name}: its shape is {tuple(shape[1:])}, "
                    f"followed as {followed}; the op is used in a way that is not known"
                )


class _ShapeReader(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shape_of: dict[str, torch.Size] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.shape_of[n.name] = result.shape
        return result


@lru_cache(maxsize=32)
def load_graph(ref: ModelRef, resolution: int) -> NetworkGraph:
    """Makes the network that ``ref`` names and traces it.

    Args:
        ref: the network.
        resolution: side of the square input it is first looked at with.

    Raises:
        UserError: no such network, it cannot be followed, or cannot take that resolution.
    """
    graph = NetworkGraph(ref, trace(make_network(ref), ref.channels, ref.name))
    graph.check_resolution(resolution)
    graph.verify(resolution)
    return graph
