"""Where the channels of a tensor lie, and where views and permutations put them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from engine.channels import Channels, ChannelVariables, Refusal
from engine.shapes import Shape


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the traced network.

    Attributes:
        op: index of the op that made it, −1 for the network's input, None for a parameter or
            what was made of parameters alone.
        shape: at the widths and resolution of the trace.
        channels: along ``axis``.
        axis: where the channels lie; None if that axis was dropped.
        parts: number of equal parts into which the channels are cut, on an axis of their own.
        parts_axis: where that is; None if there are none.
        parts_last: whether it stood behind the channels when they were cut.
        learnt: names of the parameters that it is made of, if ``op`` is None.
    """

    op: int | None
    shape: Shape
    channels: Channels
    axis: int | None = 1
    parts: int = 1
    parts_axis: int | None = None
    parts_last: bool = False
    learnt: tuple[str, ...] = ()

    @property
    def space(self) -> tuple[int, ...]:
        """The axes that are neither the batch nor channels."""
        return tuple(i for i in range(1, len(self.shape)) if i not in (self.axis, self.parts_axis))

    @property
    def swapped(self) -> bool:
        """Whether the parts have changed places with the channels of a part since the cut."""
        if self.parts_axis is None or self.axis is None:
            return False
        return (self.parts_axis > self.axis) != self.parts_last

    def of(self, op: int | None, learnt: tuple[str, ...] = ()) -> "Value":
        """Returns the value as made by ``op``."""
        return replace(self, op=op, learnt=learnt)

    def shaped(self, shape: Shape, channels: Channels | None = None) -> "Value":
        """Returns the value with another height and width, and other channels if given."""
        return replace(self, shape=shape, channels=self.channels if channels is None else channels)

    def moved(self, to: Mapping[int, int], shape: Shape) -> "Value":
        """Returns the value with every axis renumbered; one that is not in ``to`` is dropped.

        Raises:
            Refusal: the batch moves, or parts of the channels are dropped.
        """
        if self.op is not None and to.get(0) != 0:
            raise Refusal("it moves the images of a batch to another axis")
        if self.parts_axis is not None and not {self.axis, self.parts_axis} <= to.keys():
            raise Refusal("it takes apart channels that were cut into parts")
        return replace(
            self,
            shape=shape,
            axis=None if self.axis is None else to.get(self.axis),
            parts_axis=None if self.parts_axis is None else to[self.parts_axis],
        )


def whole(value: Value, variables: ChannelVariables) -> Channels:
    """Returns all channels of ``value``, its parts after one another."""
    if value.parts_last:
        return variables.repeated(value.channels, value.parts)
    return value.channels * value.parts


def regrouped(
    value: Value, shape: Shape, constants: Collection[int], variables: ChannelVariables
) -> Value:
    """Returns ``value`` viewed in another shape.

    Axes are matched from the left by their sizes. Channels may be cut into equal parts, put
    together again, or taken with height and width behind them (a flatten).

    Args:
        value: before.
        shape: after.
        constants: axes of ``shape`` whose size is a number in the program.
        variables: of the channels; parts that are cut become equal.

    Raises:
        Refusal: the channels cannot be followed, or a constant fixes their number.
    """
    after = replace(value, shape=shape, axis=None, parts_axis=None)
    for before, behind in _matched(value, shape):
        if value.op is not None and 0 in before and (before, behind) != ([0], [0]):
            fixed = next((shape[i] for i in constants if shape[i] > 1), None)
            raise Refusal(_constant(fixed) if fixed else "it mixes the images of a batch")
        if value.axis in before:
            after = _placed(value, before, behind, after, constants, variables)
        elif value.parts_axis in before:
            if len(before) != 1 or len(behind) != 1:
                raise Refusal("channels that were cut into parts can only be put together again")
            after = replace(after, parts_axis=behind[0])
    return after


def _matched(value: Value, shape: Shape) -> list[tuple[list[int], list[int]]]:
    """Pairs runs of axes that hold the same elements; axes of size 1 come and go freely."""
    batch = () if value.op is None else (0,)
    kept = {*batch, value.axis, value.parts_axis}
    left = [i for i, size in enumerate(value.shape) if size > 1 or i in kept]
    right = [
        i
        for i, size in enumerate(shape)
        if size > 1 or i in batch or (i == value.axis and value.shape[i] == 1)
    ]
    pairs: list[tuple[list[int], list[int]]] = []
    while left or right:
        before, behind = [left.pop(0)], [right.pop(0)] if right else []
        sizes = [value.shape[before[0]], shape[behind[0]] if behind else 1]
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1] and left:
                before.append(left.pop(0))
                sizes[0] *= value.shape[before[-1]]
            elif sizes[0] > sizes[1] and right:
                behind.append(right.pop(0))
                sizes[1] *= shape[behind[-1]]
            else:
                raise Refusal(f"axes of {value.shape} cannot be found again in {shape}")
        pairs.append((before, behind))
    return pairs


def _placed(
    value: Value,
    before: Sequence[int],
    behind: Sequence[int],
    after: Value,
    constants: Collection[int],
    variables: ChannelVariables,
) -> Value:
    """Puts the channels, which lie in the axes ``before``, into the axes ``behind``."""
    shape = after.shape
    if not behind:
        raise Refusal("it drops the axis of the channels")
    if value.parts_axis in before:
        if set(before) != {value.axis, value.parts_axis} or len(behind) != 1:
            raise Refusal("channels that were cut into parts can only be put together again")
        _check_constant(shape, behind[0], constants, value, variables)
        channels = value.channels * value.parts if value.swapped else whole(value, variables)
        return replace(after, channels=channels, axis=behind[0], parts=1, parts_last=False)
    if before[0] != value.axis:
        raise Refusal("it flattens channels that lie behind height and width; flatten NCHW")
    if len(behind) == 1:
        _check_constant(shape, behind[0], constants, value, variables)
        return replace(after, axis=behind[0])
    if len(before) > 1 or len(behind) > 2:
        raise Refusal(f"channels cannot be followed from {value.shape} to {shape}")
    return _cut(value, behind, after, constants, variables)


def _cut(
    value: Value,
    behind: Sequence[int],
    after: Value,
    constants: Collection[int],
    variables: ChannelVariables,
) -> Value:
    shape = after.shape
    numbers = [i for i in behind if i in constants]
    if value.parts > 1 or shape[behind[0]] * shape[behind[1]] != variables.width(value.channels):
        raise Refusal("channels that were cut or flattened cannot be cut again")
    if len(numbers) != 1:
        raise Refusal(
            "of the two axes that the channels are cut into, one must be a number and the other "
            "must not"
        )
    (parts_axis,) = numbers
    (axis,) = (i for i in behind if i != parts_axis)
    parts, last = shape[parts_axis], parts_axis > axis
    reason = f"cut into {parts} equal parts"
    if last:
        channels = variables.divided(value.channels, parts, reason)
    else:
        channels = variables.equal_parts(value.channels, parts, reason)
    return replace(
        after, channels=channels, axis=axis, parts=parts, parts_axis=parts_axis, parts_last=last
    )


def _check_constant(
    shape: Shape, axis: int, constants: Collection[int], value: Value, variables: ChannelVariables
) -> None:
    if axis in constants and not variables.is_fixed(value.channels):
        raise Refusal(_constant(shape[axis]))


def _constant(number: int) -> str:
    return (
        f"the shape has the constant {number}, which fixes the number of channels; write "
        "flatten(1), or take the number from the tensor (x.shape[1])"
    )
