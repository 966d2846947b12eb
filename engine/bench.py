"""How networks are timed. This file needs PyTorch and nothing else.

The program imports it; and it is the script of a measurement on a device that has only PyTorch:

    python measure.py plan.json result.csv

The plan is made by ``hacscale profile … --plan plan.json``. It holds the networks as Python source,
which is run: take it from nobody else.

Others that share a machine, also those on the other half of a hyper-threaded core, make it slower
for seconds at a time, and never faster: means are useless there (their coefficient of variation is
18–37 %), and so are medians. So every visit to a network counts by the minimum of its calls, visits
are spread over time, and those are taken that a reference network beside them shows to be
undisturbed; see `counting`.
"""

import csv
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, fx, nn

K = TypeVar("K")

WARM_UP = 10
"""Untimed forwards of a network that was just built."""
REWARM = 2
"""Untimed forwards of a network that other networks have pushed out of the caches."""
SETTLED = 0.02
"""An accelerator is warm when two series of forwards differ by no more than this share."""
SETTLE_SECONDS = 0.05
"""Each goes on for at least so long: a GPU takes that to raise its clocks."""
SETTLE_MOST_SECONDS = 2.0
"""After so long it is taken for warm in any case."""
IDLE_SECONDS = 0.02
"""An accelerator that has had nothing to do for longer has to be warmed up again."""
VISIT_SECONDS = 0.03
"""Forwards of a visit go on for so long, for a minimum that the next visit comes to as well."""
MOST_CALLS = 100
"""But are no more than so many, unless more are asked for."""
AGREEMENT = 0.05
"""Largest distance of a network's lowest readings from each other that is not measured again."""
CALM = 0.1
"""A visit is undisturbed if the reference beside it took no more than this share over its best."""
MOST_CALM = 0.2
"""That share grows up to this for a reference that differs by itself from reading to reading."""
NOISE = 5
"""The share is so many times the median difference: the lowest of hundreds of readings is luck.

Those of MobileNet-V2 differ by some 4 % on an idle machine, and most would pass for disturbed."""
MOST_VISITS = 3
"""Networks whose readings disagree are visited up to so many times as often as others."""
AGAIN_SECONDS = 20.0
"""But no more rounds of them begin after so long, or half as long as the first rounds took."""
PATIENCE = 2
"""Times that the reference is read again, for each visit of a round, until nothing disturbs it."""
ROUND_SECONDS = 2.0
"""Rounds begin at least so far apart, so that a short disturbance hits one of them at most."""
KEPT_PARAMS = 256_000_000
"""Networks are kept between rounds up to so many parameters in all; others are built again. On an
accelerator, as long as half of its memory is free."""
REFERENCE = -1
"""Number of the reference network among the others."""
NO_MEMORY = (
    *("ALLOC_FAILED", "ALLOCATION_FAILED", "CUDNN_STATUS_NOT_INITIALIZED"),
    *("CUBLAS_STATUS_NOT_INITIALIZED", "unable to find an engine to execute this computation"),
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",
)
"""What CUDA's libraries say where a GPU has no memory left beside PyTorch's own; the last one where
PyTorch asks NVML, which is missing, how much there was."""
COLUMNS = ("visit", "network", "op", "counted_ms", "cpu_ms", "wall_ms")
"""Of ``result.csv``: one row for each forward of a visit (``op`` is empty) and for each op's
shortest time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """ms between successive marks.

    Attributes:
        counted: by the clock that decides.
        cpu: CPU time of the calling thread; empty on an accelerator.
        wall: by the wall clock.
    """

    counted: list[float]
    cpu: list[float]
    wall: list[float]


class Stopwatch(Protocol):
    """Takes marks on the device's time line."""

    def begin(self) -> None:
        """Waits until the device has nothing to do, and marks that moment as a beginning."""
        ...

    def mark(self) -> None:
        """Marks this moment."""
        ...

    def take(self) -> Gaps:
        """Returns the times from each beginning on between its marks, and forgets the marks."""
        ...


class CpuStopwatch:
    """Marks by two clocks that count nanoseconds.

    Args:
        cpu: CPU time of the thread.
        wall: the wall clock.
        by_cpu: which of them decides. With several threads one thread's time says little.
    """

    def __init__(
        self,
        cpu: Callable[[], int] = time.thread_time_ns,
        wall: Callable[[], int] = time.perf_counter_ns,
        *,
        by_cpu: bool = True,
    ) -> None:
        self._cpu = cpu
        self._wall = wall
        self._by_cpu = by_cpu
        self._runs: list[list[tuple[int, int]]] = []

    def begin(self) -> None:
        """Marks this moment as a beginning."""
        self._runs.append([(self._cpu(), self._wall())])

    def mark(self) -> None:
        """Marks this moment."""
        self._runs[-1].append((self._cpu(), self._wall()))

    def take(self) -> Gaps:
        """Returns the times from each beginning on between its marks, and forgets the marks."""
        runs, self._runs = self._runs, []
        gaps = [marks for run in runs for marks in pairwise(run)]
        cpu = [(after[0] - before[0]) / 1e6 for before, after in gaps]
        wall = [(after[1] - before[1]) / 1e6 for before, after in gaps]
        return Gaps(counted=cpu if self._by_cpu else wall, cpu=cpu, wall=wall)


class CudaStopwatch:
    """Marks by CUDA events, which are their own wall clock; ``take`` waits for the device.

    Each beginning waits for the device too. Forwards that are launched while it is busy, as after
    a moment in which another process had it, follow one another without what it takes to launch
    them: the shortest would be faster than any forward on its own.
    """

    def __init__(self) -> None:
        self._runs: list[list[torch.cuda.Event]] = []

    def begin(self) -> None:
        """Waits for the device, and enqueues a mark."""
        torch.cuda.synchronize()
        self._runs.append([])
        self.mark()

    def mark(self) -> None:
        """Enqueues a mark."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._runs[-1].append(event)

    def take(self) -> Gaps:
        """Returns the times from each beginning on between its marks, and forgets the marks."""
        torch.cuda.synchronize()
        runs, self._runs = self._runs, []
        gaps = [before.elapsed_time(after) for run in runs for before, after in pairwise(run)]
        return Gaps(counted=gaps, cpu=[], wall=gaps)


def stopwatch(accelerator: str, threads: int) -> Stopwatch:
    """Returns the clock for a device: CUDA events, CPU time of one thread, or the wall clock."""
    return CudaStopwatch() if accelerator == "cuda" else CpuStopwatch(by_cpu=threads == 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Some forwards of one network, one after the other.

    Attributes:
        counted_ms: each, by the clock that decides.
        cpu_ms: each, CPU time of the calling thread; empty on an accelerator.
        wall_ms: each, by the wall clock.
        layer_ms: the shortest time of every node; empty unless asked for.
    """

    counted_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]
    layer_ms: dict[str, float]

    @property
    def ms(self) -> float:
        """The shortest."""
        return min(self.counted_ms)


class Subject(Protocol):
    """A network with its input on one runtime, to be timed."""

    def warm(self, forwards: int) -> None:
        """Makes untimed forwards."""
        ...

    def read(self, calls: int, layers: bool) -> Reading:
        """Times ``calls`` forwards, and as many again op by op if ``layers``."""
        ...


class TorchSubject:
    """A network that PyTorch runs.

    Args:
        module: takes ``images``; its nodes are the ops that are timed.
        images: the input.
        watch: times it.
        whole: what is timed as the whole network; None for ``module``. A network that is compiled
            or captured does not run op by op: its ops are timed in ``module``, run eagerly.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        images: Tensor,
        watch: Stopwatch,
        whole: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self._module = module
        self._images = images
        self._watch = watch
        self._whole = module if whole is None else whole

    def warm(self, forwards: int) -> None:
        """Makes untimed forwards."""
        for _ in range(forwards):
            self._whole(self._images)

    def read(self, calls: int, layers: bool) -> Reading:
        """Times ``calls`` forwards, and as many again op by op if ``layers``.

        The ops are timed in a copy of the generated forward with a mark after every op, so that
        nothing but the mark itself (about 0.5 µs) is added to a forward.
        """
        for _ in range(calls):
            self._watch.begin()
            self._whole(self._images)
            self._watch.mark()
        gaps = self._watch.take()
        return Reading(
            counted_ms=tuple(gaps.counted),
            cpu_ms=tuple(gaps.cpu),
            wall_ms=tuple(gaps.wall),
            layer_ms=self._read_layers(calls) if layers else {},
        )

    def _read_layers(self, calls: int) -> dict[str, float]:
        module, names = self.marked
        for _ in range(calls):
            module(self._images)
        gaps = self._watch.take().counted
        ops = [gaps[first : first + len(names)] for first in range(0, len(gaps), len(names))]
        return {name: min(times) for name, *times in zip(names, *ops, strict=True)}

    @cached_property
    def marked(self) -> tuple[fx.GraphModule, list[str]]:
        """The module with a beginning after its input, a mark after every op, and their names."""

        def begin() -> None:
            self._watch.begin()

        def mark() -> None:
            self._watch.mark()

        graph = deepcopy(self._module.graph)
        names: list[str] = []
        for node in list(graph.nodes):
            if node.op in ("placeholder", "call_module", "call_function", "call_method"):
                with graph.inserting_after(node):
                    graph.call_function(begin if node.op == "placeholder" else mark)
                if node.op != "placeholder":
                    names.append(node.name)
        return fx.GraphModule(self._module, graph).eval(), names


class Subjects(Generic[K]):
    """Makes networks ready to be timed, and keeps them, as far as `KEPT_PARAMS` goes.

    Args:
        make: returns a network by what names it, and how many parameters it has.
        settle: whether to warm up until times are stable, as an accelerator needs that raises its
            clocks under load.
    """

    def __init__(self, make: Callable[[K], tuple[Subject, int]], *, settle: bool) -> None:
        self._make = make
        self._settle = settle
        self._kept: dict[K, Subject] = {}
        self._room = KEPT_PARAMS
        self._busy_at = -math.inf

    def read(self, network: K, calls: int, layers: bool) -> Reading:
        """Warms up a network and times it: ``calls`` forwards or more, see `VISIT_SECONDS`."""
        subject = self.warmed(network)
        began = time.perf_counter()
        subject.read(1, False)  # until it is through: to launch it on a GPU takes no time
        enough = int(VISIT_SECONDS / max(time.perf_counter() - began, 1e-9))
        reading = subject.read(max(calls, min(enough, MOST_CALLS)), layers)
        self._busy_at = time.monotonic()
        return reading

    def warmed(self, network: K) -> Subject:
        """Returns a network, warmed up."""
        subject = self._kept.get(network)
        if subject is None:
            subject, params = self._make(network)
            subject.warm(WARM_UP)
            if _gpu_has_room() if self._settle else params <= self._room:
                self._room -= params
                self._kept[network] = subject
        else:
            subject.warm(REWARM - 1)  # the last is made by who asked, to see how long it takes
        if self._settle and time.monotonic() - self._busy_at > IDLE_SECONDS:
            settle(subject)
        return subject


def _gpu_has_room() -> bool:
    """Whether half of the GPU's memory is free: a kept CUDA graph keeps its activations too."""
    torch.cuda.empty_cache()  # PyTorch keeps for itself what networks that are gone have had
    free, total = torch.cuda.mem_get_info()
    return free > total / 2


def settle(subject: Subject) -> None:
    """Makes forwards until their times are stable; see `SETTLED`."""
    until = time.monotonic() + SETTLE_MOST_SECONDS
    before = _series(subject)
    while time.monotonic() < until:
        now = _series(subject)
        if abs(now - before) <= SETTLED * before:
            return
        before = now


def _series(subject: Subject) -> float:
    """Makes forwards for `SETTLE_SECONDS`, and returns how long the last ones took, in ms."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        ms = subject.read(REWARM, False).ms
        if time.monotonic() >= until:
            return ms


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that a GPU has no memory left."""
    if isinstance(error, getattr(torch.cuda, "OutOfMemoryError", ())):
        return True
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    of_gpu = "CUDA" in said or "HIP" in said
    return (of_gpu and "out of memory" in said) or any(word in said for word in NO_MEMORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One visit to one network; visits stand in the order in which they were made."""

    network: int
    reading: Reading


class TooCoarse(Exception):
    """The clock did not tick during a forward."""


def take_visits(
    read: Callable[[int, bool], Reading],
    networks: int,
    *,
    rounds: int,
    per_layer: bool,
    round_seconds: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Visit]:
    """Visits all networks in every round, with the reference before, between and after them.

    A visit waits until the reference shows an undisturbed machine, as far as `PATIENCE` goes: a
    disturbance lasts for seconds, and what is timed meanwhile would have to be timed again.

    Args:
        read: times a network by its number, op by op if told so.
        networks: how many there are beside the reference.
        rounds: times every network is visited. One whose ``rounds`` lowest readings differ by
            more than `AGREEMENT` is visited again, until it has `MOST_VISITS` times as many or
            `AGAIN_SECONDS` have passed.
        per_layer: whether ops are timed too.
        round_seconds: least time from the beginning of one round to that of the next; None for
            `ROUND_SECONDS`.
        on_progress: is told visits done and visits in all.

    Raises:
        TooCoarse: the clock did not tick during a forward.
    """
    apart = ROUND_SECONDS if round_seconds is None else round_seconds
    visits = [Visit(network=REFERENCE, reading=read(REFERENCE, False))]
    done, total = 0, rounds * networks
    began = following = time.monotonic()
    late = math.inf
    for turn in range(MOST_VISITS * rounds):
        again = [i for i in range(networks) if turn < rounds or not agree(visits, i, rounds)]
        if turn == rounds:
            late = time.monotonic() + max(AGAIN_SECONDS, (time.monotonic() - began) / 2)
        if turn >= rounds:
            if not again or max(time.monotonic(), following) > late:
                break
            total += len(again)
        time.sleep(max(0.0, following - time.monotonic()))
        following = time.monotonic() + apart
        if turn:  # what stands before the pause tells nothing of the machine after it
            visits.append(Visit(network=REFERENCE, reading=read(REFERENCE, False)))
        patience = PATIENCE * len(again)
        for network in again:
            while patience and _disturbed(visits):
                # One more: the last says what disturbed the visit before it.
                visits.append(Visit(network=REFERENCE, reading=read(REFERENCE, False)))
                patience -= 1
            visits.append(Visit(network=network, reading=read(network, per_layer)))
            visits.append(Visit(network=REFERENCE, reading=read(REFERENCE, False)))
            if min(visit.reading.ms for visit in visits[-3:]) <= 0:
                raise TooCoarse
            done += 1
            if on_progress:
                on_progress(done, total)
    return visits


def _disturbed(visits: Sequence[Visit]) -> bool:
    """Whether the last visit, which was to the reference, took longer than on a calm machine."""
    return visits[-1].reading.ms > calm_ms(visits)


def calm_ms(visits: Sequence[Visit]) -> float:
    """Returns up to how many ms of the reference the machine is calm; see `CALM`, `NOISE`."""
    readings = reference_readings(visits)
    steps = [abs(after / before - 1) for before, after in pairwise(readings)]
    noise = NOISE * statistics.median(steps) if steps else 0.0
    return (1 + min(max(CALM, noise), MOST_CALM)) * min(readings)


def reference_readings(visits: Sequence[Visit]) -> list[float]:
    """Returns the ms of all visits to the reference, in their order."""
    return [visit.reading.ms for visit in visits if visit.network == REFERENCE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A reading that counts.

    Attributes:
        factor: that its times are to be multiplied by.
        undisturbed: whether the reference beside it shows a calm machine; see `CALM`.
    """

    reading: Reading
    factor: float
    undisturbed: bool


def agree(visits: Sequence[Visit], network: int, rounds: int) -> bool:
    """Whether a network has ``rounds`` undisturbed readings within `AGREEMENT` of the lowest."""
    lowest = sorted(one.reading.ms for one in counting(visits, network) if one.undisturbed)
    return len(lowest) >= rounds and lowest[rounds - 1] <= (1 + AGREEMENT) * lowest[0]


def counting(visits: Sequence[Visit], network: int) -> list[Counted]:
    """Returns the readings of a network that count.

    Undisturbed readings count as they are. Where there are fewer than two, all
    count; a disturbed one by b/r, with b the reference's best reading of the session and r the
    better one of the two beside the visit. The slowdown of two networks is not the same, so that
    is only a makeshift, and right for a machine that has become slower for good.
    """
    best, most = min(reference_readings(visits)), calm_ms(visits)
    found: list[Counted] = []
    # Every visit to a network stands between two to the reference.
    for before, visit, after in zip(visits, visits[1:], visits[2:], strict=False):
        if visit.network == network:
            better, worse = sorted((before.reading.ms, after.reading.ms))
            calm = worse <= most
            factor = 1.0 if calm else best / better
            found.append(Counted(reading=visit.reading, factor=factor, undisturbed=calm))
    undisturbed = [one for one in found if one.undisturbed]
    return undisturbed if len(undisturbed) >= 2 else found


@contextmanager
def pinned(threads: int) -> Generator[None]:
    """Keeps this thread, and those that it starts, on ``threads`` cores; PyTorch uses as many.

    On the first of `cores`. Systems without affinity are left as they are.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    allowed = _affinity()
    try:
        if allowed is not None:
            with suppress(OSError):  # a sandbox may forbid it; `pinning` tells
                os.sched_setaffinity(0, cores(allowed)[:threads])
        yield
    finally:
        if allowed is not None:
            with suppress(OSError):
                os.sched_setaffinity(0, allowed)
        torch.set_num_threads(before)


def _affinity() -> set[int] | None:
    """Cores that this thread may use; None on systems that do not tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def most_threads() -> int:
    """Returns how many threads have a core each on this machine."""
    allowed = _affinity()
    return (os.cpu_count() or 1) if allowed is None else len(allowed)


def pinning(threads: int) -> str:
    """Returns where `pinned` keeps a measurement."""
    with pinned(threads):
        on = _affinity()
    if on is None or len(on) != threads:
        return "nowhere: the system does not allow it"
    return ", ".join(map(str, sorted(on)))


def cores(allowed: Iterable[int], cpus: str = "/sys/devices/system/cpu") -> list[int]:
    """Returns cores in the order in which measurements take them.

    One thread of every core comes before the second ones, then the fastest cores, as a CPU may have
    others that save power, and of equal ones the last, because interrupts go to the first.

    Args:
        allowed: logical CPUs, by number.
        cpus: where Linux tells of them; where it does not, all are alike.
    """

    def told(cpu: int, name: str) -> str:
        try:
            with open(f"{cpus}/cpu{cpu}/{name}", encoding="utf-8") as file:
                return file.read().strip()
        except OSError:
            return ""

    def speed(cpu: int) -> int:
        text = told(cpu, "cpu_capacity") or told(cpu, "cpufreq/cpuinfo_max_freq")
        return int(text) if text.isdecimal() else 0

    order = sorted(allowed, key=lambda cpu: (-speed(cpu), -cpu))
    taken: dict[str, int] = {}
    turns: dict[int, int] = {}
    for cpu in order:
        siblings = told(cpu, "topology/thread_siblings_list") or str(cpu)
        turns[cpu] = taken[siblings] = taken.get(siblings, -1) + 1
    return sorted(order, key=lambda cpu: turns[cpu])


def facts(accelerator: str, threads: int) -> dict[str, str]:
    """Returns what PyTorch and the system tell of this machine."""
    found = {
        "accelerator": accelerator,
        "device": device_name(accelerator),
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
        "instructions": _instructions(),
        "pinned to": pinning(threads),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "clock": "CPU time of the thread" if threads == 1 else "wall clock",
    }
    if accelerator == "cuda":
        found |= {
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "cudnn.benchmark": str(torch.backends.cudnn.benchmark),
            "cudnn.allow_tf32": str(torch.backends.cudnn.allow_tf32),
            "clock": "CUDA events",
        }
    return {name: value for name, value in found.items() if value}


def device_name(accelerator: str) -> str:
    """Returns what the device is called: a CPU with the instructions that PyTorch uses there, a GPU
    with the CPU that drives it.

    Machines of a cloud may hide the model of their CPU, and older ones are several times as slow.
    """
    if accelerator == "cuda":
        # A small network takes as long as the CPU needs to launch it.
        return f"{torch.cuda.get_device_name()}, {cpu_name()}"
    return f"{cpu_name()}, {_instructions()}"


def _instructions() -> str:
    try:
        return torch.backends.cpu.get_cpu_capability()
    except AttributeError:
        return "instructions unknown"  # PyTorch before 2.1 does not tell


def cpu_name() -> str:
    """Returns what the board, or the CPU of a machine that is none, is called.

    Boards of one maker may have one name for all their CPUs. Where Linux has no name of an ARM
    core, it is what identifies its design.
    """
    board = _text("/proc/device-tree/model").strip(" \n\0")
    if board and board != "linux,dummy-virt":  # that of any virtual machine
        return board
    lines = [line.partition(":") for line in _text("/proc/cpuinfo").splitlines()]
    told = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    if told.get("model name"):
        return told["model name"]
    arm = [told[name] for name in ("CPU implementer", "CPU part", "CPU variant") if name in told]
    if arm:
        return f"{platform.machine()} {' '.join(arm)}"
    named = ""
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with suppress(OSError):
            named = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return named.strip() or platform.processor() or platform.machine()


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


# The script ------------------------------------------------------------------------------------


def main(plan_path: str, result_path: str) -> None:
    """Measures what a plan asks for.

    The result is open before anything is measured: a path that cannot be written costs no minutes.
    """
    part = f"{result_path}.part"
    if os.path.isdir(result_path):
        sys.exit(f"{result_path}: it is a directory; give the result a file of its own")
    try:
        plan = _read_plan(plan_path)
        with open(part, "w", encoding="utf-8", newline="") as file:
            _measure(plan, file)
        os.replace(part, result_path)
    except OSError as error:
        sys.exit(f"{error.filename or part}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; nothing of it is kept, start it again")
    finally:
        with suppress(OSError):
            os.remove(part)  # is there only if it did not come to its end


def _read_plan(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        try:
            plan = json.load(file)
        except ValueError as error:
            sys.exit(f"{path} is no plan ({error})")
    if not isinstance(plan, dict) or "networks" not in plan:
        sys.exit(f"{path} is no plan; `hacscale profile … --plan {path}` writes one")
    return plan


def _measure(plan: dict[str, Any], file: Any) -> None:
    request, networks = plan["request"], [*plan["networks"], plan["reference"]]  # -1: reference
    device, began = request["device"], time.monotonic()
    accelerator, threads = device["accelerator"], device["threads"]
    if accelerator == "cuda" and not torch.cuda.is_available():
        sys.exit("the plan is for a CUDA device, but PyTorch finds none here")
    if threads > most_threads():
        sys.exit(f"the plan is for {threads} threads, but only {most_threads()} cores are here")
    environment = facts(accelerator, threads)  # before minutes of measuring, not after

    def make(number: int) -> tuple[Subject, int]:
        network = networks[number]
        names: dict[str, Any] = {}
        exec(network["source"], names)
        torch.manual_seed(0)
        plain: nn.Module = names["build"]().eval()
        module = traced(plain).to(accelerator)
        images = torch.randn(network["input"]).to(accelerator)
        if device["layout"] == "channels_last":
            module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            images = images.contiguous(memory_format=torch.channels_last)
        params = sum(parameter.numel() for parameter in module.parameters())
        return TorchSubject(module, images, stopwatch(accelerator, threads)), params

    subjects = Subjects(make, settle=accelerator == "cuda")

    def progress(done: int, total: int) -> None:
        print(f"\r{done} of {total} visits", end="", file=sys.stderr, flush=True)

    def read(number: int, layers: bool) -> Reading:
        reading = subjects.read(number, request["calls"], layers)
        # What these ops are parts of, where layers had to be taken apart for plain PyTorch.
        wholes = networks[number].get("ops") or reading.layer_ms
        layer_ms = dict.fromkeys(wholes if layers else (), 0.0)
        for whole, ms in zip(wholes, reading.layer_ms.values(), strict=False):
            layer_ms[whole] += ms
        return replace(reading, layer_ms=layer_ms)

    with pinned(threads), torch.inference_mode():
        try:
            visits = take_visits(
                read,
                len(networks) - 1,
                rounds=request["rounds"],
                per_layer=request["per_layer"],
                on_progress=progress,
            )
        except TooCoarse:
            sys.exit("the clock of this machine is too coarse to time one forward")
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).splitlines()[0]
            sys.exit(f"out of GPU memory ({said}); make the plan with a lower profile.max_width")
    print(file=sys.stderr)
    file.write(f"# plan: {plan['digest']}\n# seconds: {time.monotonic() - began:.1f}\n")
    for name, value in environment.items():
        file.write(f"# {name}: {value}\n")
    write_visits(visits, file)


class _Tracer(fx.Tracer):
    """Does not compute at once what a forward makes of buffers alone."""

    proxy_buffer_attributes = True


def traced(network: nn.Module) -> fx.GraphModule:
    """Returns a network of layers of torch.nn as calls of them and of functions."""
    return fx.GraphModule(network, _Tracer().trace(network))


def write_visits(visits: Sequence[Visit], file: Any) -> None:
    """Writes all readings as CSV with `COLUMNS`."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, visit in enumerate(visits):
        reading = visit.reading
        cpu = reading.cpu_ms or [""] * len(reading.wall_ms)
        for row in zip(reading.counted_ms, cpu, reading.wall_ms, strict=True):
            writer.writerow((number, visit.network, "", *row))
        for op, ms in reading.layer_ms.items():
            writer.writerow((number, visit.network, op, ms, "", ""))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python measure.py plan.json result.csv")
    main(sys.argv[1], sys.argv[2])
