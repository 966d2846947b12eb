"""How fast Algorithm 1 runs, and what incremental costs are worth.

    python benchmarks/allocation.py

Networks of 8, 20 and 50 width groups, VGG forms at 32 px, and the named ones are widened to twice
their latency and parameters, over a latency model of the default kind. It is fitted to the
synthetic device, made slower by half beyond 100 input channels: no physical size has that step, so
that the model is given the boosted corrections that it has on most real devices, and that cost
most of a question. The ratio compares questions of the allocator that are new to it, one for every
group, with predictions of the whole networks, interleaved in the same run. These times are CPU time
of the one thread.

"Three limits" is `hacscale allocate` with three latency limits, by Algorithm 1 and by the response
surface, which runs it with each of its rules; "frontier" the same with `--frontier`. They are asked
of a run that has such a network: wall clock of the whole command, its start included.
Writes docs/results/allocation.json, docs/allocation.svg and the table in docs/allocation.md.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from panels import board, keys, write_board
from record import machine, options, run, spread, write_block, write_results
from torch import nn

from engine.allocation import allocate
from engine.budgets import FILE, Budgets
from engine.codec import canonical
from engine.costs import LayerCost
from engine.drawing import ACCENT, INK, drawing_style
from engine.graph import NetworkGraph, load_graph
from engine.hardware.contract import Box
from engine.hardware.insitu import InSitu, fit
from engine.latency import profile_specs
from engine.limits import Usage
from engine.measure import Timing, time_networks
from engine.provenance import run_info
from engine.recipe import Allocate, Device, Profile
from engine.recipes import RECIPES
from engine.response import ResponseSurface
from engine.results import ImportancePredictor
from engine.spec import ModelRef, NetworkSpec
from engine.store import RunStore
from engine.widening import LayerCosts, NetworkWidening, plateaus

CHAIN = "allocation:chain"
NETWORKS = {
    **{f"{CHAIN}{groups}": 32 for groups in (8, 20, 50)},
    **{"vgg11": 32, "resnet18": 224, "resnet50": 224},
}
LIMITS = ("--latency", "1.5x", "2x", "2.5x", "--params", "2x")
COMMANDS = {
    "limits": LIMITS,
    "limits by response": (*LIMITS, "--method", "response"),
    "frontier": ("--frontier", "--params", "2x"),
}
"""What `hacscale allocate` is asked."""
PROGRAM = "from engine.cli import main; main()"
PREDICTOR = ImportancePredictor(a=1.0, b=-1.2, b_se=0.1, r2=0.9, sum_r2=0.5, flag="")


def chain(groups: int, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for k in range(groups):
        width = 32 if k < groups // 2 else 64
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def chain8(classes: int) -> nn.Module:
    return chain(8, classes)


def chain20(classes: int) -> nn.Module:
    return chain(20, classes)


def chain50(classes: int) -> nn.Module:
    return chain(50, classes)


def stepped(timing: Timing, graph: NetworkGraph) -> Timing:
    """The timing on a device that is slower by half beyond 100 input channels."""
    measured_ms = timing.layer_ms
    assert measured_ms is not None

    def ms(cost: LayerCost) -> float:
        return measured_ms[cost.name] * (1.5 if cost.cin > 100 else 1.0)

    layers = {cost.name: ms(cost) for cost in graph.cost(timing.spec).layers}
    latency = replace(timing.latency, ms=sum(layers.values()))
    return replace(timing, latency=latency, layer_ms=layers)


def fitted(graph: NetworkGraph, base: NetworkSpec) -> InSitu:
    resolution, profile = base.resolution, Profile()
    specs, _ = profile_specs(graph, base, [resolution], profile)
    timings = time_networks(
        graph, specs, base, Device(runtime="synthetic"), calls=3, rounds=2, per_layer=True
    ).timings
    box = Box.around(graph, base, [resolution], profile)
    return fit(graph, [stepped(timing, graph) for timing in timings], box, 1)


def commands(budgets: Budgets, repeats: int) -> dict[str, list[float]]:
    """Seconds of every command of `COMMANDS` on a run that left these budgets."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as run_folder:
        store = RunStore(run_folder)
        store.write_info(run_info("allocation", "digits-vgg11", RECIPES["digits-vgg11"]()))
        store.folder.write(FILE, canonical(budgets))
        for name, words in repeats * tuple(COMMANDS.items()):
            line = [sys.executable, "-c", PROGRAM, "allocate", run_folder, *words]
            began = time.perf_counter()
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
            found[name].append(time.perf_counter() - began)
    return found


def measured(name: str, resolution: int, repeats: int) -> dict[str, Any]:
    graph = load_graph(ModelRef(name=name, classes=10), resolution)
    base = graph.spec(resolution)
    model, formula = fitted(graph, base), graph.formula(base)
    predictors = {group.name: PREDICTOR for group in graph.groups}
    cost = graph.cost(base)
    budgets = Budgets(
        base=base,
        formula=formula,
        predictors=predictors,
        model=model.to_json(),
        settings=Allocate(),
        baseline=Usage(latency_ms=model.predict(cost), params=cost.params),
        batch=1,
        surface=ResponseSurface(
            base=base.width_of,
            base_resolution=resolution,
            floor=1.0,
            gains={group.name: 0.1 / (i + 1) for i, group in enumerate(graph.groups)},
            resolution_gain=0.0,
            exponent=0.5,
            pull=1.0,
            rmse=0.1,
            r2=0.9,
        ),
    )
    seconds: list[float] = []
    ratios: list[float] = []
    steps = 0
    for _ in range(repeats):
        widening = NetworkWidening(LayerCosts(formula, model))
        start = widening.usage
        limit = Usage(latency_ms=2 * start.latency_ms, params=2 * start.params)
        began = time.thread_time()
        found = allocate(
            widening, predictors, limit, Allocate(),
            base=base.width_of, multiples=formula.rounding, plateaus=plateaus(formula, model),
        )  # fmt: skip
        seconds.append(time.thread_time() - began)
        steps = len(found.steps)
        fresh = NetworkWidening(LayerCosts(formula, model))
        incremental = whole = 0.0
        for group in graph.groups:
            wider = base.width_of[group.name] + 8 * group.multiple
            began = time.thread_time()
            fresh.after(group.name, wider)
            asked = time.thread_time()
            model.predict(graph.cost(base.with_widths({group.name: wider})))
            incremental += asked - began
            whole += time.thread_time() - asked
        ratios.append(whole / incremental)
    row: dict[str, Any] = {
        "resolution": resolution,
        "groups": len(graph.groups),
        "ops": len(formula.layers),
        "corrected_ops": sum(model.op_model(layer).correction is not None for layer in cost.layers),
        "steps": steps,
        "seconds": spread(seconds),
        "steps_per_second": spread([steps / s for s in seconds]),
        "whole_over_incremental": spread(ratios),
        "command": {name: spread(taken) for name, taken in commands(budgets, repeats).items()},
    }
    print(
        f"{title(name):14} {row['groups']:3} groups {steps:5} steps "
        f"{row['seconds']['median']:.3f} s  {row['steps_per_second']['median']:.0f} steps/s  "
        f"whole / incremental {row['whole_over_incremental']['median']:.1f}  three limits "
        f"{row['command']['limits']['median']:.2f} s, "
        f"by response {row['command']['limits by response']['median']:.2f} s",
        flush=True,
    )
    return row


def title(name: str) -> str:
    return f"chain of {name.removeprefix(CHAIN)}" if name.startswith(CHAIN) else name


def draw(rows: dict[str, dict[str, Any]], out: Path) -> None:
    panels = {
        "Steps per second against width groups": "steps_per_second",
        "Whole prediction / one question": "whole_over_incremental",
    }
    with drawing_style():
        drawing, axes = board(list(panels), left=56)
        for ax, field in zip(axes, panels.values(), strict=True):
            for name, row in rows.items():
                value, colour = row[field], ACCENT if name.startswith(CHAIN) else INK
                bars = [[value["median"] - value["min"]], [value["max"] - value["median"]]]
                ax.errorbar(
                    row["groups"], value["median"], yerr=bars, fmt="o", color=colour, capsize=3
                )
                if not name.startswith(CHAIN):
                    at = (row["groups"], value["median"])
                    ax.annotate(name, at, (7, -12), textcoords="offset points", color=colour)
            chains = [row for name, row in rows.items() if name.startswith(CHAIN)]
            ax.plot(
                [row["groups"] for row in chains],
                [row[field]["median"] for row in chains],
                "o-",
                color=ACCENT,
                linewidth=1,
                label="chains of 3×3 convolutions",
            )
            keys(ax)
            ax.set_xlim(0, 1.25 * max(row["groups"] for row in rows.values()))
            ax.set_ylim(bottom=0)
            ax.set_xlabel("width groups")
        write_board("allocation", drawing, out)


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| network | groups | ops | steps | seconds | steps per second | whole / incremental "
        "| three limits, s | by response, s | frontier, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        seconds, speed, ratio = (
            row[field] for field in ("seconds", "steps_per_second", "whole_over_incremental")
        )
        command = " | ".join(f"{row['command'][asked]['median']:.2f}" for asked in COMMANDS)
        lines.append(
            f"| {title(name)} | {row['groups']} | {row['ops']} | {row['steps']} "
            f"| {seconds['median']:.3f} ({seconds['min']:.3f}–{seconds['max']:.3f}) "
            f"| {speed['median']:,.0f} | {ratio['median']:.1f} | {command} |"
        )
    lines += [
        "",
        f"Medians of CPU time on one core (least–most); the last three are the wall clock of "
        f"`hacscale allocate` with three latency limits, by Algorithm 1 and by the response "
        f"surface, and with `--frontier`. {machine()}",
    ]
    lines += ["", "![Steps per second, and the ratio, against groups](allocation.svg)"]
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: measured(name, NETWORKS[name], chosen.repeats) for name in chosen.networks}
    write_results("allocation", {"networks": rows}, chosen.out)
    draw(rows, chosen.out)
    write_block("allocation.md", "allocation", table(rows), chosen.out)


if __name__ == "__main__":
    run(main)
