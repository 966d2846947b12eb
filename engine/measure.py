"""Latency of networks on a device, corrected for a machine that gets slower and faster.

How a forward is timed stands in `engine.bench`; here networks are built for it, and its readings
become figures.
"""

import math
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine import synthetic
from engine.bench import (
    Counted,
    Subject,
    Subjects,
    TooCoarse,
    Visit,
    calm_ms,
    counting,
    device_name,
    is_out_of_memory,
    pinned,
    reference_readings,
    take_visits,
)
from engine.codec import STRICT
from engine.environment import check_present, environment
from engine.errors import UserError, first_line
from engine.graph import NetworkGraph, graph_of
from engine.power import SensorFailed, measure_energy, power_meter
from engine.profile_key import ProfileKey
from engine.recipe import Device
from engine.results import MOST_NOISE, Latency
from engine.runtimes import make_subject
from engine.spec import NetworkSpec

CARE = 2
"""Times as many rounds for networks whose latency decides something as for those of a profile."""
PAPER_CALLS = 50
SESSIONS = 3
"""Networks that others disturb are measured again in up to so many sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One network, measured.

    Attributes:
        layer_ms: time of each op inside whole forwards, by the op's name, chosen like
            ``latency.ms``; None unless asked for. Their sum lies a little off
            ``latency.ms``: each is a minimum of its own, and the clock is read between them.
        reference_ms: the reference network in the same session; ``latency.ms`` of two sessions
            compare as ratios to it.
        samples_ms: raw, by the clock that counts: every timed forward of each visit that counts.
    """

    __pydantic_config__ = STRICT

    spec: NetworkSpec
    latency: Latency
    layer_ms: dict[str, float] | None
    reference_ms: float
    samples_ms: tuple[tuple[float, ...], ...] = ()

    def rescaled(self, factor: float) -> "Timing":
        """Returns the timing as if the device were slower by ``factor``.

        Samples, wall clock, CPU time and energy stay those of the session. The noise floor grows by
        what is corrected: other networks need not be slower by the same factor
        (benchmarks/sessions.py).
        """
        layer_ms, latency = self.layer_ms, self.latency
        return replace(
            self,
            latency=replace(
                latency,
                ms=latency.ms * factor,
                noise_floor=math.hypot(latency.noise_floor, math.log(factor)),
            ),
            layer_ms=layer_ms and {name: ms * factor for name, ms in layer_ms.items()},
            reference_ms=self.reference_ms * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Networks that were timed in one session.

    Attributes:
        key: what the figures are valid for.
        environment: the machine, its software and its state.
        seconds: that it took; None where that was not kept.
    """

    __pydantic_config__ = STRICT

    key: ProfileKey
    environment: dict[str, str]
    timings: tuple[Timing, ...]
    seconds: float | None = None

    def relative_to(self, reference_ms: float) -> "Measurement":
        """Returns the latencies as if the reference took ``reference_ms``; see `Timing.rescaled`.

        Two sessions on one machine compare as ratios to it.
        """
        return replace(
            self, timings=tuple(t.rescaled(reference_ms / t.reference_ms) for t in self.timings)
        )

    @property
    def disturbed(self) -> tuple[NetworkSpec, ...]:
        """Networks whose noise floor is above `MOST_NOISE`."""
        return tuple(t.spec for t in self.timings if t.latency.noise_floor > MOST_NOISE)

    @property
    def warning(self) -> str:
        """What a user is to know of their noise; empty if nothing."""
        if not self.disturbed:
            return ""
        worst = max(timing.latency.noise_floor for timing in self.timings)
        return (
            f"others use the machine: {len(self.disturbed)} of {len(self.timings)} networks could "
            f"not be measured to better than {100 * MOST_NOISE:.0f} % (at worst "
            f"{100 * worst:.0f} %); measure again in a quieter hour"
        )

    def with_quieter(self, again: "Measurement") -> "Measurement":
        """Returns each network's timing from whichever of two sessions has the lower noise floor.

        Times of the other session are told relative to this one's reference.
        """
        others = {t.spec: t for t in again.relative_to(self.timings[0].reference_ms).timings}
        return replace(
            self,
            seconds=(self.seconds or 0.0) + (again.seconds or 0.0),
            timings=tuple(
                min(t, others.get(t.spec, t), key=lambda one: one.latency.noise_floor)
                for t in self.timings
            ),
        )


def measure_here(
    graph: NetworkGraph,
    specs: Sequence[NetworkSpec],
    reference: NetworkSpec,
    device: Device,
    *,
    calls: int,
    rounds: int,
    per_layer: bool,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measures networks on this machine, and says what it is; see `time_networks`.

    Networks that others disturb throughout a session are measured again, in up to `SESSIONS`.
    """

    def session(specs: Sequence[NetworkSpec]) -> Measurement:
        return time_networks(
            graph,
            specs,
            reference,
            device,
            calls=calls,
            rounds=rounds,
            per_layer=per_layer,
            on_progress=on_progress,
        )

    measured = session(specs)
    for _ in range(SESSIONS - 1):
        if not measured.disturbed:
            break
        measured = measured.with_quieter(session(measured.disturbed))
    return measured


def time_networks(
    graph: NetworkGraph,
    specs: Sequence[NetworkSpec],
    reference: NetworkSpec,
    device: Device,
    *,
    calls: int,
    rounds: int,
    per_layer: bool,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measures networks on this machine in one session, in the order of ``specs``.

    Networks are untrained, in evaluation mode, float32, on an input of batch × channels ×
    resolution × resolution. With one CPU thread the clock that counts is the thread's CPU time,
    otherwise the wall clock; on a GPU it is CUDA events.

    Args:
        graph: of the networks.
        specs: what to measure.
        device: what to measure on; this machine must have it.
        reference: timed beside every network, to see the machine's drift.
        calls: timed forwards of a network in a round at the least; the minimum counts.
        rounds: times every network is visited, at least 2; more often if it was disturbed, see
            `engine.bench.take_visits`.
        per_layer: whether ops are timed too, in further forwards of the same kind. The energy of
            all networks is measured where they are not, that of the reference where they are, if a
            sensor answers.
        on_progress: is told visits done and visits in all.

    Raises:
        UserError: no such device here, a runtime that cannot take a network, a clock too coarse
            for it, or too little GPU memory.
    """
    began, failure = time.monotonic(), ""
    if device.runtime == "synthetic":
        timings = [_synthetic(graph, spec, reference, device, per_layer) for spec in specs]
    else:
        timings, failure = _timed(
            graph, [*specs, reference], device, calls, rounds, per_layer, on_progress
        )
    seconds, found = time.monotonic() - began, environment(device)
    return Measurement(
        key=ProfileKey.of(device, device_name(device.accelerator)),
        environment=found | {"power": failure} if failure else found,
        timings=tuple(timings),
        seconds=seconds,
    )


def _timed(
    graph: NetworkGraph,
    networks: Sequence[NetworkSpec],
    device: Device,
    calls: int,
    rounds: int,
    per_layer: bool,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[Timing], str]:
    """Times all ``networks`` but the last, the reference; and why energy is missing, if a sensor
    failed.
    """
    check_present(device)
    *specs, reference = networks  # -1 is REFERENCE

    def make(spec: NetworkSpec) -> tuple[Subject, int]:
        module = graph_of(graph, spec).build(spec, seed=0).eval()
        shape = (device.batch, spec.model.channels, spec.resolution, spec.resolution)
        images = torch.empty(shape).normal_(generator=torch.Generator().manual_seed(0))
        params = sum(parameter.numel() for parameter in module.parameters())
        return make_subject(module, images, device), params

    subjects = Subjects(make, settle=device.accelerator == "cuda")
    with pinned(device.threads), torch.inference_mode():
        try:
            visits = take_visits(
                lambda number, layers: subjects.read(networks[number], calls, layers),
                len(specs),
                rounds=rounds,
                per_layer=per_layer,
                on_progress=on_progress,
            )
            timings = summarise(specs, visits)
            powered = {reference} if per_layer else set(specs)
            return _with_energy(timings, powered, subjects, device)
        except TooCoarse:
            raise UserError(
                "the clock of this machine is too coarse to time one forward; "
                "raise device.batch, or set device.threads above 1 to use the wall clock"
            ) from None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"out of GPU memory ({first_line(error)}); lower profile.max_width (and "
                "allocate.max_width), data.resolution or device.batch"
            ) from None


def summarise(specs: Sequence[NetworkSpec], visits: Sequence[Visit]) -> list[Timing]:
    """Turns the visits of one session into figures, in the order of ``specs``.

    The figure is the lowest of the readings that count (`engine.bench.counting`), for whole
    networks and for every op; their median where they had to be corrected.

    Args:
        specs: of the networks that ``visits`` count from 0.
        visits: as `engine.bench.take_visits` returns them; two or more to each network.
    """
    seen = [counting(visits, number) for number in range(len(specs))]
    reference = _Reference(_calm_reference(visits), statistics.median(map(len, seen)))
    return [_timing(spec, found, reference) for spec, found in zip(specs, seen, strict=True)]


def _calm_reference(visits: Sequence[Visit]) -> list[float]:
    most = calm_ms(visits)
    return [ms for ms in reference_readings(visits) if ms <= most]


class _Reference:
    """What the reference would have come to as one of the networks, which have fewer visits.

    Args:
        calm: ms of its undisturbed readings.
        fewer: readings of a network.

    Attributes:
        ms: its best of a hundred visits is lower than that of a few, whose median is this quantile.
            Without it a session that visits its networks more often would find them faster beside
            the reference.
        floor: noise floor of as many of its readings as a network has, the median over such
            samples, each spread over the session as visits are.
        ms_floor: noise floor of ``ms``, which rests on all samples.
    """

    def __init__(self, calm: Sequence[float], fewer: float) -> None:
        # Of as many readings as a network has it is the lowest.
        self.ms = float(np.quantile(calm, 1 - 0.5 ** (1 / fewer), method="median_unbiased"))
        size = round(fewer)
        samples = len(calm) // size
        self.floor = self.ms_floor = 0.0
        if size >= 2 and samples:
            self.floor = statistics.median(
                noise_floor(calm[first::samples][:size]) for first in range(samples)
            )
            self.ms_floor = self.floor / math.sqrt(samples)


def _timing(spec: NetworkSpec, seen: Sequence[Counted], reference: _Reference) -> Timing:
    """The figures of one network.

    Latencies of two sessions compare as ratios to the reference, so that its noise is in them too.
    And the floor of a few readings is itself a matter of chance: three that happen to agree say
    nothing of what the next session finds.
    """
    calm = all(one.undisturbed for one in seen)
    chosen, floor_of = (min, noise_floor) if calm else (statistics.median, median_floor)
    rounds = [one.reading.ms * one.factor for one in seen]
    wall = [ms for one in seen for ms in one.reading.wall_ms]
    cpu = [ms for one in seen for ms in one.reading.cpu_ms]
    layer_ms = {
        name: chosen([one.reading.layer_ms[name] * one.factor for one in seen])
        for name in seen[0].reading.layer_ms
    }
    return Timing(
        spec=spec,
        latency=Latency(
            ms=chosen(rounds),
            wall_ms_min=min(wall),
            wall_ms_median=statistics.median(wall),
            wall_ms_p95=float(np.quantile(wall, 0.95)),
            wall_ms_mean50=statistics.fmean(wall[:PAPER_CALLS]),
            noise_floor=math.hypot(max(floor_of(rounds), reference.floor), reference.ms_floor),
            cpu_ms=statistics.median(cpu) if cpu else None,
        ),
        layer_ms=layer_ms or None,
        reference_ms=reference.ms,
        samples_ms=tuple(one.reading.counted_ms for one in seen),
    )


def noise_floor(values: Sequence[float]) -> float:
    """Returns about two standard errors of the minimum of ``values``, relative to it.

    It is the distance of the third lowest value, or of the second of two. Disturbances only add:
    if they do so exponentially with the mean 1/λ, the minimum of n values has the standard error
    1/(λn), and that distance is 1/(λ(n−1)) + 1/(λ(n−2)) on average: a little more than 2/(λn).

    Args:
        values: at least two readings of one thing.

    Raises:
        ValueError: fewer than two: one reading says nothing of its noise.
    """
    if len(values) < 2:
        raise ValueError(f"a noise floor needs at least 2 readings, not {len(values)}")
    ordered = sorted(values)
    return ordered[:3][-1] / ordered[0] - 1


def median_floor(values: Sequence[float]) -> float:
    """Returns about two standard errors of the median of ``values``, relative to it.

    That of a median of n values is about √(π/2) times that of their mean.

    Args:
        values: at least two readings of one thing.
    """
    error = math.sqrt(math.pi / 2) * statistics.stdev(values) / math.sqrt(len(values))
    return 2 * error / statistics.median(values)


def _with_energy(
    timings: list[Timing],
    powered: Collection[NetworkSpec],
    subjects: Subjects[NetworkSpec],
    device: Device,
) -> tuple[list[Timing], str]:
    """Adds energy to ``powered``, one network after another, where a sensor answers.

    A sensor that fails loses no times: energy is left out, and why is returned.
    """
    meter, _ = power_meter(device.accelerator)
    if meter is None:
        return timings, ""
    found: list[Timing] = []
    for timing in timings:
        if timing.spec not in powered:
            found.append(timing)
            continue
        try:
            energy = measure_energy(meter, _forward(subjects.warmed(timing.spec), device))
        except SensorFailed as error:
            return timings, f"not measured: {meter.name} failed: {error}"
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return timings, "not measured: out of GPU memory"
        latency = replace(
            timing.latency,
            energy_mj=energy.energy_mj,
            power_mw=energy.power_mw,
            idle_mw=energy.idle_mw,
        )
        found.append(replace(timing, latency=latency))
    return found, ""


def _forward(subject: Subject, device: Device) -> Callable[[], None]:
    """One forward to its end; a function of its own, so that nothing else keeps the network."""

    def forward() -> None:
        subject.warm(1)
        if device.accelerator == "cuda":
            torch.cuda.synchronize()

    return forward


def _synthetic(
    graph: NetworkGraph,
    spec: NetworkSpec,
    reference: NetworkSpec,
    device: Device,
    per_layer: bool,
) -> Timing:
    layers = {
        c.name: synthetic.layer_ms(c, device.batch) for c in graph_of(graph, spec).cost(spec).layers
    }
    ms = sum(layers.values())
    return Timing(
        spec=spec,
        latency=Latency.constant(ms),
        layer_ms=layers if per_layer else None,
        reference_ms=sum(synthetic.layer_ms(c, device.batch) for c in graph.cost(reference).layers),
    )
