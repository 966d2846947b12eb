"""A network at one resolution as arithmetic in its widths: no torch, small enough to be stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.codec import STRICT
from engine.costs import LayerCost, NetworkCost
from engine.spec import NetworkSpec, rounded_width


@dataclass(frozen=True, slots=True)
class Count:
    """A number of channels: some that are fixed, and multiples of the widths of groups."""

    __pydantic_config__ = STRICT

    fixed: int
    terms: tuple[tuple[str, int], ...]

    def at(self, widths: Mapping[str, int]) -> int:
        """Returns the number at these widths."""
        return self.fixed + sum([times * widths[group] for group, times in self.terms])

    def times(self, group: str) -> int:
        """Returns how many of these channels one channel of ``group`` makes; 0 for another's."""
        return sum([times for name, times in self.terms if name == group])


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFormula:
    """One op; the fields are those of `engine.costs.LayerCost` where widths leave them alone.

    Attributes:
        cin, cout, learnt: channels before and after, and parameters that are no kernels.
        groups: of a convolution; 0 for a depthwise one, whose groups are its input channels.
        repeated: whether its parameters are counted at an earlier call.
        inputs: indexes of the ops whose outputs it takes; −1 is the network's input.
        storage: index of the op in whose memory its output lies: its own, or that of an input for
            a view and for an op in place.
        across: stride along a row, where that is another than ``stride``.
    """

    __pydantic_config__ = STRICT

    name: str
    kind: str
    cin: Count
    cout: Count
    learnt: Count
    hin: int
    win: int
    hout: int
    wout: int
    kernel: tuple[int, int]
    stride: int
    groups: int
    repeated: bool
    inputs: tuple[int, ...]
    storage: int
    across: int | None = None

    @property
    def touching(self) -> frozenset[str]:
        """The groups that its cost depends on."""
        return frozenset(group for count in (self.cin, self.cout) for group, _ in count.terms)

    def cost(self, widths: Mapping[str, int]) -> LayerCost:
        """Returns what it costs at these widths."""
        cin, cout = self.cin.at(widths), self.cout.at(widths)
        groups = self.groups or cin
        weights = macs = 0
        if self.kind == "conv":
            weights = self.kernel[0] * self.kernel[1] * (cin // groups) * cout
            macs = weights * self.hout * self.wout
        elif self.kind == "conv_transpose":
            weights = self.kernel[0] * self.kernel[1] * (cin // groups) * cout
            macs = weights * self.hin * self.win
        elif self.kind == "linear":
            weights = cin * cout
            macs = weights * self.hout * self.wout
        return LayerCost(
            name=self.name,
            kind=self.kind,
            cin=cin,
            cout=cout,
            hin=self.hin,
            win=self.win,
            hout=self.hout,
            wout=self.wout,
            kernel=self.kernel,
            stride=self.stride,
            across=self.across,
            groups=groups,
            macs=macs,
            params=0 if self.repeated else weights + self.learnt.at(widths),
            inputs=len(self.inputs) if self.kind in ("add", "mul") else 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFormula:
    """All ops of a network in execution order.

    Attributes:
        base: the network before it is widened, at the resolution that the formula holds for.
        multiples: by group, what a width must be a multiple of.
        steps: by group, multiples of those that widths are rounded to
            (`engine.graph.NetworkGraph.in_steps`).
    """

    __pydantic_config__ = STRICT

    base: NetworkSpec
    multiples: dict[str, int]
    steps: dict[str, int] = field(default_factory=dict[str, int])
    layers: tuple[LayerFormula, ...]

    def cost(self, widths: Mapping[str, int]) -> NetworkCost:
        """Returns what every layer costs at these widths."""
        return NetworkCost(tuple([layer.cost(widths) for layer in self.layers]))

    def multiplied(self, multiplier: float) -> NetworkSpec:
        """Returns the network with all base widths multiplied, each rounded to a valid one."""
        return self.base.with_widths(
            {g: rounded_width(w * multiplier, self.rounding[g]) for g, w in self.base.widths}
        )

    @property
    def rounding(self) -> dict[str, int]:
        """By group, what widths are rounded to a multiple of."""
        return self.multiples | self.steps
