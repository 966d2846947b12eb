"""The ops of a traced network, with channel axes as symbols and sizes as rules."""

from dataclasses import dataclass
from typing import Literal

from engine.channels import Channels

Kind = Literal[
    "conv", "linear", "norm", "activation", "pool", "global_pool", "add", "mul", "cat", "reshape"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A sliding window over height and width; each field is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the output's height and width; not positive if the window does not fit."""
        return (self._along(size[0], 0), self._along(size[1], 1))

    def _along(self, size: int, axis: int) -> int:
        stride, padding = self.stride[axis], self.padding[axis]
        span = size + 2 * padding - self.dilation[axis] * (self.kernel[axis] - 1) - 1
        if span < 0:
            return 0
        out = (-(-span // stride) if self.ceil_mode else span // stride) + 1
        # PyTorch drops a window of ceil mode that would start in the padding beyond the input.
        if self.ceil_mode and (out - 1) * stride >= size + padding:
            out -= 1
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One node of the traced graph that makes a tensor.

    Attributes:
        name: the node's name.
        module: path of the module it calls, "" for a function.
        inputs: indexes of the ops whose outputs it takes; −1 is the network's input.
        cin, cout: channel axes before and after.
        window: of a convolution or pooling.
        pooled_to: output size of an adaptive pooling, (1, 1) for a global one.
        groups: of a convolution; 0 for a depthwise one, whose groups are its input channels.
        bias: whether a convolution or linear layer has one.
        affine: learnt parameters per channel of a norm or activation.
        flattens: whether height and width are folded into the channel axis.
        repeated: whether the module was called before, so that its parameters are counted there.
    """

    name: str
    kind: Kind
    module: str
    inputs: tuple[int, ...]
    cin: Channels
    cout: Channels
    window: Window | None = None
    pooled_to: tuple[int, int] | None = None
    groups: int = 1
    bias: bool = False
    affine: int = 0
    flattens: bool = False
    repeated: bool = False
