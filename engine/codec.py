"""Frozen dataclasses to JSON and back: strict on types, closed to unknown keys.

What is written is canonical (sorted keys, no spaces, no NaN), so that equal values have equal
bytes and a digest of the bytes identifies the value.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from engine.errors import UserError, nearest

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""For ``__pydantic_config__`` of every dataclass that is read from a file."""

_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


def jsonable(value: Any) -> Any:
    """Returns the plain JSON value of a dataclass tree, mapping, sequence or scalar.

    Equal values have equal JSON: 2 in a float field is written 2.0, and −0.0 is written 0.0.
    """
    return _plain(Any, value, sparse=False)


def _plain(declared: Any, value: Any, *, sparse: bool) -> Any:
    """The JSON value; ``sparse`` leaves out the fields of dataclasses that are None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {
            f.name: _plain(f.type, v, sparse=sparse) for f, v in held if not (sparse and v is None)
        }
    if isinstance(value, dict):
        kind = _item(declared, dict, 1)
        return {str(k): _plain(kind, v, sparse=sparse) for k, v in value.items()}
    if isinstance(value, list | tuple):
        items = cast(Sequence[Any], value)
        return [
            _plain(_item(declared, type(value), i), v, sparse=sparse) for i, v in enumerate(items)
        ]
    if type(value) is int and float in _alternatives(declared):
        return float(cast(int, value))
    return value + 0.0 if isinstance(value, float) else value


def _alternatives(declared: Any) -> tuple[Any, ...]:
    return get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)


def _item(declared: Any, container: type, index: int) -> Any:
    """The declared type of one item of a container: ``tuple[int, float]``, ``dict[str, float]``."""
    for kind in _alternatives(declared):
        if get_origin(kind) is container:
            arguments = get_args(kind)
            last = 0 if arguments[-1] is Ellipsis else len(arguments) - 1
            return arguments[min(index, last)]
    return Any


def canonical(value: Any) -> bytes:
    """Returns canonical JSON bytes: one value, one spelling.

    Raises:
        ValueError: a float in ``value`` is NaN or infinite.
    """
    return _json(jsonable(value))


def _json(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def pretty(value: Any) -> bytes:
    """Returns indented JSON bytes for files that people open."""
    return (json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n").encode()


def digest(value: Any) -> str:
    """Returns the first 16 hex digits of the SHA-256 of the canonical JSON of ``value``.

    Fields of dataclasses that are None are left out, so that a dataclass may grow an optional
    field and what was written before keeps its identity.
    """
    return hashlib.sha256(_json(_plain(Any, value, sparse=True))).hexdigest()[:16]


def decode(kind: type[T], data: bytes | str, what: str) -> T:
    """Reads JSON into ``kind``.

    Args:
        kind: a dataclass or any type that pydantic knows.
        data: JSON text.
        what: how messages call it, for example a file name or "the recipe".

    Raises:
        UserError: not JSON, an unknown key (with the nearest known one), a missing key or a
            wrong type. Only the first problem is named.
    """
    try:
        return _adapter(kind).validate_json(data)
    except ValidationError as error:
        raise UserError(f"{what}: {_first_problem(kind, error)}") from None


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _first_problem(kind: Any, error: ValidationError) -> str:
    # An unknown key comes first: the missing one it was meant for is only its echo.
    problems = sorted(error.errors(), key=lambda e: e["type"] != "unexpected_keyword_argument")
    problem = problems[0]
    path = _fields_of(kind, problem["loc"])
    where = ".".join(path)
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown key '{where}'{nearest(path[-1], _fields_at(kind, path[:-1]))}"
    if problem["type"] == "json_invalid":
        return f"not valid JSON ({problem['msg'].removeprefix('Invalid JSON: ')})"
    # Of a union, every type that it may have has a problem of its own.
    same = [p["msg"] for p in problems if _fields_of(kind, p["loc"]) == path]
    message = " or ".join([same[0], *(m.removeprefix("Input should be ") for m in same[1:])])
    message = message.removeprefix("Value error, ")
    shown = repr(problem["input"])
    shown = f"{shown[:_SHOWN]}…" if len(shown) > _SHOWN else shown
    found = "" if problem["type"] in ("value_error", "missing") else f", not {shown}"
    return f"{where}: {message}{found}" if where else f"{message}{found}"


def _fields_of(kind: Any, location: Sequence[str | int]) -> list[str]:
    """Where a problem is, without the names that pydantic has for the types of a union."""
    path: list[str] = []
    for part in location:
        kinds = [one for one in _alternatives(kind) if one is not type(None)]
        if len(kinds) > 1:
            kind = Any
            continue
        path.append(str(part))
        known = dataclasses.fields(kinds[0]) if dataclasses.is_dataclass(kinds[0]) else ()
        kind = {f.name: f.type for f in known}.get(str(part), Any)
    return path


def _fields_at(kind: Any, path: list[str]) -> list[str]:
    """The field names of the dataclass found by walking ``path`` from ``kind``."""
    for part in path:
        if dataclasses.is_dataclass(kind):
            kind = {f.name: f.type for f in dataclasses.fields(kind)}.get(part)
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
