"""Checks every network of torchvision and writes the table in docs/networks.md.

    python benchmarks/zoo.py [NAME …]

With names only these are checked and nothing is written.
"""

import sys
import time

import torch
import torchvision
from record import write_block
from torchvision import models

from engine.check import NetworkCheck, check_network
from engine.errors import UserError
from engine.spec import ModelRef

RESOLUTION = 224
CLASSES = 1000
CIFAR = ("vgg11", "vgg13", "vgg16", "vgg19")

TABLE = """## torchvision {torchvision}

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
        write_block("networks.md", "zoo", table)


if __name__ == "__main__":
    main()
