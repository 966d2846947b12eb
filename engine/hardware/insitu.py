"""Latency of a whole network from the widths of its groups, fitted in situ on one device.

Every class of op has a non-negative combination of physical sizes, which may get steeper where a
cache is full, fitted to the times that its ops took inside whole forwards (`fit`), and a boosted
correction where cross-validation says that it helps; one scale and one offset lead from their sum
to the network. Where a device computes some ops of a class by another algorithm, those have a model
of their own: ops of few output pixels (on a CPU with AVX2 a convolution was seen to take longer for
3 × 3 outputs than for 4 × 4) or few inputs (PyTorch computes a convolution of one image by oneDNN
from 20,480 inputs on, twice as fast), and ops whose channels are no multiple of what is computed
together (ONNX Runtime takes nine times as long for a depthwise convolution of 97 channels as for
one of 96).
No size falls when a width or the resolution grows, no coefficient is negative and no correction
falls, so neither does the prediction but from one such algorithm to another. A model holds for the
device, runtime, threads and batch it was measured with, and for networks inside its `Box`.

Starting an op costs time too, but that is left to the offset: all networks of one graph have the
same ops, and the overhead of each depends on the whole network. Inside a VGG-11 whose weights fit
into the cache a batch norm takes 13 µs, inside one that is eight times as wide 60 µs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from engine.codec import STRICT
from engine.costs import LayerCost
from engine.errors import require
from engine.hardware.boosting import Boosting
from engine.hardware.contract import Box, LatencyModel, op_class, unknown_op

if TYPE_CHECKING:  # a model is read and asked without PyTorch
    from engine.graph import NetworkGraph
    from engine.measure import Timing

PIXELS = 16
"""Output pixels that are computed together (one AVX-512 register of float32)."""
ROW_PIXELS = 4
"""Output pixels of one row that are computed together."""
SIZES = 8
"""Numbers that `sizes` returns."""
FASTER = 0.9
"""Channels that are a multiple of something are worth keeping to if they take less than this."""

What = Literal["weights", "inputs", "outputs"]
Trait = Literal["pixels", "inputs", "cin", "cout", "channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bend:
    """Where the time of an op gets steeper.

    Attributes:
        what: weights, or elements of the input or the output.
        beyond: how many of them cost nothing more.
        ms: more for each of the others.
    """

    __pydantic_config__ = STRICT

    what: What
    beyond: int
    ms: float

    def __post_init__(self) -> None:
        require(self.beyond >= 0, "beyond must be at least 0", self.beyond)
        require(0 <= self.ms < math.inf, "ms must be finite and not negative", self.ms)

    def more_ms(self, cost: LayerCost) -> float:
        """Returns what it adds to an op."""
        return self.ms * excess(cost, self.what, self.beyond)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpModel:
    """Latency of ops that one algorithm computes: physical part ^ power · exp(correction).

    Attributes:
        granularity: output channels that are computed together, 1 if no staircase was found.
        rates: ms per unit of each size, see `sizes`.
        bends: of the time over weights, inputs and outputs.
        power: of the physical part, 1 without a correction.
        correction: of the logarithm, from `features`.
    """

    __pydantic_config__ = STRICT

    kind: Literal["op"] = "op"
    granularity: int
    rates: tuple[float, ...]
    bends: tuple[Bend, ...] = ()
    power: float = 1.0
    correction: Boosting | None = None

    def __post_init__(self) -> None:
        require(self.granularity >= 1, "granularity must be at least 1", self.granularity)
        require(0 < self.power <= 1, "power must lie in (0, 1]", self.power)
        if len(self.rates) != SIZES or not all(0 <= rate < math.inf for rate in self.rates):
            raise ValueError(
                f"rates must hold {SIZES} finite, non-negative numbers, not {self.rates}"
            )

    def ms(self, cost: LayerCost) -> float:
        """Latency of one op beyond its overhead, before calibration."""
        ms = self.physical_ms(cost)
        if self.correction is None or ms == 0:
            return ms
        return ms**self.power * math.exp(self.correction(features(cost, self.granularity)))

    def physical_ms(self, cost: LayerCost) -> float:
        """The same without power and correction."""
        ms = sum(map(mul, self.rates, sizes(cost, self.granularity)))
        return ms + sum([bend.more_ms(cost) for bend in self.bends])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Ops of a class that two algorithms compute.

    Attributes:
        trait: what tells them apart. ``pixels``, ``inputs``: at most ``value`` output pixels, or
            elements of the input; ``cin``, ``cout``: the input or output channels are no multiple
            of ``value``; ``channels``: the one or the other are not.
        value: at least 1.
        those: the ops that have the trait.
        others: those that do not.
    """

    __pydantic_config__ = STRICT

    kind: Literal["fork"] = "fork"
    trait: Trait
    value: int
    those: "Op"
    others: "Op"

    def __post_init__(self) -> None:
        require(self.value >= 1, "value must be at least 1", self.value)

    def branch(self, cost: LayerCost) -> "Op":
        """Returns what holds for an op."""
        return self.those if has_trait(cost, self.trait, self.value) else self.others

    def quickens(self, cost: LayerCost) -> bool:
        """Whether an op is faster because its channels are multiples of ``value``.

        Two algorithms of much the same speed, see `FASTER`, are no reason to skip widths.
        """
        if self.trait in ("pixels", "inputs") or self.branch(cost) is self.those:
            return False
        return _leaf(self.others, cost).ms(cost) < FASTER * _leaf(self.those, cost).ms(cost)


Op: TypeAlias = Annotated[OpModel | Fork, Field(discriminator="kind")]
"""What is known of a class of op."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InSitu(LatencyModel):
    """Predicts latency on one device; make one with `fit`.

    Attributes:
        ops: by class of op, see `op_class`.
    """

    kind: Literal["insitu"] = "insitu"
    ops: dict[str, Op]

    def op_ms(self, cost: LayerCost) -> float:
        """Returns the latency of one op before calibration.

        Raises:
            UserError: no op of that class was measured.
        """
        return self.op_model(cost).ms(cost)

    def granularity(self, cost: LayerCost) -> int:
        """Returns how many output channels of such an op are computed together.

        Raises:
            UserError: no op of that class was measured.
        """
        return self.op_model(cost).granularity

    def fast_multiples(self, cost: LayerCost) -> tuple[int, int]:
        """See `LatencyModel`.

        Raises:
            UserError: no op of that class was measured.
        """
        cin, cout, found = 1, 1, self._found(cost)
        while isinstance(found, Fork):
            if found.quickens(cost):
                cin = math.lcm(cin, found.value if found.trait != "cout" else 1)
                cout = math.lcm(cout, found.value if found.trait != "cin" else 1)
            found = found.branch(cost)
        return cin, cout

    def op_model(self, cost: LayerCost) -> OpModel:
        """Returns the model of the algorithm that computes an op.

        Raises:
            UserError: no op of that class was measured.
        """
        return _leaf(self._found(cost), cost)

    def _found(self, cost: LayerCost) -> Op:
        name = op_class(cost)
        if name not in self.ops:
            raise unknown_op(cost, self.ops)
        return self.ops[name]


def fit(graph: "NetworkGraph", timings: "Sequence[Timing]", box: Box, batch: int) -> InSitu:
    """Fits a model to networks that were timed op by op; see `engine.hardware.insitu_fit`.

    Raises:
        UserError: fewer than two networks, or one that was not timed op by op.
    """
    # Least squares and boosting take a second to import; a model that is read needs neither.
    from engine.hardware.calibrated import calibrated, op_times
    from engine.hardware.insitu_fit import fit_class

    ops = {name: fit_class(rows) for name, rows in op_times(graph, timings).items()}
    return calibrated(InSitu(box=box, ops=ops), graph, timings)


def has_trait(cost: LayerCost, trait: Trait, value: int) -> bool:
    """Returns whether an op is one of those that a `Fork` sets apart."""
    match trait:
        case "pixels":
            return pixels(cost) <= value
        case "inputs":
            return cost.in_size <= value
        case "cin":
            return cost.cin % value != 0
        case "cout":
            return cost.cout % value != 0
        case "channels":
            return cost.cin % value != 0 or cost.cout % value != 0


def sizes(cost: LayerCost, granularity: int) -> tuple[int, ...]:
    """Sizes that an op's time is made of; none falls when a width or the resolution grows.

    MACs; MACs with output channels, and with output pixels, rounded up to what is computed
    together; weights; input and output activations; the im2col matrix, which for a pooling is the
    elements its windows read; MACs with the output pixels of every row rounded up.
    """
    count = cost.weights
    return (
        cost.macs,
        cost.macs // cost.cout * _up(cost.cout, granularity),
        count * _up(pixels(cost), PIXELS),
        count,
        cost.in_size,
        cost.out_size,
        cost.cin * cost.kernel[0] * cost.kernel[1] * pixels(cost),
        count * cost.hout * _up(cost.wout, ROW_PIXELS),
    )


def excess(cost: LayerCost, what: What, most: int) -> int:
    """Returns how many more weights, inputs or outputs than ``most`` an op has."""
    match what:
        case "weights":
            amount = cost.weights
        case "inputs":
            amount = cost.in_size
        case "outputs":
            amount = cost.out_size
    return max(0, amount - most)


def features(cost: LayerCost, granularity: int) -> tuple[int, ...]:
    """What a correction may depend on; none falls when a width or the resolution grows."""
    return (
        cost.cin,
        _up(cost.cout, granularity),
        pixels(cost),
        cost.in_size,
        cost.out_size,
        cost.macs,
    )


def pixels(cost: LayerCost) -> int:
    """Returns the pixels of an op's output."""
    return cost.hout * cost.wout


def _leaf(found: Op, cost: LayerCost) -> OpModel:
    while isinstance(found, Fork):
        found = found.branch(cost)
    return found


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
