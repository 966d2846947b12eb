"""By how much sessions of this device differ, and whether noise floors say so.

    python benchmarks/sessions.py [--sessions 20] [--runtime eager] [--accelerator cpu]

Measures VGG-11 at four widths in session after session, each as careful as those that decide
something, and compares the figures of every two sessions. A floor is two standard errors, so that
two figures should differ by no more than both floors together (the root of the sum of squares) in
about 95 % of the pairs. "Of the session" is what its rounds tell; "stated" holds what the reference
was slower or faster than in the first session, as a run compares its sessions with that of the base
network. Writes docs/results/sessions.json and the table in docs/profile.md.
"""

import math
import statistics
from itertools import combinations
from typing import Any

import numpy as np
from record import device_options, on_device, run, spread, where, write_device_block, write_results

from engine.graph import load_graph
from engine.measure import CARE, Measurement, measure_here
from engine.recipe import Device
from engine.spec import ModelRef

RESOLUTION, BASE = 32, 0.25
TIMES = (1.3, 1.7, 2.0, 2.4)
"""Times as wide as the base network, in all groups."""


def sessions(device: Device, count: int, calls: int, rounds: int) -> list[Measurement]:
    graph = load_graph(ModelRef(name="vgg11", classes=10), RESOLUTION)
    base = graph.spec(RESOLUTION, BASE)
    specs = [graph.spec(RESOLUTION, BASE * times) for times in TIMES]
    found: list[Measurement] = []
    for number in range(count):
        found.append(
            measure_here(
                graph, specs, base, device, calls=calls, rounds=CARE * rounds, per_layer=False
            )
        )
        took = found[-1].timings[0].reference_ms
        print(f"session {number + 1} of {count}: the base network took {took:.3f} ms", flush=True)
    return found


def compared(found: list[Measurement], index: int) -> dict[str, Any]:
    """Says how the sessions differ in one network."""
    first_ms = found[0].timings[index].reference_ms
    told = [session.relative_to(first_ms).timings[index].latency for session in found]
    logs = [math.log(latency.ms) for latency in told]
    alone = [session.timings[index].latency for session in found]
    references = np.log([session.timings[index].reference_ms for session in found])
    slower = np.log([latency.ms for latency in alone])

    def covered(floors: list[float]) -> float:
        pairs = combinations(zip(logs, floors, strict=True), 2)
        return statistics.fmean(abs(a - b) <= math.hypot(f, g) for (a, f), (b, g) in pairs)

    floors = {
        "session": [latency.noise_floor for latency in alone],
        "stated": [latency.noise_floor for latency in told],
    }
    slope = float(np.polyfit(references, slower, 1)[0]) if np.ptp(references) > 0 else math.nan
    return {
        "times": TIMES[index],
        "ms": spread([latency.ms for latency in told]),
        "deviation": statistics.stdev(logs),
        "slope": slope,
        "floors": {name: spread(values) for name, values in floors.items()},
        "covered": {name: covered(values) for name, values in floors.items()},
    }


def row(found: dict[str, Any]) -> str:
    cells = [
        f"{found['floors'][name]['median']:.1%} ({found['covered'][name]:.0%})"
        for name in ("session", "stated")
    ]
    return (
        f"| ×{found['times']} | {found['ms']['median']:.3f} ms | {found['deviation']:.1%} "
        f"| {found['slope']:.1f} | {' | '.join(cells)} |"
    )


def main() -> None:
    parser = device_options(__doc__)
    parser.add_argument("--sessions", type=int, default=20)
    chosen = parser.parse_args()
    device = Device(runtime=chosen.runtime, accelerator=chosen.accelerator)
    measured = sessions(device, chosen.sessions, chosen.calls, chosen.rounds)
    rows = [compared(measured, index) for index in range(len(TIMES))]
    references = [session.timings[0].reference_ms for session in measured]
    drift = statistics.stdev(map(math.log, references))
    environment = measured[0].environment
    seconds = sum(session.seconds or 0.0 for session in measured)
    found = {
        "calls": chosen.calls,
        "rounds": CARE * chosen.rounds,
        "environment": environment,
        "seconds": seconds,
        "reference_ms": spread(references),
        "reference_deviation": drift,
        "networks": rows,
    }
    name = on_device("sessions", device.runtime, device.accelerator)
    write_results(name, found, chosen.out)
    lines = [
        "| width | latency | sessions differ by | slope | floor of the session | stated floor |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        *map(row, rows),
        "",
        f"{where(environment)}; {len(measured)} sessions in {seconds / 60:.0f} minutes, "
        f"of {CARE * chosen.rounds} rounds each; the base network, VGG-11 at ¼ width, took "
        f"{statistics.median(references):.3f} ms. Differences are standard deviations, that of the "
        f"base network's own time {drift:.1%}; the slope is that of a network's time over the base "
        "network's, in logarithms; floors are medians, with the share of pairs of sessions that "
        "they cover.",
    ]
    write_device_block("profile.md", "sessions", name, "\n".join(lines), chosen.out)


if __name__ == "__main__":
    run(main)
