"""Width, depth or resolution: which dimension uses this device best (Fig. 2, HACScale).

    python benchmarks/dimensions.py [--runtime eager] [--accelerator cpu]

Scales VGG-11 at quarter width and ResNet-18 at half width in one dimension at a time and measures
latency, all in one session. Utilisation is two operations for each multiply-accumulate over the
measured time. Writes docs/results/dimensions.json, docs/dimensions.svg and its place in
docs/latency.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panels import board, keys, write_board
from record import device_options, run, where, write_block, write_results

from engine.drawing import ACCENT, INK, MUTED, drawing_style, one_two_five, ticks
from engine.graph import NetworkGraph, load_graph
from engine.measure import measure_here
from engine.recipe import Device
from engine.spec import ModelRef, NetworkSpec

CLASSES = 10
STYLES = {"width": ("o", ACCENT), "depth": ("D", INK), "resolution": ("s", MUTED)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network, and multipliers of each dimension; the unscaled network is in all."""

    name: str
    title: str
    width: float
    resolution: int
    widths: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0)
    depths: tuple[float, ...]
    resolutions: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0)

    def spec(self, width: float = 1.0, depth: float = 1.0, resolution: float = 1.0) -> NetworkSpec:
        name = self.name if depth == 1 else f"{self.name}@depth={depth:g}"
        graph = load_graph(ModelRef(name=name, classes=CLASSES), self.resolution)
        return graph.spec(round(self.resolution * resolution), self.width * width)

    def specs(self) -> dict[str, dict[float, NetworkSpec]]:
        return {
            "width": {m: self.spec(width=m) for m in self.widths},
            "depth": {m: self.spec(depth=m) for m in self.depths},
            "resolution": {m: self.spec(resolution=m) for m in self.resolutions},
        }


def graph_of(spec: NetworkSpec) -> NetworkGraph:
    subject = next(s for s in SUBJECTS if s.name == spec.model.name.partition("@")[0])
    return load_graph(spec.model, subject.resolution)


SUBJECTS = (
    Subject(
        name="vgg11", title="VGG-11", width=0.25, resolution=32, depths=(1.0, 2.0, 3.0, 4.0, 6.0)
    ),
    Subject(
        name="resnet18", title="ResNet-18", width=0.5, resolution=64,
        depths=(1.0, 2.0, 4.0, 6.0, 8.0),
    ),
)  # fmt: skip


def measured(subject: Subject, device: Device, calls: int, rounds: int) -> dict[str, Any]:
    points = [(d, m, spec) for d, of in subject.specs().items() for m, spec in of.items()]
    specs = list(dict.fromkeys(spec for _, _, spec in points))
    base = subject.spec()
    session = measure_here(
        graph_of(base), specs, base, device, calls=calls, rounds=rounds, per_layer=False
    )
    timings = dict(zip(specs, session.timings, strict=True))
    rows: dict[str, list[dict[str, Any]]] = {}
    for dimension, multiplier, spec in points:
        latency, cost = timings[spec].latency, graph_of(spec).cost(spec)
        row = {
            "multiplier": multiplier,
            "macs": cost.macs,
            "params": cost.params,
            "ms": latency.ms,
            "wall_ms_min": latency.wall_ms_min,
            "wall_ms_p95": latency.wall_ms_p95,
            "noise_floor": latency.noise_floor,
            "gflops_per_second": 2 * cost.macs / latency.ms / 1e6,
        }
        rows.setdefault(dimension, []).append(row)
        print(
            f"{subject.name:9} {dimension:10} × {multiplier:<4g} {cost.macs / 1e6:8.1f} M MACs "
            f"{latency.ms:8.3f} ms  {row['gflops_per_second']:6.1f} GFLOP/s",
            flush=True,
        )
    return {
        "width": subject.width,
        "resolution": subject.resolution,
        "environment": session.environment,
        "n": len(specs),
        "dimensions": rows,
    }


def draw(networks: dict[str, dict[str, Any]], titles: dict[str, str], out: Path) -> None:
    heads = [
        f"{titles[network]}: {what}"
        for network in networks
        for what in ("utilisation (GFLOP/s)", "latency (ms)")
    ]
    with drawing_style():
        drawing, axes = board(heads)
        panels = iter(axes)
        for found in networks.values():
            for field in ("gflops_per_second", "ms"):
                ax = next(panels)
                for dimension, rows in found["dimensions"].items():
                    marker, colour = STYLES[dimension]
                    macs = [row["macs"] / 1e6 for row in rows]
                    values = [row[field] for row in rows]
                    ax.plot(macs, values, color=colour, marker=marker, label=dimension)
                ax.set_xscale("log")
                ticks(ax, "x", one_two_five(*ax.get_xlim()))
                if field == "ms":
                    ax.set_yscale("log")
                    ticks(ax, "y", one_two_five(*ax.get_ylim()))
                else:
                    ax.set_ylim(bottom=0)
                ax.set_xlabel("million MACs")
                keys(ax)
        write_board("dimensions", drawing, out)


def summary(networks: dict[str, dict[str, Any]], titles: dict[str, str]) -> str:
    environment = next(iter(networks.values()))["environment"]
    lines = [
        f"GFLOP/s at the largest network of each dimension, and unscaled ({where(environment)}):",
        "",
        "| network | unscaled | width | depth | resolution |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for network, found in networks.items():
        rows = found["dimensions"]
        ends = [(rows[dimension][0], rows[dimension][-1]) for dimension in STYLES]
        cells = [
            f"{last['gflops_per_second']:.1f} (MACs ×{last['macs'] / first['macs']:.1f})"
            for first, last in ends
        ]
        unscaled = rows["width"][0]["gflops_per_second"]
        lines.append(f"| {titles[network]} | {unscaled:.1f} | {' | '.join(cells)} |")
    figure = "![Utilisation and latency against MACs for each dimension](dimensions.svg)"
    return "\n".join([*lines, "", figure])


def main() -> None:
    parser = device_options(__doc__)
    titles = {subject.name: subject.title for subject in SUBJECTS}
    parser.add_argument("--networks", nargs="+", choices=titles, default=list(titles))
    chosen = parser.parse_args()
    device = Device(runtime=chosen.runtime, accelerator=chosen.accelerator)
    networks = {
        subject.name: measured(subject, device, chosen.calls, chosen.rounds)
        for subject in SUBJECTS
        if subject.name in chosen.networks
    }
    found = {"calls": chosen.calls, "rounds": chosen.rounds, "networks": networks}
    write_results("dimensions", found, chosen.out)
    draw(networks, titles, chosen.out)
    write_block("latency.md", "dimensions", summary(networks, titles), chosen.out)


if __name__ == "__main__":
    run(main)
