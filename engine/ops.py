"""The ops of a traced network, with channel axes as symbols."""

from dataclasses import dataclass
from typing import Literal, get_args

from engine.channels import Channels

Kind = Literal[
    "conv",
    "conv_transpose",
    "linear",
    "norm",
    "activation",
    "pool",
    "global_pool",
    "add",
    "mul",
    "cat",
    "resize",
    "reshape",
]

KINDS: tuple[str, ...] = get_args(Kind)
WRITERS = ("conv", "conv_transpose", "linear")
"""Kinds whose kernels write the channels that come after them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One node of the traced graph that makes a tensor out of images.

    Attributes:
        name: the node's name.
        module: path of the module it calls, "" for a function.
        inputs: indexes of the ops whose outputs it takes; −1 is the network's input.
        cin, cout: channel axes before and after.
        axis: where the channels lie in the output's shape, None if that axis was dropped.
        parts: number of equal parts that the channels are cut into, on an axis of their own.
        space: the other axes of the output's shape but the batch.
        kernel, stride: of a convolution or pooling, (vertical, horizontal).
        groups: of a convolution; 0 for a depthwise one, whose groups are its input channels.
        learnt: an axis as long as the parameters that are no kernels: biases, norms, scales.
        repeated: whether the module was called before, so that its parameters are counted there.
        mixes: whether further channels change what it makes of the others, because it computes
            over all of them (a norm) or moves them (a shuffle).
    """

    name: str
    kind: Kind
    module: str = ""
    inputs: tuple[int, ...]
    cin: Channels
    cout: Channels
    axis: int | None = 1
    parts: int = 1
    space: tuple[int, ...] = ()
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    learnt: Channels = ()
    repeated: bool = False
    mixes: bool = False
