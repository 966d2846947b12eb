"""``hacscale plan``: what a search is going to take, before anything is booked."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from engine.commands.doctor import show_checks
from engine.commands.options import Commands, add_address
from engine.commands.search import add_recipe, asked_search, max_hours
from engine.storage import open_folder

if TYPE_CHECKING:
    from cluster.plan import Plan


def add(commands: Commands) -> None:
    """Adds the command."""
    plan = commands.add_parser(
        "plan", help="what a search is going to take, by some seconds of training"
    )
    add_recipe(plan)
    add_address(plan)
    plan.set_defaults(command=_plan)


def _plan(arguments: argparse.Namespace, console: Console) -> None:
    search = asked_search(arguments)
    limit = max_hours(arguments)
    from cluster.doctor import judge_cluster
    from cluster.machine import this_machine
    from cluster.nodes import inspect_nodes
    from cluster.plan import make_plan
    from cluster.session import session

    if limit is not None:
        limit.check(search.recipe.cluster)
    runs_dir = open_folder(arguments.runs_dir).location
    with TemporaryDirectory() as logs, session(arguments.address, Path(logs)) as ray_session:
        ray_session.start()
        ray_session.require(search.recipe, console.print)
        nodes = inspect_nodes(runs_dir)
        plan = make_plan(search.recipe)
    _show(plan, search.recipe.cluster.uses_gpus, console)
    checks = [*judge_cluster(nodes, this_machine(runs_dir), runs_dir)]
    noted = [check for check in checks if check.state != "ok"]
    console.print(f"{len(nodes)} nodes, {len(checks)} checks, {len(noted)} not ok")
    failed = show_checks(noted, console)
    if limit is not None:
        plan.check(limit)
    if failed:
        raise SystemExit(1)


def _show(plan: "Plan", gpus: bool, console: Console) -> None:
    kind = "gpu" if gpus else "cpu"
    table = Table(box=None, pad_edge=False)
    packed = ("per GPU",) if gpus else ()
    hours = f"{kind.upper()}-hours"
    for column in ("stage", "trainings", "M MACs", "at once", *packed, hours, "time"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in plan.stages:
        low, high = (macs / 1e6 for macs in (min(stage.macs), max(stage.macs)))
        table.add_row(
            stage.stage,
            str(len(stage.macs)),
            f"{low:.4g}" if low == high else f"{low:.4g}–{high:.4g}",
            str(stage.at_once),
            *((str(stage.per_gpu),) if gpus else ()),
            f"{getattr(stage, f'{kind}_hours'):.3g}",
            _clock(stage.elapsed_s),
        )
    table.add_row(
        "all", "", "", "", *("" for _ in packed), f"{plan.hours(kind):.3g}", _clock(plan.elapsed_s)
    )
    console.print(table)
    console.print(
        f"expected from {plan.seconds_per_gmac:.3g} s per 10⁹ MACs of the base network on one "
        "worker, for every epoch MACs × (3 × training + validation images); measurements and the "
        "start of workers come on top",
        soft_wrap=True,
    )
    if plan.most is not None and plan.most.elapsed_s > plan.elapsed_s:
        console.print(
            "latency is taken to grow as the MACs do; where it grows less (small networks), it "
            f"is up to about {plan.most.hours(kind):.3g} {hours} in {_clock(plan.most.elapsed_s)}",
            soft_wrap=True,
        )
    if plan.packing_measured:
        console.print(
            "how many share a GPU was measured with the largest network of the stage; that none "
            "slows the others is assumed",
            soft_wrap=True,
        )
    console.print(
        f"storage: {_size(plan.store_bytes)} where runs are kept, {_size(plan.data_bytes)} of data "
        "in the memory of every node",
        soft_wrap=True,
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
