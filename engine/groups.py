"""Width groups, and which of them may change."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from engine.errors import UserError, nearest
from engine.names import NetworkName


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthGroup:
    """Channels that must change together: the unit that is widened.

    Attributes:
        name: the first layer that writes them, with ``#k`` if that layer writes several groups.
        base: channels in the network as written. A layer that writes each of them several times,
            or several such sets, has as many times the channels.
        multiple: a width must be a multiple of this.
        writers: convolutions and linear layers whose output channels these are.
        coupled: why they change together, or in multiples, one sentence for each reason.
    """

    name: str
    base: int
    multiple: int
    writers: tuple[str, ...]
    coupled: tuple[str, ...]

    def matches(self, patterns: Iterable[str]) -> bool:
        """Whether one of ``patterns`` names the group, with or without its ``#k``."""
        layer = self.name.partition("#")[0]
        return _matches(self.name, patterns) or _matches(layer, patterns)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def select(groups: Sequence[WidthGroup], name: NetworkName) -> tuple[WidthGroup, ...]:
    """Returns the groups that ``name`` includes and does not exclude.

    Raises:
        UserError: none is left; a pattern fits no layer; or it fits a layer whose channels change
            together with those of another that it does not fit.
    """
    if not groups:
        raise UserError(f"model {name.base!r} has no width that may change")
    known = {layer for group in groups for layer in (group.name, *group.writers)}
    for pattern in (*name.include, *name.exclude):
        if not any(fnmatchcase(layer, pattern) for layer in known):
            raise UserError(
                f"model {name.base!r}: the pattern {pattern!r} fits no width group"
                f"{nearest(pattern, (group.name for group in groups))}"
            )
    chosen = tuple(group for group in groups if _is_chosen(group, name))
    if not chosen:
        raise UserError(f"model {name.base!r}: include and exclude leave no width group")
    return chosen


def _is_chosen(group: WidthGroup, name: NetworkName) -> bool:
    excluded = group.matches(name.exclude)
    chosen = not excluded and (not name.include or group.matches(name.include))
    against = name.exclude if chosen else name.include
    torn = next((layer for layer in group.writers if _matches(layer, against)), None)
    if torn is None or (not chosen and _matches(torn, name.exclude)):
        return chosen
    done = "excluded" if chosen else "included"
    why = "; ".join(group.coupled) or "they are one group"
    if excluded:
        raise UserError(
            f"model {name.base!r}: {torn} is included, but the group {group.name} that it belongs "
            f"to is excluded ({why}); do one of the two"
        )
    raise UserError(
        f"model {name.base!r}: {torn} is {done}, but changes together with {group.name}, which is "
        f"not ({why}); add {group.name!r}"
    )
