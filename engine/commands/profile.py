"""``hacscale profile``: the latency model of a device for a network."""

import argparse
import shlex
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine.commands.options import (
    Commands,
    add_address,
    add_runs_dir,
    check_writable,
    find_recipe,
    names_recipe,
    run_directory,
)
from engine.errors import StorageError, UserError
from engine.limits import Limits
from engine.recipe import Recipe, override
from engine.store import RunStore

if TYPE_CHECKING:
    from engine.exchange import Request
    from engine.graph import NetworkGraph
    from engine.measure import Measurement
    from engine.profiling import Profiling

_PURPOSE = "profile"
_NO_LIMITS = {"latency": "1x", "params": "1x"}
"""A profile needs none, and a recipe some."""


def add(commands: Commands) -> None:
    """Adds the command."""
    profile = commands.add_parser("profile", help="the latency model of a device for a network")
    profile.add_argument(
        "run",
        metavar="RECIPE|FILE.yaml|MODEL|RUN",
        help="what to profile; a RUN with --import only",
    )
    profile.add_argument(
        "--input", metavar="CxHxW", help="default: the data's, 3x224x224 for a MODEL"
    )
    profile.add_argument(
        "--classes",
        type=int,
        metavar="N",
        help="default: the data's, 1000 for a MODEL",
    )
    profile.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="recipe fields, for example device.runtime=onnxruntime",
    )
    profile.add_argument(
        "--out",
        type=Path,
        default=Path("profile.json"),
        metavar="FILE",
        help="where to write the profile, for profile.file; default: profile.json",
    )
    files = profile.add_mutually_exclusive_group()
    files.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="write what to measure on a device elsewhere, and measure.py beside it",
    )
    files.add_argument(
        "--import", dest="table", type=Path, metavar="FILE", help="what measure.py wrote there"
    )
    add_address(profile)
    add_runs_dir(profile)
    profile.set_defaults(command=_profile)


def _profile(arguments: argparse.Namespace, console: Console) -> None:
    table = _read(arguments.table) if arguments.table else None
    if table is not None and _import_into_run(arguments, table, console):
        return
    from engine.exchange import Request, make_plan, read_result, write_plan
    from engine.profile_view import render_profile
    from engine.profiling import write_profile

    try:
        recipe, profiling = _wanted(arguments)
    except UserError as error:
        if table is None or names_recipe(arguments.run):
            raise
        raise UserError(f"{error}; nor is there such a run in {arguments.runs_dir}") from None
    settings, specs = recipe.profile, profiling.specs
    if settings.table:
        _ = profiling.listed  # what it lacks is told before anything is measured
    request = Request(
        purpose=_PURPOSE,
        specs=tuple(specs),
        reference=profiling.base,
        device=recipe.device,
        calls=settings.calls,
        rounds=settings.rounds,
        per_layer=True,
    )
    if arguments.plan:
        check_writable(arguments.plan, "--plan")
        script = write_plan(arguments.plan, make_plan(profiling.graph, request))
        console.print(
            f"{len(specs)} networks are planned. Copy {arguments.plan} and {script} to the device "
            f"and run there\n  python {script.name} {arguments.plan.name} result.csv\nthen here "
            f"repeat this command with --import result.csv in place of --plan",
            soft_wrap=True,
        )
        return
    check_writable(arguments.out, "--out")
    if table is not None:
        measured = read_result(table, request, str(arguments.table))
    else:
        measured = _measured(profiling.graph, request, arguments.address, console)
    result = profiling.result(measured)
    console.print(render_profile(result, measured.timings[0]))
    if measured.warning:
        console.print(measured.warning, soft_wrap=True)
    write_profile(arguments.out, result, measured.timings)
    field = shlex.quote(f"profile.file={arguments.out}")
    console.print(f"written; use it with: hacscale run … --set {field}", soft_wrap=True)


def _measured(
    graph: "NetworkGraph", request: "Request", address: str | None, console: Console
) -> "Measurement":
    """Measures on this machine, or on a node of a Ray cluster; its worker shows no progress."""
    device, calls, rounds = request.device, request.calls, request.rounds
    if device.place == "offline":
        raise UserError(
            "hacscale profile does not reach the device, as device.place is 'offline'; give --plan"
        )
    if device.node_resource:
        from cluster.device import measure
        from cluster.session import session

        console.print(f"measuring {len(request.specs)} networks on {device.place}")
        with TemporaryDirectory() as logs, session(address, Path(logs)) as ray_session:
            ray_session.start()
            return measure(
                request.specs, request.reference, device, calls, rounds, request.per_layer
            )
    if address is not None:
        raise UserError(
            "--address is for a device that is a node of a cluster; set device.place=node:RESOURCE"
        )
    from engine.measure import measure_here

    with _bar(console) as bar:
        task = bar.add_task("measuring", total=None) if bar else None

        def show(done: int, total: int) -> None:
            if bar is not None and task is not None:
                bar.update(task, completed=done, total=total)

        return measure_here(
            graph, request.specs, request.reference, device,
            calls=calls, rounds=rounds, per_layer=request.per_layer, on_progress=show,
        )  # fmt: skip


def _import_into_run(arguments: argparse.Namespace, table: bytes, console: Console) -> bool:
    """Imports a table into a run; returns whether the argument names one that waits for it."""
    from cluster.measuring import awaited, import_result
    from engine.exchange import plan_of

    try:
        store = RunStore(run_directory(arguments))
    except StorageError:
        raise
    except UserError:
        return False
    waits_for_it = awaited(store) == plan_of(table, str(arguments.table))
    if not waits_for_it and _names_network(arguments):
        return False
    measured = import_result(store, table, str(arguments.table))
    console.print(
        f"{len(measured.timings)} networks measured on {measured.key.device} are in the run. Go on "
        f"with:\n  hacscale resume {shlex.quote(store.location)}",
        soft_wrap=True,
    )
    return True


def _names_network(arguments: argparse.Namespace) -> bool:
    try:
        _wanted(arguments)
    except UserError:
        return False
    return True


def _wanted(arguments: argparse.Namespace) -> "tuple[Recipe, Profiling]":
    """The recipe that the arguments stand for, and what its profile asks for."""
    from engine.check import model_ref
    from engine.graph import load_graph
    from engine.profiling import Profiling
    from engine.scaling import feasible_resolutions

    name, size, classes = arguments.run, arguments.input, arguments.classes
    if names_recipe(name):
        recipe = override(find_recipe(name, _NO_LIMITS)[0], arguments.set)
        if size is None or classes is None:
            from cluster.dataset import facts_of, read_data
            from cluster.network import BaseNetwork

            made = BaseNetwork(recipe=recipe, facts=facts_of(read_data(recipe))).ref
            side = recipe.data.resolution
            size = size or f"{made.channels}x{side}x{side}"
            classes = made.classes if classes is None else classes
    else:
        recipe = override(Recipe(model=name, limits=Limits(**_NO_LIMITS)), arguments.set)
    ref, resolution = model_ref(
        recipe.model, size or "3x224x224", 1000 if classes is None else classes
    )
    graph = load_graph(ref, resolution)
    base = graph.spec(resolution, recipe.width)
    alpha = recipe.alpha
    resolutions = feasible_resolutions(
        graph, base, alpha.low, alpha.high, alpha.budget, alpha.round_to
    )
    profiling = Profiling(graph=graph, base=base, resolutions=resolutions, settings=recipe.profile)
    return recipe, profiling


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _bar(console: Console) -> "Progress | nullcontext[None]":
    """A bar on a terminal, nothing elsewhere."""
    if not console.is_terminal:
        return nullcontext()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
