"""Channel axes as symbols: which channels of a network must change together.

The channel axis of every tensor is a tuple of segments. A segment is a variable, some channels
whose number may change. A convolution makes new variables, a sum makes those of its terms equal,
a concatenation puts tuples after one another, and where two axes are cut differently a variable
is replaced by its parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Segment:
    """Variable ``var`` on a channel axis, each of its channels ``times`` times in a row."""

    var: int
    times: int = 1


Channels = tuple[Segment, ...]


class Refusal(Exception):
    """Channels that cannot be followed; the text says why."""


class ChannelVariables:
    """Union-find over channel variables, which can also be cut and repeated."""

    def __init__(self) -> None:
        self._size: list[int] = []
        self._made_of: dict[int, Channels] = {}
        self._multiple: dict[int, int] = {}
        self._fixed: dict[int, str] = {}
        self._reasons: dict[int, list[str]] = {}

    # Questions -------------------------------------------------------------------------------

    def size(self, var: int) -> int:
        """Channels of ``var`` in the traced network."""
        return self._size[var]

    def multiple(self, var: int) -> int:
        """What the width of ``var`` must be a multiple of."""
        return self._multiple.get(var, 1)

    def fixed(self, var: int) -> str:
        """Why the width of ``var`` must not change, "" if it may."""
        return self._fixed.get(var, "")

    def reasons(self, var: int) -> tuple[str, ...]:
        """Why channels that were made apart are this one variable, and why it has a multiple."""
        return tuple(dict.fromkeys(self._reasons.get(var, ())))

    def resolve(self, axis: Channels) -> Channels:
        """Returns ``axis`` in variables that stand for themselves."""
        out: list[Segment] = []
        for segment in axis:
            made_of = self._made_of.get(segment.var)
            if made_of is None:
                out.append(segment)
                continue
            self._made_of[segment.var] = made_of = self.resolve(made_of)
            out += self.repeated(made_of, segment.times)
        return tuple(out)

    def width(self, axis: Sequence[Segment]) -> int:
        """Channels of ``axis`` in the traced network."""
        return sum(self._size[s.var] * s.times for s in axis)

    def is_fixed(self, axis: Channels) -> bool:
        """Whether no channel of ``axis`` may change."""
        return all(segment.var in self._fixed for segment in self.resolve(axis))

    # New axes --------------------------------------------------------------------------------

    def new(self, size: int) -> Channels:
        """Returns an axis of one new variable with ``size`` channels."""
        self._size.append(size)
        return (Segment(len(self._size) - 1),)

    def repeated(self, axis: Channels, times: int) -> Channels:
        """Returns ``axis`` with each channel ``times`` times in a row."""
        return tuple(replace(s, times=s.times * times) for s in axis)

    def divided(self, axis: Channels, by: int, reason: str) -> Channels:
        """Returns the axis that, with each channel repeated ``by`` times, is ``axis``.

        Raises:
            Refusal: some variable has no multiple of as many channels.
        """
        parts: list[Segment] = []
        for unresolved in self.resolve(axis):
            # Dividing a variable changes where else on the axis it stands.
            for segment in self.resolve((unresolved,)):
                shared = math.gcd(segment.times, by)
                unit = self._divide(segment.var, by // shared, reason)
                parts += self.repeated(unit, segment.times // shared)
        return self.resolve(tuple(parts))

    def split(self, axis: Channels, first: int) -> tuple[Channels, Channels]:
        """Returns the first ``first`` channels of ``axis`` and the rest.

        Raises:
            Refusal: the cut goes through a channel that is repeated.
        """
        head: list[Segment] = []
        rest = list(self.resolve(axis))
        while first > 0:
            size = self.width(rest[:1])
            if size > first:
                self._cut(rest[0], first)
                rest = list(self.resolve(tuple(rest)))
                continue
            head.append(rest.pop(0))
            first -= size
        return tuple(head), tuple(rest)

    def equal_parts(self, axis: Channels, count: int, reason: str) -> Channels:
        """Cuts ``axis`` into ``count`` parts, makes them equal and returns one.

        Raises:
            Refusal: it has no multiple of ``count`` channels, or the parts cannot be equal.
        """
        width = self.width(axis)
        if width % count:
            raise Refusal(f"{width} channels cannot be cut into {count} equal parts")
        first, rest = self.split(axis, width // count)
        for _ in range(count - 1):
            part, rest = self.split(rest, width // count)
            self.equate(first, part, reason)
        return self.resolve(first)

    # Constraints -----------------------------------------------------------------------------

    def fix(self, axis: Channels, reason: str) -> None:
        """Forbids all channels of ``axis`` to change."""
        for segment in self.resolve(axis):
            self._fixed.setdefault(segment.var, reason)

    def explain(self, axis: Channels, reason: str) -> None:
        """Adds a reason why layers that write the channels of ``axis`` change together."""
        for segment in self.resolve(axis):
            self._reasons.setdefault(segment.var, []).append(reason)

    def require_multiple(self, axis: Channels, multiple: int, reason: str) -> None:
        """Keeps the width of ``axis`` a multiple of ``multiple``.

        Every variable of the axis keeps it by itself; one that does not even have it now is fixed.
        """
        for segment in self.resolve(axis):
            self._keep_multiple(segment, multiple, reason)
        self.explain(axis, reason)

    def equate(self, left: Channels, right: Channels, reason: str) -> None:
        """Makes two axes equal, channel by channel, cutting variables where their cuts differ.

        Raises:
            Refusal: other sizes, or a cut through a channel that is repeated.
        """
        if self.width(left) != self.width(right):
            raise Refusal(f"{self.width(left)} channels meet {self.width(right)}")
        while True:
            pairs = zip(self.resolve(left), self.resolve(right), strict=False)
            differing = next(((x, y) for x, y in pairs if x != y), None)
            if differing is None:
                return
            self._match(*differing, reason)

    # Help ------------------------------------------------------------------------------------

    def _match(self, x: Segment, y: Segment, reason: str) -> None:
        size_x, size_y = self.width((x,)), self.width((y,))
        if size_x > size_y:
            self._cut(x, size_y)
        elif size_y > size_x:
            self._cut(y, size_x)
        else:
            # x, each s times in a row, is y, each t times: both are one variable repeated.
            shared = math.gcd(x.times, y.times)
            unit_x = self._divide(x.var, y.times // shared, reason)
            unit_y = self._divide(y.var, x.times // shared, reason)
            keep, gone = sorted((unit_x[0].var, unit_y[0].var))
            self._replace(gone, (Segment(keep),), reason)

    def _divide(self, var: int, by: int, reason: str) -> Channels:
        """Makes ``var`` a new variable each of whose channels stands ``by`` times in a row."""
        if by == 1:
            return (Segment(var),)
        if self._size[var] % by:
            raise Refusal(f"{self._size[var]} channels are no multiple of {by}")
        unit = self.new(self._size[var] // by)
        self._replace(var, self.repeated(unit, by), reason)
        return unit

    def _cut(self, segment: Segment, first: int) -> None:
        head, inside = divmod(first, segment.times)
        if inside:
            raise Refusal(f"a cut goes through a channel that stands {segment.times} times")
        parts = (*self.new(head), *self.new(self._size[segment.var] - head))
        self._replace(segment.var, parts)

    def _replace(self, var: int, axis: Channels, reason: str = "") -> None:
        """Puts ``axis``, of the same size, in the place of ``var``, with all that holds for it."""
        self._made_of[var] = axis
        reasons = [*self._reasons.pop(var, []), *([reason] if reason else [])]
        fixed, multiple = self._fixed.pop(var, ""), self._multiple.pop(var, 1)
        for segment in axis:
            self._reasons.setdefault(segment.var, []).extend(reasons)
            self._keep_multiple(segment, multiple, f"a cut leaves no multiple of {multiple}")
        if fixed:
            self.fix(axis, fixed)

    def _keep_multiple(self, segment: Segment, multiple: int, reason: str) -> None:
        needed = multiple // math.gcd(multiple, segment.times)
        if self._size[segment.var] % needed:
            self._fixed.setdefault(segment.var, reason)
        else:
            self._multiple[segment.var] = math.lcm(self.multiple(segment.var), needed)
