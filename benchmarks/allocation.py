"""How fast Algorithm 1 runs, and what incremental costs are worth.

``python benchmarks/allocation.py`` prints it.
The ratio compares one question of the allocator with a prediction of the whole network, in the same
run and interleaved, over a latency model fitted to the synthetic device.
"""

import platform
import statistics
import time

import torch

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
from engine.widening import NetworkWidening

REPEATS = 5
NETWORKS = (("vgg11", 32), ("vgg19", 32), ("resnet18", 224), ("resnet50", 224))


def fitted(name: str, resolution: int) -> tuple[NetworkSpec, LatencyModel]:
    graph = load_graph(ModelRef(name=name, classes=10), resolution)
    base, profile = graph.spec(resolution), Profile(networks=12, held_out=2)
    specs, _ = profile_specs(graph, base, [resolution], profile)
    timings = time_networks(
        graph, specs, base, Device(runtime="synthetic"), calls=3, rounds=1, per_layer=True
    )
    return base, fit_latency(
        "insitu", graph, timings, Box.around(graph, base, [resolution], profile)
    )


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, n = {REPEATS}")
    print("network    groups  steps  ms to allocate  (min–max)      whole / incremental")
    for name, resolution in NETWORKS:
        base, model = fitted(name, resolution)
        graph = load_graph(base.model, resolution)
        predictor = ImportancePredictor(a=1.0, b=-1.2, b_se=0.1, r2=0.9, sum_r2=0.5, flag="")
        seconds, ratios, steps = [], [], 0
        for _ in range(REPEATS):
            widening = NetworkWidening(graph, model, base)
            start = widening.usage
            limit = Usage(latency_ms=2 * start.latency_ms, params=2 * start.params)
            began = time.perf_counter()
            steps = len(
                allocate(
                    widening,
                    {group.name: predictor for group in graph.groups},
                    limit,
                    Allocate(),
                    base=base.width_of,
                    multiples={group.name: group.multiple for group in graph.groups},
                ).steps
            )
            seconds.append(time.perf_counter() - began)
            group = graph.groups[-1]
            fresh, wider = NetworkWidening(graph, model, base), base.width_of[group.name] + 8
            began = time.perf_counter()
            fresh.after(group.name, wider)
            incremental = time.perf_counter() - began
            began = time.perf_counter()
            model.predict(graph.cost(base.with_widths({group.name: wider})))
            ratios.append((time.perf_counter() - began) / incremental)
        ms = [1e3 * s for s in seconds]
        print(
            f"{name:10} {len(graph.groups):6} {steps:6} {statistics.median(ms):15.1f}  "
            f"({min(ms):.1f}–{max(ms):.1f}) {statistics.median(ratios):16.1f}"
        )


if __name__ == "__main__":
    main()
