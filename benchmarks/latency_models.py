"""How wrong the latency models are on networks that they have not seen, on this device.

    python benchmarks/latency_models.py [--runtime eager] [--accelerator cpu] [--timings DIR]

Fits every kind of model to the networks that a profile times and judges it on others of the same
box of widths and resolutions. `systolic` and `pim` are left out: they describe accelerators that
are designed, not a CPU or GPU that can be timed. "Profiling" is the time that measuring the fitted
networks took, in a session of their own; those that judge are visited more often. With --timings,
timings are kept there, and a repetition with the same settings only fits and judges.
Writes docs/results/latency-models-RUNTIME.json, docs/latency-models-RUNTIME.svg and the table of
that runtime in docs/latency.md.
"""

import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

# No fit is to pay for the import.
import sklearn.ensemble  # pyright: ignore[reportUnusedImport]
import sklearn.linear_model  # noqa: F401 # pyright: ignore[reportUnusedImport]
from panels import board, keys, write_board
from record import device_options, run, spread, where, write_device_block, write_results

from engine.codec import STRICT, decode, pretty
from engine.drawing import ACCENT, INK, MUTED, drawing_style, one_two_five, padded, ticks
from engine.graph import NetworkGraph, load_graph
from engine.hardware.contract import Box
from engine.hardware.models import fit_latency
from engine.latency import judge, profile_specs, wider_by
from engine.measure import CARE, Measurement, measure_here
from engine.recipe import Device, Profile
from engine.spec import ModelRef, NetworkSpec

KINDS = ("insitu", "lut", "neuralpower", "paleo", "roofline", "flops")
NAMES = {"vgg11": "VGG-11", "resnet18": "ResNet-18", "mobilenet_v2": "MobileNet-V2"}
PAGE = "latency.md"
ON_PAGE = tuple(
    f"latency-models-{device}"
    for device in ("eager", "onnxruntime", "eager-cuda", "cuda-graph-cuda")
)
MORE = (1, 8)
"""Channels more in every group, of networks that every profile times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network and the box that models are fitted to and judged in."""

    name: str
    width: float
    resolutions: tuple[int, ...]

    @property
    def graph(self) -> NetworkGraph:
        return load_graph(ModelRef(name=self.name, classes=10), self.resolutions[0])

    @property
    def base(self) -> NetworkSpec:
        return self.graph.spec(self.resolutions[0], self.width)


SUBJECTS = (
    Subject(name="vgg11", width=0.5, resolutions=(32, 40, 48)),
    Subject(name="resnet18", width=0.5, resolutions=(64, 80, 96)),
    Subject(name="mobilenet_v2", width=1.0, resolutions=(64, 80, 96)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Raw timings of a subject, with the settings that they were taken with."""

    __pydantic_config__ = STRICT

    subject: Subject
    device: Device
    profile: Profile
    fitted: Measurement
    held_out: Measurement
    wall_seconds: float
    cpu_seconds: float


def timed(subject: Subject, device: Device, profile: Profile, kept: Path | None) -> Timed:
    """Measures, or reads what was measured with the same settings."""
    path = kept and kept / f"{subject.name}-{device.runtime}-{device.accelerator}.json"
    if path and path.exists():
        found = decode(Timed, path.read_bytes(), str(path))
        if (found.subject, found.device, found.profile) == (subject, device, profile):
            print(f"{subject.name}: timings of {path}", flush=True)
            return found
    graph, base = subject.graph, subject.base
    to_fit, to_judge = profile_specs(graph, base, subject.resolutions, profile)

    def measured(specs: list[NetworkSpec], rounds: int, per_layer: bool) -> Measurement:
        return measure_here(
            graph, specs, base, device, calls=profile.calls, rounds=rounds, per_layer=per_layer
        )

    wall, cpu = time.perf_counter(), time.process_time()
    fitted = measured(to_fit, profile.rounds, per_layer=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # An error of what judges would count as one of the model, hence the care.
    # Fitted networks are timed once more beside those that judge: the median of their ratios tells
    # the times of both sessions on one scale.
    later = measured([*to_fit, *to_judge], CARE * profile.rounds, per_layer=False)
    again, held_out = later.timings[: len(to_fit)], later.timings[len(to_fit) :]
    slower = statistics.median(
        then.latency.ms / now.latency.ms for then, now in zip(fitted.timings, again, strict=True)
    )
    found = Timed(
        subject=subject,
        device=device,
        profile=profile,
        fitted=fitted,
        held_out=replace(later, timings=tuple(timing.rescaled(slower) for timing in held_out)),
        wall_seconds=wall,
        cpu_seconds=cpu,
    )
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pretty(found))
    return found


def judged(kind: str, found: Timed) -> dict[str, Any]:
    """Fits a kind of model, and says how wrong it is and how long it takes."""
    subject, graph = found.subject, found.subject.graph
    box = Box.around(graph, subject.base, subject.resolutions, found.profile)
    began = time.perf_counter()
    model = fit_latency(kind, graph, found.fitted.timings, box, found.device.batch)
    fit_seconds = time.perf_counter() - began
    quality = judge(model, graph, found.held_out.timings)
    seconds: list[float] = []
    for timing in found.held_out.timings:
        cost = graph.cost(timing.spec)
        began = time.perf_counter()
        model.predict(cost)
        seconds.append(time.perf_counter() - began)
    pairs = zip(quality.predicted_ms, quality.measured_ms, strict=True)
    return {
        **asdict(quality),
        "error": spread([abs(predicted / measured - 1) for predicted, measured in pairs]),
        "fit_seconds": fit_seconds,
        "predict_us": spread([1e6 * s for s in seconds]),
    }


def widened(found: Timed) -> dict[str, float]:
    """How many times as long networks take as the base, with a few channels more in every group."""
    graph, base = found.subject.graph, found.subject.base
    ms = {timing.spec: timing.latency.ms for timing in found.fitted.timings}
    return {str(more): ms[wider_by(graph, base, more)] / ms[base] for more in MORE}


def compared(found: Timed) -> dict[str, Any]:
    models: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        models[kind] = row = judged(kind, found)
        print(
            f"{found.subject.name:13} {kind:12} MAPE {row['mape']:6.1%}  RMSPE {row['rmspe']:6.1%}"
            f"  within 10 % {row['within_10']:4.0%}  rank {row['spearman']:.3f}"
            f"  fit {row['fit_seconds']:.1f} s  {row['predict_us']['median']:.0f} µs",
            flush=True,
        )
    return {
        "width": found.subject.width,
        "resolutions": found.subject.resolutions,
        "ops": len(found.subject.graph.cost(found.subject.base).layers),
        "fitted_networks": len(found.fitted.timings),
        "held_out_networks": len(found.held_out.timings),
        "widened": widened(found),
        "profiling_wall_seconds": found.wall_seconds,
        "profiling_cpu_seconds": found.cpu_seconds,
        "noise_floor": spread([t.latency.noise_floor for t in found.held_out.timings]),
        "environment": found.fitted.environment,
        "models": models,
    }


def draw(name: str, networks: dict[str, dict[str, Any]], out: Path) -> None:
    titles = [f"{NAMES[network]}: insitu, predicted / measured" for network in networks]
    with drawing_style():
        drawing, axes = board([*titles, "MAPE of every model (%)"], left=76)
        for ax, found in zip(axes, networks.values(), strict=False):
            row = found["models"]["insitu"]
            measured = row["measured_ms"]
            ratios = [p / m for p, m in zip(row["predicted_ms"], measured, strict=True)]
            ax.axhspan(0.9, 1.1, color=ACCENT, alpha=0.1, linewidth=0, label="±10 %")
            ax.axhline(1, color=INK, linewidth=1)
            ax.plot(measured, ratios, "o", color=ACCENT, markersize=4, label="network, not seen")
            ax.set_xscale("log")
            ax.set_xlim(min(measured) / 1.15, max(measured) * 1.15)
            ticks(ax, "x", one_two_five(*ax.get_xlim()))
            ax.set_ylim(padded([*ratios, 0.85, 1.15], 0.3))
            ax.set_xlabel("measured ms")
            keys(ax)
        last = axes[len(networks)]
        for (network, found), marker, colour in zip(
            networks.items(), "oDs", (ACCENT, INK, MUTED), strict=False
        ):
            errors = [100 * found["models"][kind]["mape"] for kind in KINDS]
            last.plot(errors, range(len(KINDS)), marker, color=colour, label=NAMES[network])
        last.set_yticks(range(len(KINDS)), KINDS)
        last.set_ylim(len(KINDS) - 0.5, -0.5)
        last.set_xlim(left=0)
        keys(last)
        write_board(name, drawing, out)


def table(name: str, networks: dict[str, dict[str, Any]]) -> str:
    first = next(iter(networks.values()))
    lines = [
        f"On {first['held_out_networks']} networks each that no model has seen "
        f"({where(first['environment'])}):",
        "",
        f"| model | {' | '.join(NAMES[n] for n in networks)} | fit | predict |",
        f"| --- | {' | '.join('---:' for _ in networks)} | ---: | ---: |",
    ]
    for kind in KINDS:
        rows = [found["models"][kind] for found in networks.values()]
        cells = [
            f"{r['mape']:.1%}, {r['rmspe']:.1%} ({r['within_10']:.0%}, {r['spearman']:.2f})"
            for r in rows
        ]
        fit = statistics.median(r["fit_seconds"] for r in rows)
        us = statistics.median(r["predict_us"]["median"] for r in rows)
        lines.append(f"| `{kind}` | {' | '.join(cells)} | {fit:.1f} s | {us:.0f} µs |")
    seconds = ", ".join(
        f"{found['profiling_wall_seconds']:.0f} s ({found['profiling_cpu_seconds']:.0f} s of CPU)"
        for found in networks.values()
    )
    floors = ", ".join(f"{found['noise_floor']['median']:.1%}" for found in networks.values())
    wider = "; ".join(
        f"{NAMES[network]} {' and '.join(f'{times:.2f}' for times in found['widened'].values())}"
        for network, found in networks.items()
    )
    lines += [
        "",
        "MAPE, RMSPE (share within ±10 %, rank correlation); medians of the time of a fit and of "
        "the prediction of a whole network. "
        f"Measuring the {first['fitted_networks']} networks of a fit took {seconds}. "
        f"The noise floor of the measurements is {floors} (medians). With "
        f"{' and '.join(map(str, MORE))} channels more in every group, the base network takes so "
        f"many times as long: {wider}.",
        "",
        f"![Predicted over measured latency, and the error of every model]({name}.svg)",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = device_options(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--held-out", type=int, default=30, help="networks to judge on, of each")
    parser.add_argument("--timings", type=Path, help="directory that keeps timings")
    chosen = parser.parse_args()
    device = Device(runtime=chosen.runtime, accelerator=chosen.accelerator)
    profile = Profile(held_out=chosen.held_out, calls=chosen.calls, rounds=chosen.rounds)
    networks = {
        subject.name: compared(timed(subject, device, profile, chosen.timings))
        for subject in SUBJECTS
        if subject.name in chosen.networks
    }
    suffix = "" if device.accelerator == "cpu" else f"-{device.accelerator}"
    name = f"latency-models-{device.runtime}{suffix}"
    found = {"calls": profile.calls, "rounds": profile.rounds, "networks": networks}
    write_results(name, found, chosen.out)
    draw(name, networks, chosen.out)
    if device.runtime != "synthetic":
        usual = name if name in ON_PAGE else ""
        write_device_block(PAGE, usual, name, table(name, networks), chosen.out)


if __name__ == "__main__":
    run(main)
