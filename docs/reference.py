"""Writes docs/recipe.md from the docstrings of the recipe: ``python docs/reference.py``."""

import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from engine.recipe import Recipe
from engine.training import TRAININGS, Training

_ATTRIBUTE = re.compile(r"^    (\w+(?:, \w+)*): (.*)$")

_HEAD = """\
# The recipe

A recipe decides everything about the result of a run. `hacscale recipes` lists the named ones; any
field is changed with `--set`:

```sh
hacscale run digits-vgg11 --set alpha.trials=8 train.epochs=20
```

A YAML file holds the same keys. Only `limits` is required, if not given by `--latency` and
`--params`; unknown keys are errors, and a field
that is left out has the default below:

```yaml
# mine.yaml: hacscale run mine.yaml
model: resnet18
data: {source: "imagefolder:flowers", resolution: 64, stored_resolution: 128}  # docs/data.md
limits: {latency: 1.5x, params: 12M}  # params: 100x leaves parameters free
sample: {networks: 12}
train: {epochs: 40, batch_size: 128, lr: 0.1}
```

Values are plain YAML 1.2: `1e-3` is a number, dates are texts, and equal keys, anchors and tags are
errors. After `--set`, `data=SOURCE` is short for `data.source=SOURCE`, whose value is taken as
it is, and other `epochs` of a training take its `warmup_epochs` and `milestones` along, unless
these are set too.

This page is made of the docstrings in `engine/recipe.py` and `engine/training.py` by
`python docs/reference.py`.
"""

_TRAININGS = """\
`train`, `alpha.training` and `sample.training` have these fields. In place of them the name of a
training may stand, as in `--set train=paper-cifar`; it must then come before changes to single
fields. Writing any field of a training in a file replaces all of it by the column `default`, and
`epochs` is then required; to change single fields of `fast`, use `--set train.lr=0.2`.
"""


def render_recipe() -> str:
    """Returns docs/recipe.md."""
    parts = [_HEAD, _section("The run", "", Recipe)]
    for field in fields(Recipe):
        if is_dataclass(field.type) and field.type is not Training:
            parts.append(_section(f"`{field.name}`", f"{field.name}.", field.type))
    parts.append(_trainings())
    return "\n".join(parts)


def meanings(kind: type) -> dict[str, str]:
    """Returns what the docstring of a dataclass says of each attribute, on one line each."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].splitlines():
        match = _ATTRIBUTE.match(line)
        if match:
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _section(title: str, prefix: str, kind: Any) -> str:
    said = meanings(kind)
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in fields(kind):
        if field.type is Training:
            default = f"{_training(_default(field))}, see [trainings](#trainings)"
            rows.append(_row(prefix + field.name, "training", default, said[field.name]))
        elif not is_dataclass(field.type):
            default = "required" if _is_required(field) else _value(_default(field))
            rows.append(_row(prefix + field.name, _type(field.type), default, said[field.name]))
    lead = inspect.cleandoc(kind.__doc__ or "").split("\n\nAttributes:")[0]
    return f"## {title}\n\n{_text(lead)}\n\n" + "\n".join(rows) + "\n"


def _trainings() -> str:
    said = meanings(Training)
    names = " | ".join(f"`{name}`" for name in TRAININGS)
    rows = [f"| key | type | default | {names} | meaning |", "| --- " * (4 + len(TRAININGS)) + "|"]
    for field in fields(Training):
        default = "required" if _is_required(field) else _value(_default(field))
        named = [_value(getattr(training, field.name)) for training in TRAININGS.values()]
        rows.append(_row(field.name, _type(field.type), default, *named, said[field.name]))
    return f"## Trainings\n\n{_TRAININGS}\n" + "\n".join(rows) + "\n"


def _training(training: Training) -> str:
    for name, known in TRAININGS.items():
        if training == known:
            return f"`{name}`"
        if training == known.for_epochs(training.epochs):
            return f"`{name}` cut to {training.epochs} epochs"
    raise ValueError(f"no named training is like {training}")


def _is_required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _type(declared: Any) -> str:
    if get_origin(declared) is Literal:
        return ", ".join(_value(choice) for choice in get_args(declared))
    if get_origin(declared) is tuple:
        return f"list of {_type(get_args(declared)[0])}s"
    if get_args(declared):
        return " or ".join(_type(kind) for kind in get_args(declared))
    words = {int: "integer", float: "number", str: "text", bool: "boolean", type(None): "null"}
    return words[declared]


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, float):
        return f"`{value:g}`"
    if value == "":
        return '`""`'
    return "`null`" if value is None else f"`{str(value).lower()}`"


def _row(key: str, *cells: str) -> str:
    return " | ".join([f"| `{key}`", *(_text(cell).replace("|", "\\|") for cell in cells)]) + " |"


def _text(docstring: str) -> str:
    return docstring.replace("``", "`")


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(render_recipe(), encoding="utf-8")
