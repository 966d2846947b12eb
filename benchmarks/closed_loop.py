"""Budgets on this device: how far the measured latency lies from the limit, before and after.

``python benchmarks/closed_loop.py`` writes docs/results/closed-loop.json. A latency model of the
default kind is fitted to VGG-11 at quarter width, and ten latency limits from 1.15 to 3 times the
baseline are allocated without a limit of parameters. "Before" is the first round, "after" the
chosen one, measured once more apart from the measurements that chose it.
"""

import statistics
from typing import Any

from record import write_results

from engine.budgets import Budgets
from engine.closed_loop import best, close_loop, latency_verdict
from engine.graph import load_graph
from engine.hardware.contract import Box
from engine.hardware.models import fit_latency
from engine.latency import profile_specs
from engine.limits import Usage
from engine.measure import time_networks
from engine.memory import memory_bytes
from engine.recipe import Allocate, Device, Profile
from engine.results import ImportancePredictor, Latency
from engine.spec import ModelRef, NetworkSpec

RATIOS = (1.15, 1.3, 1.45, 1.6, 1.8, 2.0, 2.2, 2.5, 2.75, 3.0)
CALLS, ROUNDS = 10, 3


def main() -> None:
    graph, device = load_graph(ModelRef(name="vgg11", classes=10), 32), Device()
    base, profile = graph.spec(32, 0.25), Profile()

    def measured(spec: NetworkSpec) -> Latency:
        (timing,) = time_networks(
            graph, [spec], base, device, calls=CALLS, rounds=ROUNDS, per_layer=False
        )
        return timing.latency

    specs, _ = profile_specs(graph, base, [32], profile)
    timings = time_networks(graph, specs, base, device, calls=CALLS, rounds=ROUNDS, per_layer=True)
    model = fit_latency(profile.model, graph, timings, Box.around(graph, base, [32], profile))
    baseline = measured(base)
    factor = baseline.ms / model.predict(graph.cost(base))
    formula = graph.formula(base)
    budgets = Budgets(
        base=base,
        formula=formula,
        predictors={
            group.name: ImportancePredictor(a=1.0, b=-1.3, b_se=0.1, r2=0.97, sum_r2=0.7, flag="")
            for group in graph.groups
        },
        model=model.rescaled(factor).to_json(),
        settings=Allocate(),
        baseline=Usage(
            latency_ms=baseline.ms,
            params=graph.cost(base).params,
            memory_bytes=memory_bytes(formula, base, 1),
        ),
        batch=1,
    )
    rows: list[dict[str, Any]] = []
    for ratio in RATIOS:
        limit = Usage(latency_ms=ratio * baseline.ms, params=10**12)
        rounds = close_loop(
            lambda f, limit=limit: budgets.allocate(limit, f),
            lambda widths: measured(base.with_widths(widths)),
            limit.latency_ms,
            budgets.settings.rounds,
        )
        chosen = rounds[best(rounds, limit.latency_ms)]
        again = measured(base.with_widths(chosen.allocation.widths))
        rows.append(
            {
                "limit_ms": limit.latency_ms,
                "rounds": len(rounds),
                "first_ms": rounds[0].latency.ms,
                "predicted_ms": chosen.predicted_ms,
                "chosen_ms": chosen.latency.ms,
                "measured_ms": again.ms,
                "noise_floor": again.noise_floor,
                "error_before": rounds[0].latency.ms / limit.latency_ms - 1,
                "error_after": again.ms / limit.latency_ms - 1,
                "verdict": latency_verdict(again, limit.latency_ms),
            }
        )
        print(rows[-1], flush=True)
    path = write_results(
        "closed-loop",
        "python benchmarks/closed_loop.py",
        n=len(rows),
        baseline_ms=baseline.ms,
        mean_error_before=statistics.fmean(abs(row["error_before"]) for row in rows),
        mean_error_after=statistics.fmean(abs(row["error_after"]) for row in rows),
        mean_noise_floor=statistics.fmean(row["noise_floor"] for row in rows),
        violations_beyond_the_floor=sum(row["verdict"] == "over" for row in rows),
        budgets=rows,
    )
    print(path)


if __name__ == "__main__":
    main()
