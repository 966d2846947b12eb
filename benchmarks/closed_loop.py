"""Limits on this device: how far the measured latency lies from them, before and after the loop.

    python benchmarks/closed_loop.py [--budgets 10] [--runtime eager] [--accelerator cpu]

A latency model of the default kind is fitted to VGG-11 at quarter width, and latency limits from
1.15 to 3 times the baseline are allocated without a limit of parameters. "Before" is the network
of the first round, "after" the chosen one, both as measured once more in one session at the end,
apart from the measurements that chose; again, as a run does, where that is slower. Writes
docs/results/closed-loop.json, docs/closed-loop.svg and the table in docs/allocation.md.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from panels import board, keys, write_board
from record import (
    device_options,
    on_device,
    run,
    spread,
    where,
    write_device_block,
    write_results,
)

from engine.budgets import Budgets
from engine.closed_loop import SLOWER, best, close_loop, steady
from engine.drawing import ACCENT, INK, MUTED, PAPER, drawing_style, padded
from engine.graph import load_graph
from engine.hardware.contract import Box
from engine.hardware.models import fit_latency
from engine.latency import profile_specs
from engine.limits import Usage
from engine.measure import CARE, Measurement, Timing, measure_here
from engine.recipe import Allocate, Device, Profile
from engine.results import ImportancePredictor, Latency
from engine.spec import ModelRef, NetworkSpec
from engine.widening import fast_steps

LOWEST, HIGHEST = 1.15, 3.0
RESOLUTION, WIDTH = 32, 0.25
PREDICTOR = ImportancePredictor(a=1.0, b=-1.3, b_se=0.1, r2=0.97, sum_r2=0.7, flag="")
"""Of every group, as Eq. 5 comes out on this network: importance is not what is tested here."""


class Bench:
    """The device, and the networks of this benchmark on it."""

    def __init__(self, device: Device, calls: int, rounds: int) -> None:
        self.device, self.calls, self.rounds = device, calls, rounds
        self.graph = load_graph(ModelRef(name="vgg11", classes=10), RESOLUTION)
        self.base = self.graph.spec(RESOLUTION, WIDTH)
        alone = self._session([self.base], per_layer=False, rounds=CARE * rounds)
        self.baseline, self.environment = alone.timings[0].latency, alone.environment

    def measured(
        self, specs: Sequence[NetworkSpec], *, per_layer: bool = False, rounds: int | None = None
    ) -> Measurement:
        """One session, relative to the base network, as the program compares sessions."""
        found = self._session(specs, per_layer=per_layer, rounds=rounds or self.rounds)
        return found.relative_to(self.baseline.ms)

    def _session(
        self, specs: Sequence[NetworkSpec], *, per_layer: bool, rounds: int
    ) -> Measurement:
        return measure_here(
            self.graph, specs, self.base, self.device,
            calls=self.calls, rounds=rounds, per_layer=per_layer,
        )  # fmt: skip

    def latency(self, spec: NetworkSpec) -> Latency:
        return self.measured([spec], rounds=CARE * self.rounds).timings[0].latency

    def judged(self, found: Timing, expected_ms: float) -> tuple[Latency, int]:
        """What counts of a network where that was found, and of how many sessions."""
        sessions = 0

        def measure(_: Sequence[int], session: int) -> list[Latency]:
            nonlocal sessions
            sessions = session
            return [found.latency if session == 1 else self.latency(found.spec)]

        return steady(measure, [expected_ms])[0], sessions


def budgets_of(bench: Bench) -> Budgets:
    """What a search would know of the network, with a latency model that was just fitted."""
    graph, base, profile = bench.graph, bench.base, Profile()
    specs, _ = profile_specs(graph, base, [RESOLUTION], profile)
    timings = bench.measured(specs, per_layer=True).timings
    box = Box.around(graph, base, [RESOLUTION], profile)
    model = fit_latency(profile.model, graph, timings, box)
    cost = graph.cost(base)
    return Budgets(
        base=base,
        formula=graph.in_steps(fast_steps(graph.formula(base), model)).formula(base),
        predictors={group.name: PREDICTOR for group in graph.groups},
        model=model.rescaled(bench.baseline.ms / model.predict(cost)).to_json(),
        settings=Allocate(),
        baseline=Usage(latency_ms=bench.baseline.ms, params=cost.params),
        batch=1,
    )


def closed(bench: Bench, budgets: Budgets, ratios: Sequence[float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    ends: list[NetworkSpec] = []
    expected_ms: dict[NetworkSpec, float] = {}
    for ratio in ratios:
        limit = Usage(latency_ms=ratio * bench.baseline.ms, params=10**12)
        rounds = close_loop(
            lambda factor, limit=limit: budgets.allocate(limit, factor),
            lambda widths, _: bench.latency(bench.base.with_widths(widths)),
            bench.base.width_of,
            limit.latency_ms,
            budgets.settings.rounds,
        )
        chosen = rounds[best(rounds, limit.latency_ms)]
        for done in (rounds[0], chosen):
            ends.append(bench.base.with_widths(done.allocation.widths))
            expected_ms[ends[-1]] = done.latency.ms
        rows.append(
            {
                "ratio": ratio,
                "limit_ms": limit.latency_ms,
                "rounds": len(rounds),
                "predicted_ms": rounds[0].predicted_ms,
                "choosing_ms": [done.latency.ms for done in rounds],
            }
        )
        print(f"limit × {ratio:.2f}: {len(rounds)} rounds", flush=True)
    # The same network has one figure, whether a limit or a round led to it.
    verified = bench.measured(list(expected_ms), rounds=CARE * bench.rounds)
    again = {t.spec: bench.judged(t, expected_ms[t.spec]) for t in verified.timings}
    for row, first, last in zip(rows, ends[::2], ends[1::2], strict=True):
        (before, _), (after, sessions) = again[first], again[last]
        limit_ms = row["limit_ms"]
        row |= {
            "before_ms": before.ms,
            "after_ms": after.ms,
            "noise_floor": after.noise_floor,
            "sessions": sessions,
            "error_before": before.ms / limit_ms - 1,
            "error_after": after.ms / limit_ms - 1,
            "verdict": after.verdict(limit_ms),
        }
    return rows


def draw(name: str, rows: list[dict[str, Any]], out: Path) -> None:
    with drawing_style():
        drawing, (ax,) = board(["Measured latency over its limit (%)"], columns=1)
        ratios = [row["ratio"] for row in rows]
        floors = [100 * row["noise_floor"] for row in rows]
        before, after = (
            [100 * row[f"error_{when}"] for row in rows] for when in ("before", "after")
        )
        ax.fill_between(
            ratios, [-f for f in floors], floors, color=ACCENT, alpha=0.12, linewidth=0,
            label="noise floor",
        )  # fmt: skip
        ax.axhline(0, color=INK, linewidth=1)
        ax.plot(ratios, before, "o", color=MUTED, markerfacecolor=PAPER, label="first round")
        ax.plot(ratios, after, "o", color=ACCENT, label="after the loop")
        ax.set_ylim(padded([*before, *after, *floors, *(-f for f in floors)], 4))
        ax.set_xlabel("latency limit over the baseline's latency")
        keys(ax)
        write_board(name, drawing, out)


def table(name: str, found: dict[str, Any]) -> str:
    lines = [
        f"{where(found['environment'])}; the baseline takes {found['baseline_ms']:.2f} ms.",
        "",
        "| limit | rounds | first round | after the loop | noise floor | verdict |",
        "| ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {row['limit_ms']:.2f} ms (×{row['ratio']:.2f}) | {row['rounds']} "
        f"| {row['error_before']:+.1%} | {row['error_after']:+.1%} "
        f"| {row['noise_floor']:.1%} | {row['verdict']} |"
        for row in found["budgets"]
    ]
    lines += [
        "",
        f"Mean distance to the limit {found['error_before']['mean']:.1%} before and "
        f"{found['error_after']['mean']:.1%} after, noise floor "
        f"{found['noise_floor']['mean']:.1%}; {found['over']} of {len(found['budgets'])} limits "
        f"exceeded by more than the noise floor. {found['again']} of the chosen networks took over "
        f"{SLOWER:.0%} longer than when they were chosen and were measured again.",
        "",
        f"![Measured latency over its limit, before and after the loop]({name}.svg)",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = device_options(__doc__)
    parser.add_argument("--budgets", type=int, default=10, help="latency limits")
    chosen = parser.parse_args()
    began = time.perf_counter()
    device = Device(runtime=chosen.runtime, accelerator=chosen.accelerator)
    bench = Bench(device, chosen.calls, chosen.rounds)
    ratios = np.geomspace(LOWEST, HIGHEST, chosen.budgets).round(2).tolist()
    rows = closed(bench, budgets_of(bench), ratios)
    found = {
        "calls": chosen.calls,
        "rounds": chosen.rounds,
        "environment": bench.environment,
        "seconds": time.perf_counter() - began,
        "baseline_ms": bench.baseline.ms,
        "error_before": spread([abs(row["error_before"]) for row in rows]),
        "error_after": spread([abs(row["error_after"]) for row in rows]),
        "noise_floor": spread([row["noise_floor"] for row in rows]),
        "again": sum(row["sessions"] > 1 for row in rows),
        "over": sum(row["verdict"] == "over" for row in rows),
        "budgets": rows,
    }
    name = on_device("closed-loop", device.runtime, device.accelerator)
    write_results(name, found, chosen.out)
    draw(name, rows, chosen.out)
    write_device_block("allocation.md", "closed-loop", name, table(name, found), chosen.out)


if __name__ == "__main__":
    run(main)
