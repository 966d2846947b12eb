"""Latency of networks on a device, corrected for a machine that gets slower and faster.

Means are useless on a machine that others use too (their coefficient of variation is 18–37 %),
minima are good and CPU time of the thread is best; so a figure here is the median over rounds of
each round's minimum, divided by what a reference network took right before and after it.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import fx

from engine import synthetic
from engine.codec import STRICT
from engine.errors import UserError
from engine.graph import NetworkGraph
from engine.recipe import Device
from engine.results import Latency
from engine.spec import NetworkSpec

WARM_UP = 10
"""Untimed forwards of a network that was just built."""
REWARM = 2
"""Untimed forwards of a network that other networks have pushed out of the caches."""
AGREEMENT = 0.05
"""Largest relative spread of a network's rounds that is not measured again."""
KEPT_PARAMS = 64_000_000
"""Networks are kept between rounds up to so many parameters in all; others are built again."""
PAPER_CALLS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One network, measured.

    Attributes:
        layer_ms: time of each op inside whole forwards, by the op's name and corrected for
            drift like ``latency.ms``; None unless asked for. Their sum lies a little off
            ``latency.ms``: each is a minimum of its own, and the clock is read between them.
        reference_ms: the reference network in the same session; ``latency.ms`` of two sessions
            compare as ratios to it.
    """

    __pydantic_config__ = STRICT

    spec: NetworkSpec
    latency: Latency
    layer_ms: dict[str, float] | None
    reference_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Some forwards of one network, one after the other.

    Attributes:
        ms: the shortest, by the clock that counts.
        wall_ms: each, by the wall clock.
        layer_ms: the shortest time of every node; empty unless asked for.
    """

    ms: float
    wall_ms: tuple[float, ...]
    layer_ms: dict[str, float]


class Stopwatch(Protocol):
    """Takes marks on the device's time line."""

    def mark(self) -> None:
        """Marks this moment."""
        ...

    def take(self) -> tuple[list[float], list[float]]:
        """Returns ms between successive marks, by the clock that counts and the wall's.

        It forgets the marks.
        """
        ...


class CpuStopwatch:
    """Marks by two clocks that count nanoseconds."""

    def __init__(self, clock: Callable[[], int], wall: Callable[[], int]) -> None:
        """Args: ``clock`` decides, ``wall`` is only reported."""
        self._clock = clock
        self._wall = wall
        self._marks: list[tuple[int, int]] = []

    def mark(self) -> None:
        """Marks this moment."""
        self._marks.append((self._clock(), self._wall()))

    def take(self) -> tuple[list[float], list[float]]:
        """Returns ms between successive marks, by the clock that counts and the wall's."""
        marks = np.array(self._marks, dtype=np.int64).reshape(-1, 2)
        self._marks.clear()
        clock, wall = (np.diff(marks, axis=0) / 1e6).T
        return clock.tolist(), wall.tolist()


class CudaStopwatch:
    """Marks by CUDA events, which are their own wall clock; ``take`` waits for the device."""

    def __init__(self) -> None:
        """Starts without marks."""
        self._marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """Enqueues a mark."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def take(self) -> tuple[list[float], list[float]]:
        """Returns ms between successive marks."""
        torch.cuda.synchronize()
        marks = self._marks
        gaps = [a.elapsed_time(b) for a, b in pairwise(marks)]
        self._marks = []
        return gaps, gaps


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
) -> list[Timing]:
    """Measures networks on this machine, in the order of ``specs``.

    Networks are untrained, in evaluation mode, float32, on an input of batch × channels ×
    resolution × resolution. With one CPU thread the clock that counts is the thread's CPU time,
    otherwise the wall clock.

    Args:
        graph: of the networks.
        specs: what to measure.
        device: what to measure on; this machine must have it.
        reference: timed beside every network, to see the machine's drift.
        calls: timed forwards of a network in a round; the minimum counts.
        rounds: times every network is visited. One whose rounds differ by more than 5 % is
            visited again, at most ``rounds`` times more, and the rounds that agree best count.
        per_layer: whether ops are timed too, in further forwards of the same kind.
        on_progress: is told visits done and visits in all.

    Raises:
        UserError: no such accelerator here, or the clock is too coarse for the network.
    """
    if device.runtime == "synthetic":
        return [_synthetic(graph, spec, reference, device, per_layer) for spec in specs]
    _check_present(device)
    subjects = _Subjects(graph, device)

    def read(spec: NetworkSpec, layers: bool) -> Reading:
        return subjects.warm(spec).read(calls, layers)

    with _threads(device.threads), torch.inference_mode():
        return interleave(
            read, specs, reference, rounds=rounds, per_layer=per_layer, on_progress=on_progress
        )


def interleave(
    read: Callable[[NetworkSpec, bool], Reading],
    specs: Sequence[NetworkSpec],
    reference: NetworkSpec,
    *,
    rounds: int,
    per_layer: bool,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Visits all networks in every round with the reference between them; see `time_networks`.

    A reading t counts as t · R / r: r is the mean of the reference's readings before and after
    it, and R the median of all readings of the reference.
    """
    visits: list[list[_Visit]] = [[] for _ in specs]
    done, total = 0, rounds * len(specs)
    before = read(reference, False)
    references = [before.ms]
    for turn in range(2 * rounds):
        again = [i for i, seen in enumerate(visits) if turn < rounds or not _agree(seen, rounds)]
        total += len(again) if turn >= rounds else 0
        for i in again:
            reading = read(specs[i], per_layer)
            after = read(reference, False)
            beside = (before.ms + after.ms) / 2
            if min(reading.ms, beside) <= 0:
                raise UserError(
                    "the clock of this machine is too coarse to time one forward; "
                    "raise device.batch, or set device.threads above 1 to use the wall clock"
                )
            visits[i].append(_Visit(reading=reading, beside=beside))
            references.append(after.ms)
            before = after
            done += 1
            if on_progress:
                on_progress(done, total)
    overall = statistics.median(references)
    return [
        _timing(spec, seen, rounds, overall, per_layer)
        for spec, seen in zip(specs, visits, strict=True)
    ]


class Subject:
    """A built network with its input, to be timed."""

    def __init__(self, module: fx.GraphModule, images: torch.Tensor, watch: Stopwatch) -> None:
        """Args: ``module`` takes ``images``, and ``watch`` times it."""
        self._module = module
        self._images = images
        self._watch = watch

    def warm(self, forwards: int) -> None:
        """Makes untimed forwards."""
        for _ in range(forwards):
            self._module(self._images)

    def read(self, calls: int, layers: bool) -> Reading:
        """Times ``calls`` forwards, and as many again op by op if ``layers``.

        The ops are timed in a copy of the generated forward with a mark after every op, so that
        nothing but the mark itself (about 0.3 µs) is added to a forward.
        """
        self._watch.mark()
        for _ in range(calls):
            self._module(self._images)
            self._watch.mark()
        clock, wall = self._watch.take()
        layer_ms = self._read_layers(calls) if layers else {}
        return Reading(ms=min(clock), wall_ms=tuple(wall), layer_ms=layer_ms)

    def _read_layers(self, calls: int) -> dict[str, float]:
        module, names = self.marked
        for _ in range(calls):
            module(self._images)
        gaps, _ = self._watch.take()
        # A forward leaves a mark at its input and one after every op; the gap between two
        # forwards belongs to no op.
        period = len(names) + 1
        ops = [gaps[first : first + len(names)] for first in range(0, len(gaps), period)]
        return {name: min(times) for name, *times in zip(names, *ops, strict=True)}

    @cached_property
    def marked(self) -> tuple[fx.GraphModule, list[str]]:
        """The module with a mark after its input and after every op, and the ops' names."""

        def mark() -> None:
            self._watch.mark()

        graph = deepcopy(self._module.graph)
        names: list[str] = []
        for node in list(graph.nodes):
            if node.op in ("placeholder", "call_module", "call_function", "call_method"):
                with graph.inserting_after(node):
                    graph.call_function(mark)
                if node.op != "placeholder":
                    names.append(node.name)
        return fx.GraphModule(self._module, graph).eval(), names


def environment(device: Device) -> dict[str, str]:
    """Returns what a measurement on this machine is valid for, and which clock it uses.

    Raises:
        UserError: the device is not there.
    """
    _check_present(device)
    if device.runtime == "synthetic":
        return {"runtime": "synthetic", "batch": str(device.batch), "clock": "formula"}
    found = {
        "runtime": device.runtime,
        "accelerator": device.accelerator,
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count()),
        "threads": str(device.threads),
        "batch": str(device.batch),
        "dtype": "float32",
        "layout": "contiguous",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "clock": _clock_name(device),
    }
    if device.accelerator == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    reading: Reading
    beside: float

    @property
    def ratio(self) -> float:
        """To the reference beside it."""
        return self.reading.ms / self.beside


class _Subjects:
    """Builds networks, and keeps them up to `KEPT_PARAMS`."""

    def __init__(self, graph: NetworkGraph, device: Device) -> None:
        self._graph = graph
        self._device = device
        self._watch = _stopwatch(device)
        self._kept: dict[NetworkSpec, Subject] = {}
        self._room = KEPT_PARAMS

    def warm(self, spec: NetworkSpec) -> Subject:
        kept = self._kept.get(spec)
        subject = kept or self._build(spec)
        subject.warm(REWARM if kept else WARM_UP)
        return subject

    def _build(self, spec: NetworkSpec) -> Subject:
        module = self._graph.build(spec, seed=0).eval().to(self._device.accelerator)
        shape = (self._device.batch, spec.model.channels, spec.resolution, spec.resolution)
        images = torch.empty(shape).normal_(generator=torch.Generator().manual_seed(0))
        subject = Subject(module, images.to(self._device.accelerator), self._watch)
        params = sum(p.numel() for p in module.parameters())
        if params <= self._room:
            self._room -= params
            self._kept[spec] = subject
        return subject


def _agree(seen: Sequence[_Visit], rounds: int) -> bool:
    return _spread([visit.ratio for visit in _agreeing(seen, rounds)]) <= AGREEMENT


def _agreeing(seen: Sequence[_Visit], rounds: int) -> Sequence[_Visit]:
    """The ``rounds`` visits that lie closest together."""
    ordered = sorted(seen, key=lambda visit: visit.ratio)
    windows = [ordered[i : i + rounds] for i in range(len(ordered) - rounds + 1)]
    return min(windows, key=lambda window: window[-1].ratio - window[0].ratio)


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def _timing(
    spec: NetworkSpec, seen: Sequence[_Visit], rounds: int, overall: float, per_layer: bool
) -> Timing:
    kept = _agreeing(seen, rounds)
    ratios = [visit.ratio for visit in kept]
    wall = [ms for visit in seen for ms in visit.reading.wall_ms]
    layer_ms = {
        name: statistics.median(v.reading.layer_ms[name] / v.beside for v in kept) * overall
        for name in kept[0].reading.layer_ms
    }
    return Timing(
        spec=spec,
        latency=Latency(
            ms=statistics.median(ratios) * overall,
            wall_ms_min=min(wall),
            wall_ms_median=statistics.median(wall),
            wall_ms_p95=float(np.percentile(wall, 95)),
            wall_ms_mean50=statistics.fmean(wall[:PAPER_CALLS]),
            noise_floor=_spread(ratios),
        ),
        layer_ms=layer_ms if per_layer else None,
        reference_ms=overall,
    )


def _synthetic(
    graph: NetworkGraph,
    spec: NetworkSpec,
    reference: NetworkSpec,
    device: Device,
    per_layer: bool,
) -> Timing:
    layers = {c.name: synthetic.layer_ms(c, device.batch) for c in graph.cost(spec).layers}
    ms = sum(layers.values())
    return Timing(
        spec=spec,
        latency=Latency(
            ms=ms,
            wall_ms_min=ms,
            wall_ms_median=ms,
            wall_ms_p95=ms,
            wall_ms_mean50=ms,
            noise_floor=0.0,
        ),
        layer_ms=layers if per_layer else None,
        reference_ms=sum(synthetic.layer_ms(c, device.batch) for c in graph.cost(reference).layers),
    )


def _stopwatch(device: Device) -> Stopwatch:
    if device.accelerator == "cuda":
        return CudaStopwatch()
    clock = time.thread_time_ns if device.threads == 1 else time.perf_counter_ns
    return CpuStopwatch(clock, time.perf_counter_ns)


def _clock_name(device: Device) -> str:
    if device.accelerator == "cuda":
        return "CUDA events"
    return "CPU time of the thread" if device.threads == 1 else "wall clock"


def _check_present(device: Device) -> None:
    if device.runtime == "eager" and device.accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device.accelerator is 'cuda' but PyTorch finds no CUDA device here; "
            "run on a machine with one or set device.accelerator to cpu"
        )


@contextmanager
def _threads(count: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
