"""YAML as recipes use it: YAML 1.2's plain scalars, and nothing that means more than it says."""

import re
from typing import Any

import yaml

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PLAIN_TAGS = {"", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))}


def load_yaml(text: str) -> Any:
    """Reads one YAML document into dicts, lists and scalars.

    PyYAML's own loader follows YAML 1.1, where ``1e-3`` is a text, ``1:30`` the number 90, ``no``
    a boolean and the last of two equal keys wins. Here 1e-3 is a number, times and dates are
    texts, and equal keys, anchors and tags are errors.

    Raises:
        ValueError: not YAML, or more than is allowed here; one line.
    """
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        return None if node is None else _value(node, set())
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _value(node: yaml.Node, seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise ValueError(f"line {line} has an anchor that is used again; write its value out")
    seen.add(id(node))
    if node.tag not in _PLAIN_TAGS:
        raise ValueError(f"line {line} has the tag {node.tag!r}; leave it out")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, seen)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, seen) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node.value) if node.style is None else node.value


def _mapping(node: yaml.MappingNode, seen: set[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"the key in line {line} is not a word")
        if key.value in found:
            raise ValueError(f"the key {key.value!r} in line {line} is there twice")
        found[key.value] = _value(value, seen)
    return found


def _scalar(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text
