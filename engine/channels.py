"""Channel axes as symbols: which channels of a network must change together.

The channel axis of every tensor is a tuple of segments. A segment is a variable, some channels
whose number may change. A convolution makes new variables, a sum makes those of its terms equal,
a concatenation puts tuples after one another, and where two axes are cut differently a variable
is split.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """``times`` × the width of variable ``var``, contiguous on a channel axis."""

    var: int
    times: int = 1


Channels = tuple[Segment, ...]


class Mismatch(Exception):
    """Two channel axes that cannot be made equal."""


class ChannelVariables:
    """Union-find over channel variables that can also be split in two."""

    def __init__(self) -> None:
        self._size: list[int] = []
        self._same_as: dict[int, int] = {}
        self._parts: dict[int, tuple[int, int]] = {}
        self._multiple: dict[int, int] = {}
        self._fixed: set[int] = set()
        self.reasons: dict[int, list[str]] = {}

    def new(self, size: int) -> Channels:
        """Returns an axis of one new variable with ``size`` channels."""
        self._size.append(size)
        return (Segment(len(self._size) - 1),)

    def size(self, var: int) -> int:
        """Channels of ``var`` in the traced network."""
        return self._size[var]

    def multiple(self, var: int) -> int:
        """What the width of ``var`` must be a multiple of."""
        return self._multiple.get(var, 1)

    def is_fixed(self, var: int) -> bool:
        """Whether the width of ``var`` must not change."""
        return var in self._fixed

    def resolve(self, axis: Channels) -> Channels:
        """Returns ``axis`` in terms of representatives, split variables replaced by their parts."""
        out: list[Segment] = []
        for segment in axis:
            var = self._find(segment.var)
            if var in self._parts:
                parts = tuple(Segment(part, segment.times) for part in self._parts[var])
                out += self.resolve(parts)
            else:
                out.append(Segment(var, segment.times))
        return tuple(out)

    def width(self, axis: Channels) -> int:
        """Channels of ``axis`` in the traced network."""
        return sum(self._size[s.var] * s.times for s in self.resolve(axis))

    def fix(self, axis: Channels) -> None:
        """Marks all channels of ``axis`` as unchangeable."""
        self._fixed |= {s.var for s in self.resolve(axis)}

    def require_multiple(self, axis: Channels, multiple: int, reason: str) -> None:
        """Requires every variable of ``axis`` to stay a multiple of ``multiple``.

        Raises:
            Mismatch: a variable's traced size is not one.
        """
        for segment in self.resolve(axis):
            if self._size[segment.var] * segment.times % multiple:
                raise Mismatch(
                    f"{self._size[segment.var]} channels are no multiple of {multiple} groups"
                )
            self._multiple[segment.var] = math.lcm(self.multiple(segment.var), multiple)
            self.reasons.setdefault(segment.var, []).append(reason)

    def equate(self, left: Channels, right: Channels, reason: str) -> None:
        """Makes two axes equal, channel by channel, splitting variables where the cuts differ.

        Raises:
            Mismatch: other sizes, or a cut through channels that cannot be cut.
        """
        if self.width(left) != self.width(right):
            raise Mismatch(f"{self.width(left)} channels meet {self.width(right)}")
        while True:
            a, b = self.resolve(left), self.resolve(right)
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            if at is None:
                return
            self._match(a[at], b[at], reason)

    def split(self, axis: Channels, first: int) -> tuple[Channels, Channels]:
        """Returns the first ``first`` channels of ``axis`` and the rest."""
        head: list[Segment] = []
        rest = list(self.resolve(axis))
        while first > 0:
            segment = rest.pop(0)
            size = self._size[segment.var] * segment.times
            if size > first:
                rest[:0] = self._cut(segment, first)
                continue
            head.append(segment)
            first -= size
        return tuple(head), tuple(rest)

    def _match(self, x: Segment, y: Segment, reason: str) -> None:
        size_x, size_y = self._size[x.var] * x.times, self._size[y.var] * y.times
        if size_x > size_y:
            self._cut(x, size_y)
        elif size_y > size_x:
            self._cut(y, size_x)
        elif x.times != y.times:
            raise Mismatch("channels repeated differently cannot be coupled")
        else:
            self._union(x.var, y.var, reason)

    def _cut(self, segment: Segment, first: int) -> tuple[Segment, Segment]:
        if segment.times != 1:
            raise Mismatch("channels that are repeated cannot be cut")
        var = segment.var
        multiple = self.multiple(var)
        if first % multiple or self._size[var] % multiple:
            raise Mismatch(f"a cut at {first} breaks groups of {multiple}")
        self._size += [first, self._size[var] - first]
        parts = (len(self._size) - 2, len(self._size) - 1)
        self._parts[var] = parts
        for part in parts:
            self._multiple[part] = multiple
            self.reasons[part] = list(self.reasons.get(var, []))
            if var in self._fixed:
                self._fixed.add(part)
        return Segment(parts[0]), Segment(parts[1])

    def _union(self, x: int, y: int, reason: str) -> None:
        keep, gone = min(x, y), max(x, y)
        self._same_as[gone] = keep
        self._multiple[keep] = math.lcm(self.multiple(keep), self.multiple(gone))
        if gone in self._fixed:
            self._fixed.add(keep)
        self.reasons.setdefault(keep, []).extend([*self.reasons.pop(gone, []), reason])

    def _find(self, var: int) -> int:
        while var in self._same_as:
            var = self._same_as[var]
        return var
