"""A model's name with its options: one string, because it identifies the network."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkName:
    """A model's name taken apart; ``str`` puts it together.

    Attributes:
        base: of the network as written.
        depth: multiplier of the repeats of every stage.
        pool: height and width to which features are averaged before every flatten whose size
            depends on the resolution.
        include: patterns of width groups that may change; all may if there are none.
        exclude: patterns of width groups that keep their widths.
    """

    base: str
    depth: float = 1.0
    pool: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.depth < math.inf:
            raise ValueError(f"depth must be positive, not {self.depth}")
        if self.pool is not None and self.pool < 1:
            raise ValueError(f"pool must be at least 1, not {self.pool}")
        for pattern in (*self.include, *self.exclude):
            if not pattern or set(pattern) & set(",+=@"):
                raise ValueError(f"a pattern must name width groups, not {pattern!r}")

    def __str__(self) -> str:
        options = {
            "depth": "" if self.depth == 1 else repr(self.depth).removesuffix(".0"),
            "pool": "" if self.pool is None else str(self.pool),
            "include": "+".join(sorted(set(self.include))),
            "exclude": "+".join(sorted(set(self.exclude))),
        }
        given = ",".join(f"{key}={value}" for key, value in options.items() if value)
        return f"{self.base}@{given}" if given else self.base


def parse_name(name: str) -> NetworkName:
    """Reads ``"resnet18@depth=1.5"`` or ``"package.module:factory@pool=7,exclude=stem.*+neck"``.

    Options follow an @, divided by commas, in the order of `NetworkName`; patterns are divided by
    a +. Every network has one spelling only.

    Raises:
        UserError: an unknown option, a bad value or another spelling.
    """
    base, at, options = name.partition("@")
    found: dict[str, Any] = {}
    for option in options.split(",") if at else []:
        key, _, value = option.partition("=")
        if key not in _READERS:
            raise UserError(f"model {name!r}: unknown option {key!r}{nearest(key, _READERS)}")
        try:
            found[key] = _READERS[key](value)
        except ValueError:
            raise UserError(f"model {name!r}: {key} must be a number, not {value!r}") from None
    try:
        parsed = NetworkName(base=base, **found)
    except ValueError as error:
        raise UserError(f"model {name!r}: {error}") from None
    if str(parsed) != name:
        raise UserError(f"model {name!r} must be written {str(parsed)!r}")
    return parsed


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(text.split("+"))


_READERS: dict[str, Callable[[str], Any]] = {
    "depth": float,
    "pool": int,
    "include": _patterns,
    "exclude": _patterns,
}
