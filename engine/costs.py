"""What one op, and a whole network, costs at given widths: pure arithmetic, no torch."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from engine.limits import Usage


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One op at concrete widths and resolution.

    Attributes:
        name: the op's node in the traced graph.
        kind: ``conv``, ``conv_transpose``, ``linear``, ``norm``, ``activation``, ``pool``,
            ``global_pool``, ``add``, ``mul``, ``cat``, ``resize``, ``reshape``.
        cin, cout: channels in and out (features, for a linear layer).
        hin, win, hout, wout: spatial sizes; 1 after flattening.
        kernel: height and width of the window, (1, 1) where there is none.
        stride: of the window, downwards.
        across: the same along a row, where that is another.
        macs: multiply-accumulates for one image, convolutions and linear layers only, as
            ``torch.utils.flop_counter`` counts them, halved.
        params: trainable parameters that belong to this op; a module called twice counts once.
        inputs: number of input tensors (2 for a sum of two).
    """

    name: str
    kind: str
    cin: int
    cout: int
    hin: int
    win: int
    hout: int
    wout: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    across: int | None = None
    groups: int = 1
    macs: int = 0
    params: int = 0
    inputs: int = 1

    @property
    def uses(self) -> int:
        """How often every weight is used for one image: once at each position of its window."""
        if self.kind == "conv_transpose":  # whose window lies on the output
            return self.hin * self.win
        return self.hout * self.wout

    @property
    def weights(self) -> int:
        """Weights of a convolution or linear layer without bias, 0 of other ops."""
        return self.macs // self.uses

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the weights of one group, where each use of it is a product.

        A convolution multiplies the k·k·c values of a window by one column for each filter; a
        transposed one the c values of one position by k·k columns for each output channel.
        """
        cin, cout = self.cin // self.groups, self.cout // self.groups
        window = self.kernel[0] * self.kernel[1]
        if self.kind == "conv_transpose":
            return cin, window * cout
        return window * cin, cout

    @property
    def in_size(self) -> int:
        """Input activations of one image."""
        return self.cin * self.hin * self.win * self.inputs

    @property
    def out_size(self) -> int:
        """Output activations of one image."""
        return self.cout * self.hout * self.wout


@dataclass(frozen=True)
class NetworkCost:
    """A whole network at concrete widths and resolution."""

    layers: tuple[LayerCost, ...]

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(layer.macs for layer in self.layers)

    @cached_property
    def params(self) -> int:
        """Trainable parameters."""
        return sum(layer.params for layer in self.layers)


class Widening(Protocol):
    """A network being widened, as an allocator sees it."""

    @property
    def widths(self) -> dict[str, int]:
        """Channels of every group now."""
        ...

    @property
    def usage(self) -> Usage:
        """Predicted usage now."""
        ...

    def after(self, group: str, width: int) -> Usage:
        """Predicted usage if ``group`` had ``width`` channels and nothing else changed."""
        ...

    def widen(self, group: str, width: int) -> None:
        """Makes that change."""
        ...
