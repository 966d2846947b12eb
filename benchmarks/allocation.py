"""How fast Algorithm 1 runs, and what incremental costs are worth.

``python benchmarks/allocation.py`` writes docs/results/allocation.json. Networks of 8, 20 and 50
width groups, VGG forms at 32 px, and ResNet-50 at 224 px are widened to twice their latency and
parameters, over a latency model of the default kind. It is fitted to the synthetic device: how
long a question takes does not depend on what was measured. The ratio compares one question of the
allocator that is new to it with a prediction of the whole network, interleaved in the same run.
"""

import statistics
import time
from typing import Any

import torch
from record import write_results
from torch import nn

from engine.allocation import allocate
from engine.graph import load_graph
from engine.hardware.contract import Box, LatencyModel
from engine.hardware.models import fit_latency
from engine.latency import profile_specs
from engine.limits import Usage
from engine.measure import time_networks
from engine.recipe import Allocate, Device, Profile
from engine.results import ImportancePredictor
from engine.spec import ModelRef, NetworkSpec
from engine.widening import NetworkWidening, plateaus

REPEATS = 5
NETWORKS = (
    *(("allocation:chain8", 32), ("allocation:chain20", 32), ("allocation:chain50", 32)),
    *(("vgg11", 32), ("resnet18", 224), ("resnet50", 224)),
)


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


def fitted(name: str, resolution: int) -> tuple[NetworkSpec, LatencyModel]:
    graph = load_graph(ModelRef(name=name, classes=10), resolution)
    base, profile = graph.spec(resolution), Profile(networks=12, held_out=2)
    specs, _ = profile_specs(graph, base, [resolution], profile)
    timings = time_networks(
        graph, specs, base, Device(runtime="synthetic"), calls=3, rounds=1, per_layer=True
    )
    box = Box.around(graph, base, [resolution], profile)
    return base, fit_latency(profile.model, graph, timings, box)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def timed(name: str, resolution: int) -> dict[str, Any]:
    base, model = fitted(name, resolution)
    graph = load_graph(base.model, resolution)
    formula = graph.formula(base)
    predictor = ImportancePredictor(a=1.0, b=-1.2, b_se=0.1, r2=0.9, sum_r2=0.5, flag="")
    seconds: list[float] = []
    ratios: list[float] = []
    steps = 0
    for _ in range(REPEATS):
        widening = NetworkWidening(formula, model)
        start = widening.usage
        limit = Usage(latency_ms=2 * start.latency_ms, params=2 * start.params)
        began = time.perf_counter()
        found = allocate(
            widening,
            {group.name: predictor for group in graph.groups},
            limit,
            Allocate(),
            base=base.width_of,
            multiples=formula.multiples,
            plateaus=plateaus(formula, model),
        )
        seconds.append(time.perf_counter() - began)
        steps = len(found.steps)
        fresh = NetworkWidening(formula, model)
        for group in graph.groups:
            wider = base.width_of[group.name] + 8 * group.multiple
            began = time.perf_counter()
            fresh.after(group.name, wider)
            incremental = time.perf_counter() - began
            began = time.perf_counter()
            model.predict(graph.cost(base.with_widths({group.name: wider})))
            ratios.append((time.perf_counter() - began) / incremental)
    return {
        "network": name.removeprefix("allocation:"),
        "resolution": resolution,
        "groups": len(graph.groups),
        "ops": len(formula.layers),
        "steps": steps,
        "seconds": spread(seconds),
        "steps_per_second": steps / statistics.median(seconds),
        "whole_over_incremental": spread(ratios),
        "n": REPEATS,
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = [timed(*network) for network in NETWORKS]
    for row in rows:
        print(
            f"{row['network']:10} {row['groups']:3} groups {row['steps']:5} steps "
            f"{row['seconds']['median']:.3f} s  {row['steps_per_second']:.0f} steps/s  "
            f"whole / incremental {row['whole_over_incremental']['median']:.1f}"
        )
    print(write_results("allocation", "python benchmarks/allocation.py", networks=rows))


if __name__ == "__main__":
    main()
