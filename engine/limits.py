"""The user's limits, as ratios to the baseline or as absolute values, and what they come to."""

import math
import re
from dataclasses import dataclass

from engine.codec import STRICT
from engine.errors import UserError

_NUMBER = re.compile(r"^\s*([-+]?[0-9.]+(?:e[-+]?\d+)?)\s*([a-zA-Z]*)\s*$")
_TOO_LARGE = 1e15
_LATENCY_UNITS = {"ms": 1}
_PARAM_UNITS = {"": 1, "K": 10**3, "k": 10**3, "M": 10**6, "m": 10**6, "G": 10**9}
_SMALLER = "take a smaller base network (width=0.5, a lower data.resolution)"
_MEMORY_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a network uses of each limited resource.

    Attributes:
        memory_bytes: of weights and of activations at their peak (`engine.memory`); None where
            memory is not limited.
    """

    __pydantic_config__ = STRICT

    latency_ms: float
    params: int
    memory_bytes: int | None = None

    def within(self, limit: "Usage") -> bool:
        """Whether no resource exceeds ``limit``.

        A memory that is not known does not keep a limit.
        """
        return (
            self.latency_ms <= limit.latency_ms
            and self.params <= limit.params
            and (
                limit.memory_bytes is None
                or (self.memory_bytes is not None and self.memory_bytes <= limit.memory_bytes)
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits as the user states them.

    Attributes:
        latency: ``"1.065x"`` (a ratio to the baseline) or ``"8ms"``.
        params: ``"1.33x"`` or a count of parameters: ``"12000000"``, ``"12M"``.
        memory: of weights and activations together, ``"1.5x"``, ``"900KB"``, ``"12MB"`` or
            ``"1.5GB"`` (10⁹ bytes); null for no limit.
    """

    __pydantic_config__ = STRICT

    latency: str
    params: str
    memory: str | None = None

    def __post_init__(self) -> None:
        _parse("latency", self.latency, _LATENCY_UNITS)
        _parse("params", self.params, _PARAM_UNITS)
        if self.memory is not None:
            _parse("memory", self.memory, _MEMORY_UNITS)

    @property
    def latency_is_ratio(self) -> bool:
        """Whether the latency is told as a ratio to the baseline."""
        return _parse("latency", self.latency, _LATENCY_UNITS)[1]

    def resolve(self, baseline: Usage) -> Usage:
        """Returns the absolute limits for a measured baseline, whose memory is known if limited.

        Raises:
            UserError: the baseline itself breaks a limit.
        """
        latency = _resolve(_parse("latency", self.latency, _LATENCY_UNITS), baseline.latency_ms)
        params = _resolve(_parse("params", self.params, _PARAM_UNITS), baseline.params)
        if latency < baseline.latency_ms:
            least = math.ceil(baseline.latency_ms * 1000) / 1000
            raise UserError(
                f"the latency limit {self.latency} is below the baseline's own "
                f"{baseline.latency_ms:.3f} ms; {_SMALLER}, or give at least {least:.3f}ms"
            )
        if _whole(params) < baseline.params:
            raise UserError(
                f"the parameter limit {self.params} is below the baseline's own "
                f"{baseline.params}; {_SMALLER}, or give at least {baseline.params}"
            )
        return Usage(latency_ms=latency, params=_whole(params), memory_bytes=self._memory(baseline))

    def _memory(self, baseline: Usage) -> int | None:
        if self.memory is None:
            return None
        used = baseline.memory_bytes
        if used is None:
            raise ValueError("the memory is limited, but that of the baseline is not given")
        limit = _resolve(_parse("memory", self.memory, _MEMORY_UNITS), used)
        if _whole(limit) < used:
            raise UserError(
                f"the memory limit {self.memory} is below the baseline's own {used / 1000:.1f} KB "
                f"of weights and activations; {_SMALLER}, or give at least "
                f"{math.ceil(used / 1000)}KB"
            )
        return _whole(limit)


def _parse(field: str, text: str, units: dict[str, int]) -> tuple[float, bool]:
    """Returns the number and whether it is a ratio."""
    match = _NUMBER.match(text)
    unit = match[2] if match else ""
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or unit not in {"x", *units}:
        known = "', '".join(["1.33x", *(f"8{u}" for u in units)])
        raise ValueError(f"{field} must look like '{known}', not {text!r}")
    if number <= 0:
        raise ValueError(f"{field} must be above zero, not {text!r}")
    if number >= _TOO_LARGE:
        raise ValueError(f"{field} must be below {_TOO_LARGE:g}, not {text!r}")
    if not unit and not number.is_integer():
        raise ValueError(f"{field} must be a whole number or a ratio as in '1.33x', not {text!r}")
    if unit == "x" and number < 1:
        raise ValueError(
            f"{field} {text!r} is below the baseline itself; give a ratio of at least 1x"
        )
    return (number, True) if unit == "x" else (number * units[unit], False)


def _whole(count: float) -> int:
    """Rounds down; 8.2 million is 8,199,999.999999999 in binary, and means 8,200,000."""
    return math.floor(count * (1 + 1e-12))


def _resolve(limit: tuple[float, bool], baseline: float) -> float:
    number, is_ratio = limit
    return number * baseline if is_ratio else number
