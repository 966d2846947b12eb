"""Width, depth or resolution: which dimension uses this device best (Fig. 2, HACScale).

    python benchmarks/dimensions.py [--runtime eager] [--accelerator cpu]

Scales VGG-11 at quarter width and ResNet-18 at half width in one dimension at a time and measures
latency, all in one session. Utilisation is two operations for each multiply-accumulate over the
measured time. Writes docs/results/dimensions.json, docs/dimensions.svg and its place in
docs/latency.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panels import board, keys, write_board
from record import device_options, on_device, run, where, write_device_block, write_results

from engine.dimension_figures import plot_dimensions
from engine.dimensions import Dimension, Dimensions, measure_dimensions
from engine.drawing import drawing_style
from engine.graph import load_graph
from engine.measure import Measurement, measure_here
from engine.recipe import Device
from engine.results import Latency
from engine.spec import ModelRef, NetworkSpec

DIMENSIONS: tuple[Dimension, ...] = ("width", "depth", "resolution")
WIDER = (1.0, 1.5, 2.0, 2.5, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network, and multipliers of its depth; the unscaled network is in all."""

    name: str
    title: str
    width: float
    resolution: int
    depths: tuple[float, ...]


SUBJECTS = (
    Subject(
        name="vgg11", title="VGG-11", width=0.25, resolution=32, depths=(1.0, 2.0, 3.0, 4.0, 6.0)
    ),
    Subject(
        name="resnet18", title="ResNet-18", width=0.5, resolution=64,
        depths=(1.0, 2.0, 4.0, 6.0, 8.0),
    ),
)  # fmt: skip


def measured(
    subject: Subject, device: Device, calls: int, rounds: int
) -> tuple[Dimensions, dict[str, Any]]:
    """What was measured, and the same for the result file."""
    graph = load_graph(ModelRef(name=subject.name, classes=10), subject.resolution)
    base = graph.spec(subject.resolution, subject.width)
    sessions: list[Measurement] = []

    def measure(specs: Sequence[NetworkSpec]) -> list[Latency]:
        sessions.append(
            measure_here(graph, specs, base, device, calls=calls, rounds=rounds, per_layer=False)
        )
        return [timing.latency for timing in sessions[0].timings]

    multipliers: dict[Dimension, tuple[float, ...]] = {
        "width": WIDER,
        "depth": subject.depths,
        "resolution": WIDER,
    }
    found = measure_dimensions(graph, base, device.batch, measure, multipliers)
    rows: dict[str, list[dict[str, Any]]] = {}
    for dimension, family in found.families.items():
        for scaled in family:
            latency = scaled.latency
            row = {
                "multiplier": scaled.multiplier,
                "macs": scaled.macs,
                "params": scaled.params,
                "ms": latency.ms,
                "wall_ms_min": latency.wall_ms_min,
                "wall_ms_p95": latency.wall_ms_p95,
                "noise_floor": latency.noise_floor,
                "gflops_per_second": scaled.gflops_per_second(found.batch),
            }
            rows.setdefault(dimension, []).append(row)
            print(
                f"{subject.name:9} {dimension:10} × {scaled.multiplier:<4g} "
                f"{scaled.macs / 1e6:8.1f} M MACs {latency.ms:8.3f} ms  "
                f"{row['gflops_per_second']:6.1f} GFLOP/s",
                flush=True,
            )
    return found, {
        "width": subject.width,
        "resolution": subject.resolution,
        "environment": sessions[0].environment,
        "n": len(sessions[0].timings),
        "dimensions": rows,
    }


def draw(name: str, networks: dict[str, Dimensions], titles: dict[str, str], out: Path) -> None:
    heads = [
        f"{titles[network]}: {what}"
        for network in networks
        for what in ("utilisation (GFLOP/s)", "latency (ms)")
    ]
    with drawing_style():
        drawing, axes = board(heads)
        panels = iter(axes)
        for found in networks.values():
            for quantity in ("utilisation", "latency"):
                ax = next(panels)
                plot_dimensions(ax, found, quantity)
                keys(ax)
        write_board(name, drawing, out)


def summary(name: str, networks: dict[str, dict[str, Any]], titles: dict[str, str]) -> str:
    environment = next(iter(networks.values()))["environment"]
    lines = [
        f"GFLOP/s at the largest network of each dimension, and unscaled ({where(environment)}):",
        "",
        "| network | unscaled | width | depth | resolution |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for network, found in networks.items():
        rows = found["dimensions"]
        ends = [(rows[dimension][0], rows[dimension][-1]) for dimension in DIMENSIONS]
        cells = [
            f"{last['gflops_per_second']:.1f} (MACs ×{last['macs'] / first['macs']:.1f})"
            for first, last in ends
        ]
        unscaled = rows["width"][0]["gflops_per_second"]
        lines.append(f"| {titles[network]} | {unscaled:.1f} | {' | '.join(cells)} |")
    figure = f"![Utilisation and latency against MACs for each dimension]({name}.svg)"
    return "\n".join([*lines, "", figure])


def main() -> None:
    parser = device_options(__doc__)
    titles = {subject.name: subject.title for subject in SUBJECTS}
    parser.add_argument("--networks", nargs="+", choices=titles, default=list(titles))
    chosen = parser.parse_args()
    device = Device(runtime=chosen.runtime, accelerator=chosen.accelerator)
    both = {
        subject.name: measured(subject, device, chosen.calls, chosen.rounds)
        for subject in SUBJECTS
        if subject.name in chosen.networks
    }
    networks = {name: rows for name, (_, rows) in both.items()}
    found = {"calls": chosen.calls, "rounds": chosen.rounds, "networks": networks}
    name = on_device("dimensions", device.runtime, device.accelerator)
    write_results(name, found, chosen.out)
    draw(name, {network: scaled for network, (scaled, _) in both.items()}, titles, chosen.out)
    text = summary(name, networks, titles)
    write_device_block("latency.md", "dimensions", name, text, chosen.out)


if __name__ == "__main__":
    run(main)
