"""Channel variables against one node per channel, which needs no variables at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.channels import ChannelVariables, Refusal


class Naive:
    """Union-find over single channels; an axis is a list of channels."""

    def __init__(self):
        self.same_as = []
        self.fixed = set()

    def new(self, size):
        first = len(self.same_as)
        self.same_as += range(first, first + size)
        return list(range(first, first + size))

    def find(self, channel):
        while self.same_as[channel] != channel:
            channel = self.same_as[channel]
        return channel

    def equate(self, left, right):
        for a, b in zip(left, right, strict=True):
            self.same_as[self.find(a)] = self.find(b)

    def equal_parts(self, axis, count):
        size = len(axis) // count
        for part in range(1, count):
            self.equate(axis[:size], axis[part * size : (part + 1) * size])
        return axis[:size]

    def divided(self, axis, by):
        for first in range(0, len(axis), by):
            for channel in axis[first : first + by]:
                self.same_as[self.find(channel)] = self.find(axis[first])
        return axis[::by]


class Program:
    """Draws calls, makes them on both sides and keeps all axes and what was promised of them."""

    def __init__(self, draw):
        self.draw = draw
        self.variables, self.naive = ChannelVariables(), Naive()
        self.axes = []
        self.equal, self.multiples, self.divisions = [], [], []

    def number(self, low, high):
        return self.draw(st.integers(low, high))

    def pick(self):
        return self.axes[self.number(0, len(self.axes) - 1)]

    def run(self, calls):
        names = ["new", "new", "cat", "repeat", "split", "equate", "equate", "fix", "multiple"]
        names += ["divide", "parts"]
        for _ in range(calls):
            getattr(self, self.draw(st.sampled_from(names)) if self.axes else "new")()

    def add(self, axis, channels):
        if len(channels) <= 96:
            self.axes.append((axis, channels))

    def new(self):
        size = self.draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))
        self.add(self.variables.new(size), self.naive.new(size))

    def cat(self):
        (a, x), (b, y) = self.pick(), self.pick()
        self.add(a + b, x + y)

    def repeat(self):
        (a, x), times = self.pick(), self.number(1, 3)
        self.add(self.variables.repeated(a, times), [c for c in x for _ in range(times)])

    def split(self):
        a, x = self.pick()
        first = self.number(0, len(x))
        head, rest = self.variables.split(a, first)
        self.add(head, x[:first]) if first else None
        self.add(rest, x[first:]) if first < len(x) else None

    def equate(self):
        a, x = self.pick()
        same = [(b, y) for b, y in self.axes if len(y) == len(x)]
        b, y = same[self.number(0, len(same) - 1)]
        self.variables.equate(a, b, "equal")
        self.naive.equate(x, y)
        self.equal.append((a, b))

    def fix(self):
        a, _ = self.pick()
        self.variables.fix(a, "fixed")
        # Variables are fixed whole, as layers are.
        owners = {segment.var for segment in self.variables.resolve(a)}
        for axis, channels in self.axes:
            for (var, _), channel in zip(expanded(self.variables, axis), channels, strict=True):
                if var in owners:
                    self.naive.fixed.add(channel)

    def multiple(self):
        a, x = self.pick()
        multiple = self.draw(st.sampled_from([m for m in (2, 3, 4) if len(x) % m == 0] or [1]))
        self.variables.require_multiple(a, multiple, "groups")
        self.multiples.append((a, multiple))

    def divide(self):
        a, x = self.pick()
        by = self.draw(st.sampled_from([m for m in (2, 3, 4) if len(x) % m == 0] or [1]))
        axis = self.variables.divided(a, by, "divided")
        self.divisions.append((a, axis, by))
        self.add(axis, self.naive.divided(x, by))

    def parts(self):
        a, x = self.pick()
        count = self.draw(st.sampled_from([m for m in (2, 3) if len(x) % m == 0] or [1]))
        axis = self.variables.equal_parts(a, count, "parts")
        self.divisions.append((a, axis, count))
        self.add(axis, self.naive.equal_parts(x, count))


def expanded(variables, axis):
    """Every channel of an axis as (variable, number in it)."""
    return [
        (segment.var, i)
        for segment in variables.resolve(axis)
        for i in range(variables.size(segment.var))
        for _ in range(segment.times)
    ]


def width_at(variables, axis, widths):
    return sum(widths[s.var] * s.times for s in variables.resolve(axis))


@settings(max_examples=100)
@given(st.data())
def test_the_same_channels_are_coupled_as_one_by_one(data):
    program = Program(data.draw)
    try:
        program.run(data.draw(st.integers(1, 25)))
    except Refusal as error:
        assert "stands" in str(error) or "multiple" in str(error) or "meet" in str(error)
        return
    named, found = {}, {}
    for axis, channels in program.axes:
        places = expanded(program.variables, axis)
        assert len(places) == len(channels) == program.variables.width(axis)
        for place, channel in zip(places, channels, strict=True):
            owner = program.naive.find(channel)
            assert named.setdefault(place, owner) == owner, "coupled, but need not be"
            assert found.setdefault(owner, place) == place, "not coupled, but must be"
    fixed = {program.naive.find(channel) for channel in program.naive.fixed}
    if not program.multiples:  # a multiple that cannot be kept fixes channels, too
        for place, owner in named.items():
            assert bool(program.variables.fixed(place[0])) == (owner in fixed)


@settings(max_examples=100)
@given(st.data())
def test_any_widths_keep_all_that_was_promised(data):
    program = Program(data.draw)
    try:
        program.run(data.draw(st.integers(1, 25)))
    except Refusal:
        return
    variables = program.variables
    widths = {}
    for axis, _ in program.axes:
        for segment in variables.resolve(axis):
            multiple = variables.multiple(segment.var)
            assert variables.fixed(segment.var) or variables.size(segment.var) % multiple == 0
            if segment.var not in widths:
                free = multiple * data.draw(st.integers(1, 5))
                fixed = variables.fixed(segment.var)
                widths[segment.var] = variables.size(segment.var) if fixed else free
    for left, right in program.equal:
        assert width_at(variables, left, widths) == width_at(variables, right, widths)
    for axis, multiple in program.multiples:
        assert width_at(variables, axis, widths) % multiple == 0
    for axis, part, count in program.divisions:
        assert width_at(variables, axis, widths) == count * width_at(variables, part, widths)


def test_other_sizes_do_not_meet():
    variables = ChannelVariables()
    with pytest.raises(Refusal, match="6 channels meet 4"):
        variables.equate(variables.new(6), variables.new(4), "")


def test_a_repeated_channel_is_not_cut():
    variables = ChannelVariables()
    repeated = variables.repeated(variables.new(3), 2)
    with pytest.raises(Refusal, match="stands 2 times"):
        variables.split(repeated, 3)


def test_a_variable_equal_to_itself_repeated_has_no_solution():
    variables = ChannelVariables()
    axis = variables.new(8)
    with pytest.raises(Refusal):
        variables.equate(variables.repeated(axis, 2), axis + axis, "")


def test_reasons_are_kept_when_variables_meet_and_part():
    variables = ChannelVariables()
    a, b, c = variables.new(6), variables.new(6), variables.new(4)
    variables.equate(a, b, "sum")
    variables.equate(a, c + variables.new(2), "join")
    first, second = variables.resolve(a)
    assert variables.reasons(first.var) == ("sum", "join") == variables.reasons(second.var)


def test_channels_repeated_twice_and_three_times_share_a_unit():
    variables = ChannelVariables()
    a, b = variables.new(6), variables.new(4)
    variables.equate(variables.repeated(a, 2), variables.repeated(b, 3), "sum")
    (x,), (y,) = variables.resolve(a), variables.resolve(b)
    assert x.var == y.var and (x.times, y.times) == (3, 2) and variables.size(x.var) == 2


@pytest.mark.parametrize(("multiple", "times", "needed"), [(4, 3, 4), (4, 2, 2), (6, 4, 3)])
def test_a_multiple_of_repeated_channels(multiple, times, needed):
    variables = ChannelVariables()
    axis = variables.new(12)
    variables.require_multiple(variables.repeated(axis, times), multiple, "groups")
    assert variables.multiple(axis[0].var) == needed


def test_channels_that_do_not_have_their_multiple_are_fixed():
    variables = ChannelVariables()
    a, b = variables.new(6), variables.new(8)
    variables.require_multiple(a + b, 4, "groups")
    assert variables.fixed(a[0].var) == "groups" and not variables.fixed(b[0].var)
    variables.equate(b, variables.new(3) + variables.new(5), "cut")
    assert variables.is_fixed(b)
