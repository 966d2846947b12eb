"""``hacscale check``: whether a network can be scaled, and how."""

import argparse
import sys

from rich.console import Console

from engine.commands.options import Commands


def add(commands: Commands) -> None:
    """Adds the command."""
    check = commands.add_parser("check", help="whether a network can be scaled, and how")
    check.add_argument("model", help="vgg11, resnet18, package.module:factory, …")
    check.add_argument("--input", default="3x224x224", metavar="CxHxW", help="default: 3x224x224")
    check.add_argument("--classes", type=int, default=1000, metavar="N", help="default: 1000")
    for option in ("--include", "--exclude"):
        check.add_argument(
            option, action="append", default=[], metavar="PATTERN", help="of width groups: 'stem.*'"
        )
    check.add_argument(
        "--adaptive-pool",
        action="store_true",
        help="keep linear layers the same at every resolution",
    )
    check.set_defaults(command=_check)


def _check(arguments: argparse.Namespace, console: Console) -> None:
    from engine.check import check_network, model_ref
    from engine.check_view import render_check

    ref, resolution = model_ref(
        arguments.model,
        arguments.input,
        arguments.classes,
        include=arguments.include,
        exclude=arguments.exclude,
        adaptive_pool=arguments.adaptive_pool,
    )
    check = check_network(ref, resolution)
    console.print(render_check(check))
    if not check.passed:
        sys.exit(1)
