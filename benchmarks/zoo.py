"""Checks every network of torchvision and writes docs/networks.md.

    python benchmarks/zoo.py [NAME …]

With names only these are checked and nothing is written.
"""

import sys
import time
from pathlib import Path

import torch
import torchvision
from torchvision import models

from engine.check import NetworkCheck, check_network
from engine.depth import FAMILIES
from engine.errors import UserError
from engine.spec import ModelRef

RESOLUTION = 224
CLASSES = 1000
PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
CIFAR = ("vgg11", "vgg13", "vgg16", "vgg19")

TEXT = """# Networks

Any convolutional `nn.Module` that `torch.fx` can trace can be scaled: one of torchvision by its
name, or your own by `package.module:factory`, a function that is called with the number of classes
and returns the module. Ask first:

```sh
hacscale check resnet18 --input 3x224x224 --classes 1000
hacscale check my_models:make_net --input 3x64x64 --classes 10 --exclude 'stem.*'
```

`check` lists the width groups: sets of channels that must change together, because they are summed,
multiplied, normalised in groups or read by a depthwise convolution. It widens each alone and all
together by random amounts, rebuilds the network, runs it forward and backward on the meta device,
compares the shape of every op with what it expects, and counts MACs and parameters with PyTorch.
Networks up to 500 M MACs are also run with real numbers. The exit code is 0 for a pass, 1 for a
failure and 2 for a network that is refused.

The channels of the image and of the output never change. Neither do channels that the program
counts off by a number, as in `x[:, :32]` or `torch.split(x, 32, 1)`.

## Options in the name

A model's name is its identity, so options are part of it, behind an `@` and in this order:

| option | example | meaning |
| --- | --- | --- |
| `depth` | `resnet18@depth=1.5` | repeats of every stage times 1.5, rounded |
| `pool` | `my_models:lenet@pool=5` | features are averaged to 5×5 before they are flattened |
| `include` | `resnet18@include=layer3.*+layer4.*` | only these width groups change |
| `exclude` | `resnet18@exclude=conv1+layer1.*` | these width groups keep their widths |

`depth` is for {families}.

Patterns are those of file names. A pattern that fits only some of the layers of a group is refused:
what changes together is included or excluded together.

## Resolution

Every network can be built for any resolution that its windows fit into. Where height and width
are flattened into a linear layer, that layer has other features at another resolution; `check`
names it, because then the parameters depend on the resolution. `pool`, or `check --adaptive-pool`,
which finds the size, puts an `nn.AdaptiveAvgPool2d` before the flatten: the layer then is the same
at every resolution, and at its own resolution the network computes what it did.

## What is refused

One sentence names the layer or node: control flow that depends on tensors or their shapes, shapes
with constants such as `view(-1, 512)`, attention and other layers and ops that are not known,
linear layers over height or width, weights shared by two layers or behind a parametrisation, more
than one input or output.
"""

TABLE = """
## torchvision {torchvision}

Made by `python benchmarks/zoo.py` with PyTorch {torch}, {classes} classes, 3×{size}×{size} images.
{passed} of {total} networks pass: parameters and MACs are equal to PyTorch's counts with every
width changed. `vgg11` to `vgg19` are the CIFAR forms with batch norm and one linear layer.

| network | width groups | parameters | MACs | verdict |
| --- | ---: | ---: | ---: | --- |
{rows}
"""


def row(name: str, found: NetworkCheck | UserError) -> str:
    if isinstance(found, UserError):
        reason = str(found).removeprefix(f"model '{name}', ")
        return f"| {name} | | | | refused: {reason} |"
    failures = [f"{check.group.name}: {check.failure}" for check in found.groups if check.failure]
    verdict = "pass" if found.passed else f"**fails**: {(*failures, found.failure)[0]}"
    numbers = f"{len(found.groups)} | {found.params:,} | {found.macs / 1e6:,.1f} M"
    return f"| {name} | {numbers} | {verdict} |"


def checked(name: str) -> NetworkCheck | UserError:
    try:
        return check_network(ModelRef(name=name, classes=CLASSES), RESOLUTION)
    except UserError as error:
        return error


def main() -> None:
    names = sys.argv[1:] or sorted({*models.list_models(module=models), *CIFAR})
    rows: list[str] = []
    passed = 0
    for name in names:
        began = time.process_time()
        found = checked(name)
        passed += isinstance(found, NetworkCheck) and found.passed
        rows.append(row(name, found))
        print(f"{time.process_time() - began:6.1f} s  {rows[-1]}", flush=True)
    if not sys.argv[1:]:
        table = TABLE.format(
            torchvision=torchvision.__version__.partition("+")[0],
            torch=torch.__version__.partition("+")[0],
            classes=CLASSES,
            size=RESOLUTION,
            passed=passed,
            total=len(names),
            rows="\n".join(rows),
        )
        PAGE.write_text(TEXT.format(families=FAMILIES) + table, encoding="utf-8")


if __name__ == "__main__":
    main()
