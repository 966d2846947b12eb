import itertools
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from engine import bench, measure, synthetic
from engine.bench import REFERENCE, CpuStopwatch, Reading, TooCoarse, TorchSubject, take_visits
from engine.codec import canonical, decode
from engine.costs import LayerCost
from engine.environment import environment
from engine.errors import UserError
from engine.exchange import Request, make_plan
from engine.graph import NetworkGraph, load_graph
from engine.measure import Timing, median_floor, noise_floor, summarise
from engine.power import Energy, SensorFailed
from engine.recipe import Device
from engine.spec import ModelRef, NetworkSpec

MODEL = ModelRef(name="vgg11", classes=10)


@pytest.fixture
def graph() -> NetworkGraph:
    return load_graph(MODEL, 32)


@dataclass
class Machine:
    """A machine with a clock of its own that takes twice as long from ``slow_from`` on."""

    slow_from: float = float("inf")
    now: float = 0.0

    def spend(self, ms: float) -> None:
        self.now += ms * (2 if self.now >= self.slow_from else 1)

    def clock(self) -> int:
        return round(self.now * 1e6)

    def subject(self, *op_ms: float) -> TorchSubject:
        """A network of ops that take so long."""
        graph = fx.Graph()
        value = graph.placeholder("x")
        for ms in op_ms:
            value = graph.call_function(self._op(ms), (value,))
        graph.output(value)
        watch = CpuStopwatch(self.clock, self.clock)
        return TorchSubject(fx.GraphModule(torch.nn.Module(), graph), torch.zeros(1), watch)

    def _op(self, ms: float):
        def op(x: torch.Tensor) -> torch.Tensor:
            self.spend(ms)
            return x

        return op


def reading(*ms: float) -> Reading:
    return Reading(counted_ms=ms, cpu_ms=ms, wall_ms=ms, layer_ms={})


def specs_named(*resolutions: int) -> list[NetworkSpec]:
    return [NetworkSpec(model=MODEL, resolution=r, widths=()) for r in resolutions]


def test_ops_are_timed_inside_whole_forwards():
    found = Machine().subject(3, 5, 0.5).read(calls=4, layers=True)
    assert found.ms == 8.5
    assert found.wall_ms == (8.5,) * 4
    assert found.layer_ms == {"op": 3, "op_1": 5, "op_2": 0.5}


def test_the_minimum_of_the_calls_counts():
    machine = Machine(slow_from=9)
    found = machine.subject(3, 5).read(calls=3, layers=False)
    assert found.ms == 8
    assert found.counted_ms == found.cpu_ms == (8, 3 + 2 * 5, 16)
    assert found.wall_ms == (8, 3 + 2 * 5, 16)
    assert found.layer_ms == {}


@given(slow_from=st.floats(0, 3000))
def test_drift_is_corrected_whenever_the_machine_becomes_half_as_fast(slow_from: float):
    machine = Machine(slow_from=slow_from)
    costs = {8: (1.0, 3.0), 16: (2.0, 4.0), 24: (5.0, 5.0), 32: (20.0, 7.0)}
    subjects = {r: machine.subject(*ms) for r, ms in costs.items()}
    reference, *specs = specs_named(*costs)

    numbered = [*specs, reference]
    visits = take_visits(
        lambda number, layers: subjects[numbered[number].resolution].read(3, layers),
        len(specs),
        rounds=3,
        per_layer=True,
        round_seconds=0,
    )
    timings = summarise(specs, visits)

    for timing in timings:
        first, second = costs[timing.spec.resolution]
        scale = timing.reference_ms / 4
        assert 1 <= scale <= 2
        assert timing.latency.ms == pytest.approx((first + second) * scale)
        assert timing.layer_ms == pytest.approx({"op": first * scale, "op_1": second * scale})
    # Only the network that was under way then may be in doubt.
    assert sum(timing.latency.noise_floor > 1e-9 for timing in timings) <= 1


def counted(visits: list[bench.Visit]) -> list[tuple[float, float]]:
    """Readings of network 0 that count, with their factors."""
    return [(one.reading.ms, one.factor) for one in bench.counting(visits, 0)]


def test_a_network_whose_rounds_disagree_is_visited_again_but_not_for_ever():
    calm, once, wild = specs_named(16, 24, 32)
    doubling = [2.0**n for n in range(9)]
    wanted = [[2.0] * 3, [3.0, 4.0, 3.0, 3.0], doubling, [1.0] * (1 + 16 + 8)]
    left = [list(values) for values in wanted]
    progress: list[tuple[int, int]] = []
    visits = take_visits(
        lambda number, layers: reading(left[number].pop(0)),
        3,
        rounds=3,
        per_layer=False,
        round_seconds=0,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    timings = summarise([calm, once, wild], visits)

    assert not any(left)
    assert [t.spec for t in timings] == [calm, once, wild]
    assert [t.latency.ms for t in timings] == [2, 3, 1]
    # The third lowest over the lowest: of 3, 3, 3, 4 and of 1, 2, 4, …
    assert [t.latency.noise_floor for t in timings] == [0, 0, 3]
    assert [t.layer_ms for t in timings] == [None] * 3
    assert [done for done, _ in progress] == list(range(1, 17))
    assert progress[-1] == (16, 16)
    assert all(done <= total for done, total in progress)


def test_visits_again_end_after_half_the_time_of_the_first_rounds(
    monkeypatch: pytest.MonkeyPatch,
):
    noise, now = np.random.default_rng(0), 0.0

    def read(number: int, layers: bool) -> Reading:
        nonlocal now
        now += 1.0
        return reading(2.0 if number == bench.REFERENCE else 2.0 ** noise.integers(1, 60))

    monkeypatch.setattr(bench.time, "monotonic", lambda: now)
    monkeypatch.setattr(bench, "AGAIN_SECONDS", 10.0)
    visits = take_visits(read, 5, rounds=3, per_layer=False, round_seconds=0)
    # The first rounds take 31 s. Another one takes 10 s, and one begins after 0 and 10 s.
    assert sum(visit.network != bench.REFERENCE for visit in visits) == 5 * (3 + 2)


def test_a_neighbour_who_comes_and_goes_does_not_change_the_figures():
    """He makes the reference slower than the others, so that a ratio to it would mislead."""
    spans = np.random.default_rng(0)
    quiet_until, busy_until = 0.0, 0.0
    now, told = 0.0, 0

    def read(number: int, layers: bool) -> Reading:
        nonlocal now, quiet_until, busy_until
        while now >= busy_until:
            quiet_until = busy_until + spans.exponential(30.0)
            busy_until = quiet_until + spans.exponential(20.0)
        alone, slower = {0: (3.0, 1.3), 1: (5.0, 1.4), bench.REFERENCE: (2.0, 1.7)}[number]
        now += 1.0
        return reading(alone * (slower if now >= quiet_until else 1.0))

    for _ in range(20):
        visits = take_visits(read, 2, rounds=3, per_layer=False, round_seconds=0)
        found = [t.latency for t in summarise(specs_named(8, 16), visits)]
        best = min(v.reading.ms for v in visits if v.network == bench.REFERENCE)
        for number, alone in ((0, 3.0), (1, 5.0)):
            undisturbed = [1 for one in bench.counting(visits, number) if one.undisturbed]
            told += len(undisturbed) >= 2 and best == 2.0
            assert found[number].ms == alone or len(undisturbed) < 2 or best > 2.0
    assert told > 20


def test_visits_wait_until_the_machine_is_undisturbed_but_not_for_ever():
    calm, busy = 1.0, 1.5
    references = [calm, busy, busy, calm]
    slow: list[bool] = []
    read_references = 0
    last = calm

    def read(number: int, layers: bool) -> Reading:
        nonlocal last, read_references
        if number == bench.REFERENCE:
            last = references.pop(0) if references else busy
            read_references += 1
            return reading(last)
        slow.append(last > calm)
        return reading(2.0)

    rounds = 2
    visits = take_visits(read, 2, rounds=rounds, per_layer=False, round_seconds=0)
    assert sum(visit.network == bench.REFERENCE for visit in visits) == read_references
    # The second visit waits for two readings; then the machine stays slow, and every round waits
    # for as long as it may.
    turns = bench.MOST_VISITS * rounds
    assert slow == [False, False] + [True] * (2 * (turns - 1))
    waited = read_references - (len(slow) + turns)
    assert waited == 2 + bench.PATIENCE * 2 * (turns - 1)


def test_what_was_disturbed_stays_so_though_the_next_visit_waits_for_calm():
    """Of two networks the first meets a neighbour twice, who has left at the second look."""
    disturbances, busy = 2, False

    def read(number: int, layers: bool) -> Reading:
        nonlocal disturbances, busy
        if number == 0 and disturbances:
            disturbances, busy = disturbances - 1, True
            return reading(3.0)
        disturbed, busy = busy, False
        return reading(1.5 if disturbed else {0: 2.0, 1: 5.0, bench.REFERENCE: 1.0}[number])

    visits = take_visits(read, 2, rounds=2, per_layer=False, round_seconds=0)
    assert counted(visits) == [(2.0, 1), (2.0, 1)]
    assert [t.latency.ms for t in summarise(specs_named(8, 16), visits)] == [2.0, 5.0]


@pytest.mark.parametrize(("rounds", "above"), [(3, 1.003), (9, 1.001)])
def test_a_network_that_is_the_reference_comes_to_what_the_reference_does(
    rounds: int, above: float
):
    """Though it has a few visits and the reference hundreds, whose lowest is lower."""
    noise = np.random.default_rng(0)
    visits = take_visits(
        lambda number, layers: reading(2.0 * (1 + noise.exponential(0.02))),
        40,
        rounds=rounds,
        per_layer=False,
        round_seconds=0,
    )
    timings = summarise(specs_named(*range(8, 48)), visits)
    ratios = [timing.latency.ms / timing.reference_ms for timing in timings]
    assert np.median(ratios) == pytest.approx(1, abs=0.003)
    best = min(visit.reading.ms for visit in visits if visit.network == bench.REFERENCE)
    assert timings[0].reference_ms > above * best


def test_one_lucky_reading_does_not_make_all_others_disturbed():
    """An idle machine on which a reference of many short ops varies by a twentieth."""
    noise = np.random.default_rng(0)
    visits = take_visits(
        lambda number, layers: reading(2.0 * noise.normal(1, 0.04)),
        60,
        rounds=3,
        per_layer=False,
        round_seconds=0,
    )
    references = bench.reference_readings(visits)
    calm = [ms for ms in references if ms <= bench.calm_ms(visits)]
    assert len(calm) > 0.45 * len(references)
    by_the_luckiest = [ms for ms in references if ms <= (1 + bench.CALM) * min(references)]
    assert len(by_the_luckiest) < 0.3 * len(references)


@pytest.mark.parametrize(
    ("readings", "most"),
    [
        ([2.0], 2.2),
        ([2.0, 2.02, 2.0, 2.02], 2.2),
        ([2.0, 2.06, 2.0], 2.0 * (1 + 5 * (0.03 + 0.06 / 2.06) / 2)),
        # A neighbour at every second reading is not the noise of the reference.
        ([2.0, 3.0, 2.0, 3.0], 2.4),
    ],
)
def test_a_machine_is_calm_up_to_the_noise_of_its_reference(readings: list[float], most: float):
    visits = [bench.Visit(network=bench.REFERENCE, reading=reading(ms)) for ms in readings]
    assert bench.calm_ms(visits) == pytest.approx(most)


def test_a_disturbed_reading_does_not_count_beside_undisturbed_ones():
    #         reference, network, reference, …
    readings = [1.0, 5.0, 1.05, 4.0, 2.0, 6.0, 1.08, 5.1, 1.0]
    numbers = [bench.REFERENCE, 0] * 4 + [bench.REFERENCE]
    visits = [
        bench.Visit(network=number, reading=reading(ms))
        for number, ms in zip(numbers, readings, strict=True)
    ]
    # 4.0 and 6.0 stand beside 2.0, which is twice the best.
    assert counted(visits) == [(5.0, 1), (5.1, 1)]
    (timing,) = summarise(specs_named(8), visits)
    assert timing.samples_ms == (reading(5.0).counted_ms, reading(5.1).counted_ms)
    assert timing.rescaled(2.0).samples_ms == timing.samples_ms
    # Of one undisturbed reading alone nothing is known: the others count, over 1.05 and 1.08.
    few = visits[:7]
    assert counted(few) == [
        (5.0, 1),
        (4.0, 1 / 1.05),
        (6.0, 1 / 1.08),
    ]


def test_the_noise_floor_is_how_near_the_lowest_readings_are():
    assert noise_floor([3, 3, 4, 3]) == 0
    assert noise_floor([105, 100, 103, 101]) == pytest.approx(0.03)
    assert noise_floor([101, 100]) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="at least 2"):
        noise_floor([1.0])


@pytest.mark.parametrize("rounds", [2, 3, 6, 12])
def test_the_noise_floor_is_two_standard_errors_or_a_little_more(rounds: int):
    values = 1 + np.random.default_rng(0).exponential(0.02, (8000, rounds))
    stated = np.mean([noise_floor(row.tolist()) for row in values])
    true = 2 * np.std(values.min(axis=1))
    assert 0.95 < stated / true < 2.4


@pytest.mark.parametrize("rounds", [5, 25])
def test_the_noise_floor_of_a_median_is_two_of_its_standard_errors(rounds: int):
    values = np.random.default_rng(0).normal(10, 1, (4000, rounds))
    stated = np.mean([median_floor(row.tolist()) for row in values])
    true = 2 * np.std(np.median(values, axis=1)) / 10
    assert stated == pytest.approx(true, rel=0.12)


def test_readings_that_agree_by_chance_are_no_surer_than_the_reference() -> None:
    """Of the reference every sample of three readings is 1, 1.02, 1.04: a floor of 4 %."""
    noisy = iter([1.0] * 3 + [1.04] * 3 + [1.02] * 3)
    visits = take_visits(
        lambda number, layers: reading(next(noisy) if number == REFERENCE else (2.0, 3.0)[number]),
        2,
        rounds=3,
        per_layer=False,
        round_seconds=0,
    )
    assert len(visits) == 15
    floors = [timing.latency.noise_floor for timing in summarise(specs_named(16, 24), visits)]
    # The reference's own figure rests on three such samples.
    assert floors == pytest.approx([math.hypot(0.04, 0.04 / math.sqrt(3))] * 2)


@pytest.mark.parametrize(("networks", "rounds", "most"), [(1, 3, 3.0), (1, 8, 2.0), (12, 8, 2.0)])
def test_the_noise_floor_is_that_of_the_ratio_to_the_reference(
    networks: int, rounds: int, most: float
):
    """Sessions compare as such ratios: theirs differ by what a floor says, or less."""
    noise = np.random.default_rng(0)
    ratios, floors = [], []
    for _ in range(300):
        visits = take_visits(
            lambda number, layers: reading(1 + noise.exponential(0.01)),
            networks,
            rounds=rounds,
            per_layer=False,
            round_seconds=0,
        )
        timing = summarise(specs_named(*range(8, 8 + networks)), visits)[0]
        ratios.append(timing.latency.ms / timing.reference_ms)
        floors.append(timing.latency.noise_floor)
    assert 0.95 < np.mean(floors) / (2 * np.std(ratios)) < most


def test_rounds_begin_some_time_apart_and_so_do_those_of_networks_that_disagree(
    monkeypatch: pytest.MonkeyPatch,
):
    """A neighbour makes one network 40 % slower from 5 to 20 s; a visit takes 35 ms."""
    now, rounds = 0.0, 8

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def read(number: int, layers: bool) -> Reading:
        sleep(0.035)
        return reading(1.4 if 5 <= now <= 20 and number != REFERENCE else 1.0)

    monkeypatch.setattr(bench.time, "sleep", sleep)
    monkeypatch.setattr(bench.time, "monotonic", lambda: now)
    visits = take_visits(read, 1, rounds=rounds, per_layer=False, round_seconds=2.0)
    ms = [visit.reading.ms for visit in visits if visit.network == 0]
    assert ms[:3] == [1.0] * 3 and ms[3:9] == [1.4] * 6
    assert ms.count(1.0) == rounds
    assert now == pytest.approx(2.0 * (len(ms) - 1), abs=0.2)


def test_after_a_pause_the_reference_is_read_before_anything_else(monkeypatch: pytest.MonkeyPatch):
    """A neighbour comes in the pause, who slows the network by half; it waits until he has left."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def read(number: int, layers: bool) -> Reading:
        sleep(0.03)
        return reading(1.5 if 1 <= now <= 2.05 else 1.0)

    monkeypatch.setattr(bench.time, "sleep", sleep)
    monkeypatch.setattr(bench.time, "monotonic", lambda: now)
    visits = take_visits(read, 1, rounds=2, per_layer=False, round_seconds=2.0)
    assert [visit.reading.ms for visit in visits if visit.network == 0] == [1.0, 1.0]
    assert counted(visits) == [(1.0, 1.0), (1.0, 1.0)]


def test_the_noise_floor_holds_how_much_faster_or_slower_the_reference_was() -> None:
    """Two sessions of a device that has become 3 % slower, for no network by more than another."""
    first, later = (
        summarise(
            specs_named(8),
            take_visits(
                lambda number, layers, slower=slower: reading((2.0, 1.0)[number] * slower),
                1,
                rounds=3,
                per_layer=False,
                round_seconds=0,
            ),
        )[0]
        for slower in (1.0, 1.03)
    )
    assert first.latency.noise_floor == later.latency.noise_floor == 0
    again = later.rescaled(first.reference_ms / later.reference_ms)
    assert again.latency.ms == pytest.approx(first.latency.ms)
    assert again.latency.noise_floor == pytest.approx(0.03, rel=0.02)
    back = first.rescaled(later.reference_ms / first.reference_ms)
    assert back.latency.noise_floor == pytest.approx(again.latency.noise_floor)
    assert first.rescaled(1.0) == first


def test_wall_statistics_are_of_all_calls_and_the_papers_of_the_first_fifty():
    readings = iter([tuple(map(float, range(40))), tuple(map(float, range(40, 80)))])

    def read(number: int, layers: bool) -> Reading:
        wall = next(readings) if number == 0 else (1.0,)
        ones = (1.0,) * len(wall)
        return Reading(counted_ms=ones, cpu_ms=ones, wall_ms=wall, layer_ms={})

    visits = take_visits(read, 1, rounds=2, per_layer=False, round_seconds=0)
    [timing] = summarise(specs_named(16), visits)
    assert timing.latency.wall_ms_min == 0
    assert timing.latency.wall_ms_median == 39.5
    assert timing.latency.wall_ms_p95 == pytest.approx(0.95 * 79)
    assert timing.latency.wall_ms_mean50 == 24.5
    assert timing.latency.cpu_ms == 1


def test_a_clock_without_ticks_is_refused():
    frozen = Machine().subject(0)
    with pytest.raises(TooCoarse):
        take_visits(lambda number, layers: frozen.read(3, layers), 1, rounds=2, per_layer=False)


class Ramping:
    """An accelerator whose forwards take 10 ms once it is warm; time passes only in them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ms: Callable[[float], float]) -> None:
        self.now, self._ms = 0.0, ms
        monkeypatch.setattr(bench.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(bench.time, "perf_counter", lambda: self.now)

    def warm(self, forwards: int) -> None:
        for _ in range(forwards):
            self.now += self._ms(self.now) / 1000

    def read(self, calls: int, layers: bool) -> Reading:
        taken = [self._ms(self.now) for _ in range(calls)]
        self.now += sum(taken) / 1000
        return reading(*taken)


def test_an_accelerator_is_warmed_up_until_its_clocks_have_risen(monkeypatch: pytest.MonkeyPatch):
    """They rise for 0.4 s: two forwards one after the other differ by less than is looked for."""
    ramping = Ramping(monkeypatch, lambda now: 10.0 * (2.0 - min(now / 0.4, 1.0)))
    bench.settle(ramping)
    assert 0.4 <= ramping.now <= 0.4 + 4 * bench.SETTLE_SECONDS
    steady = Ramping(monkeypatch, lambda now: 10.0)
    bench.settle(steady)
    assert steady.now <= 3 * bench.SETTLE_SECONDS


def test_an_accelerator_that_never_settles_is_measured_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    golden = itertools.count()  # no two of its multiples have nearly the same remainder
    endless = Ramping(monkeypatch, lambda now: 10.0 * (1.0 + next(golden) * 0.618034 % 1.0))
    bench.settle(endless)
    slack = bench.SETTLE_SECONDS + 0.1
    assert bench.SETTLE_MOST_SECONDS <= endless.now <= bench.SETTLE_MOST_SECONDS + slack


def test_an_accelerator_is_warmed_up_after_a_pause_and_not_between_two_visits(
    monkeypatch: pytest.MonkeyPatch,
):
    subject, settled = Ramping(monkeypatch, lambda now: 10.0), list[float]()
    monkeypatch.setattr(bench, "settle", lambda one: settled.append(one.now))
    monkeypatch.setattr(bench, "_gpu_has_room", lambda: True)
    subjects = bench.Subjects(lambda _: (subject, 1), settle=True)
    subjects.read("a", 3, False)
    subjects.read("a", 3, False)
    assert len(settled) == 1
    subject.now += 2 * bench.IDLE_SECONDS
    subjects.read("a", 3, False)
    assert len(settled) == 2


def test_networks_are_timed_warm_without_gradients_and_on_the_cores_of_the_recipe(
    graph: NetworkGraph, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[str, int, bool, int, int]] = []

    class Recorder:
        def warm(self, forwards: int) -> None:
            self._note("warm", forwards)

        def read(self, calls: int, layers: bool) -> Reading:
            self._note("read", calls)
            return reading(*[1.0] * calls)

        def _note(self, what: str, forwards: int) -> None:
            cores = len(bench._affinity() or {0})
            threads = torch.get_num_threads()
            seen.append((what, forwards, torch.is_inference_mode_enabled(), threads, cores))

    monkeypatch.setattr(measure, "make_subject", lambda *_: Recorder())
    monkeypatch.setattr(bench, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: 0.0)
    base = graph.spec(32, 1 / 16)
    wide = graph.spec(32, 1 / 8)
    measure.time_networks(graph, [wide], base, Device(), calls=3, rounds=2, per_layer=False)
    assert {one[2:] for one in seen} == {(True, 1, 1)}
    # Of the reference and of the network: warm after they were built, and again at each visit.
    warmed = [forwards for what, forwards, *_ in seen if what == "warm"]
    assert sorted(warmed, reverse=True)[:2] == [bench.WARM_UP] * 2
    assert set(warmed[2:]) <= {bench.REWARM - 1, bench.WARM_UP}
    # What takes no time is read as often as is allowed, after one forward to see how long it takes.
    calls = [forwards for what, forwards, *_ in seen if what == "read"]
    assert calls == [1, bench.MOST_CALLS] * (len(calls) // 2)


def test_the_median_counts_where_readings_had_to_be_corrected():
    """One calm reading of the reference, 1 ms, then a machine that is half as fast for good."""
    order = [(-1, 1.0), (0, 4.0), (-1, 2.0), (0, 6.0), (-1, 2.0), (0, 10.0), (-1, 2.0)]
    visits = [bench.Visit(network=number, reading=reading(ms)) for number, ms in order]
    assert counted(visits) == [(4.0, 1.0), (6.0, 0.5), (10.0, 0.5)]
    (timing,) = summarise(specs_named(16), visits)
    assert timing.latency.ms == 4.0  # of 4, 3 and 5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_a_measurement_stays_on_its_cores_and_gives_them_back():
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with pytest.raises(KeyError), bench.pinned(1):
        assert os.sched_getaffinity(0) == {max(before)}
        assert torch.get_num_threads() == 1
        raise KeyError
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (before, threads)


def core(cpus: Path, number: int, siblings: str, speed: int) -> None:
    for name, text in (
        ("topology/thread_siblings_list", siblings),
        ("cpufreq/cpuinfo_max_freq", str(speed)),
    ):
        path = cpus / f"cpu{number}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def test_fast_cores_come_first_and_second_threads_of_a_core_last(tmp_path: Path):
    """Two fast cores of two threads each, and two slow ones."""
    for number in range(4):
        core(tmp_path, number, ("0-1", "2-3")[number // 2], 5_000_000)
    for number in (4, 5):
        core(tmp_path, number, str(number), 3_000_000)
    assert bench.cores({*range(6)}, str(tmp_path)) == [3, 1, 5, 4, 2, 0]
    assert bench.cores({0, 1, 4}, str(tmp_path)) == [1, 4, 0]
    assert bench.cores({0, 1, 4}, str(tmp_path / "none")) == [4, 1, 0]


def test_more_threads_than_cores_are_refused():
    most = bench.most_threads()
    assert environment(Device(threads=most))["threads"] == str(most)
    told = rf"is {most + 1}, but .* the program {most}.cores?;"
    with pytest.raises(UserError, match=told):
        environment(Device(threads=most + 1))


@pytest.mark.parametrize(
    ("board", "cpu", "name"),
    [
        ("NVIDIA Jetson Orin Nano\0", "", "NVIDIA Jetson Orin Nano"),
        ("", "model name\t: One\nmodel name\t: Two\n", "One"),
        (
            "linux,dummy-virt",
            "CPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n",
            "0x41 0xd0c 0x3",
        ),
    ],
)
def test_a_device_is_called_by_what_tells_it_from_others(
    monkeypatch: pytest.MonkeyPatch, board: str, cpu: str, name: str
):
    files = {"/proc/device-tree/model": board, "/proc/cpuinfo": cpu}
    monkeypatch.setattr(bench, "_text", files.__getitem__)
    monkeypatch.setattr(bench.platform, "machine", lambda: "aarch64")
    assert bench.cpu_name() in (name, f"aarch64 {name}")


def test_real_networks_are_timed_op_by_op(graph: NetworkGraph, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "ROUND_SECONDS", 0.0)
    specs = [graph.spec(40, 0.1), graph.spec(32, 0.05)]
    threads = torch.get_num_threads()
    timings = measure.time_networks(
        graph, specs, specs[1], Device(batch=2), calls=3, rounds=2, per_layer=True
    ).timings
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()
    for spec, timing in zip(specs, timings, strict=True):
        assert timing.spec == spec
        assert timing.layer_ms is not None
        assert list(timing.layer_ms) == [layer.name for layer in graph.cost(spec).layers]
        assert min(timing.layer_ms.values()) > 0
        assert timing.latency.ms > 0
        assert timing.latency.wall_ms_min <= timing.latency.wall_ms_median
        assert timing.latency.wall_ms_median <= timing.latency.wall_ms_p95
    assert timings[0].reference_ms == timings[1].reference_ms > 0
    assert decode(list[Timing], canonical(timings), "timings") == list(timings)


@pytest.mark.parametrize("options", ["x, scale=0.5", "x, mask=None", "x, *, flag=False, **further"])
def test_a_network_with_options_is_timed_op_by_op(
    options: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "with_options.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        f"    def forward(self, {options}):\n"
        "        return super().forward(x)\n"
        "def net(classes):\n"
        "    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return Net(*layers, nn.Linear(8, classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "with_options", raising=False)
    monkeypatch.setattr(bench, "ROUND_SECONDS", 0.0)
    graph = load_graph(ModelRef(name="with_options:net", classes=4), 16)
    base = graph.spec(16)
    timing = measure.time_networks(
        graph, [base], base, Device(), calls=3, rounds=2, per_layer=True
    ).timings[0]
    assert timing.layer_ms is not None
    assert list(timing.layer_ms) == [layer.name for layer in graph.cost(base).layers]
    assert len(timing.layer_ms) == 5
    make_plan(graph, Request(
        purpose="profile", specs=(base,), reference=base, device=Device(place="offline"),
        calls=3, rounds=2, per_layer=True,
    ))  # fmt: skip


def test_marks_do_not_change_what_a_network_computes(graph: NetworkGraph):
    module = graph.build(graph.spec(32, 0.1), seed=3).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    machine = Machine()
    subject = TorchSubject(module, images, CpuStopwatch(machine.clock, machine.clock))
    marked, names = subject.marked
    with torch.inference_mode():
        assert torch.equal(marked(images), module(images))
    assert names == [layer.name for layer in graph.cost(graph.spec(32, 0.1)).layers]


# Without room, 2 rounds of 2 networks and the reference around each of them build.
@pytest.mark.parametrize(("room", "builds"), [(10**9, 2), (0, 2 * 2 + 2 * 2 + 2)])
def test_networks_are_kept_only_while_there_is_room(
    graph: NetworkGraph, monkeypatch: pytest.MonkeyPatch, room: int, builds: int
):
    built: list[NetworkSpec] = []
    build = graph.build

    def counting(spec: NetworkSpec, seed: int) -> fx.GraphModule:
        built.append(spec)
        return build(spec, seed)

    monkeypatch.setattr(graph, "build", counting)
    monkeypatch.setattr(bench, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(bench, "KEPT_PARAMS", room)
    monkeypatch.setattr(bench, "AGREEMENT", float("inf"))
    monkeypatch.setattr(bench, "CALM", float("inf"))
    monkeypatch.setattr(bench, "MOST_CALM", float("inf"))
    reference, spec = graph.spec(32, 0.05), graph.spec(32, 0.06)
    measure.time_networks(
        graph, [spec, reference], reference, Device(), calls=3, rounds=2, per_layer=False
    )
    assert len(built) == builds


def test_several_threads_are_timed_by_the_wall_clock(
    graph: NetworkGraph, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(bench, "most_threads", lambda: 2)  # on a machine of one core too
    assert "wall" in environment(Device(threads=2))["clock"]
    assert "CPU time" in environment(Device(threads=1))["clock"]
    spec = graph.spec(32, 0.05)
    [timing] = measure.time_networks(
        graph, [spec], spec, Device(threads=2), calls=3, rounds=2, per_layer=False
    ).timings
    assert timing.latency.ms > 0
    counted = {}
    for threads in (1, 2):
        watch = bench.stopwatch("cpu", threads)
        watch.begin()
        time.sleep(0.05)
        watch.mark()
        (counted[threads],) = watch.take().counted
    assert counted[1] < 25 < 50 <= counted[2]  # ms: asleep, a thread takes no time


def test_the_environment_states_what_a_figure_is_valid_for():
    found = environment(Device(threads=1, batch=4))
    assert found["batch"] == "4"
    assert found["torch"] == torch.__version__
    assert found["dtype"] == "float32"
    assert all(isinstance(v, str) and v for v in found.values())
    assert environment(Device(runtime="synthetic"))["runtime"] == "synthetic"


@pytest.mark.parametrize("per_layer", [True, False])
def test_energy_is_of_all_networks_but_in_a_profile_of_the_reference(
    graph: NetworkGraph, monkeypatch: pytest.MonkeyPatch, per_layer: bool
):
    """What was counted is told of the network that ran meanwhile."""
    ran: list[int] = []

    def energy(meter: object, forward: Callable[[], None]) -> Energy:
        forward()
        ran.append(1)
        return Energy(energy_mj=float(len(ran)), power_mw=2.0, idle_mw=1.0, forwards=1)

    monkeypatch.setattr(bench, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(measure, "power_meter", lambda accelerator: (object(), ""))
    monkeypatch.setattr(measure, "measure_energy", energy)
    specs = [graph.spec(32, 0.05), graph.spec(32, 0.1)]
    timings = measure.time_networks(
        graph, specs, specs[1], Device(), calls=3, rounds=2, per_layer=per_layer
    ).timings
    assert [t.spec for t in timings] == specs
    expected = [None, 1.0] if per_layer else [1.0, 2.0]
    assert [t.latency.energy_mj for t in timings] == expected


def test_a_sensor_that_fails_loses_no_times(graph: NetworkGraph, monkeypatch: pytest.MonkeyPatch):
    def failing(meter: object, forward: Callable[[], None]) -> Energy:
        raise SensorFailed("it hangs")

    class Meter:
        name = "a sensor"

    monkeypatch.setattr(bench, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(measure, "power_meter", lambda accelerator: (Meter(), ""))
    monkeypatch.setattr(measure, "measure_energy", failing)
    spec = graph.spec(32, 0.05)
    found = measure.measure_here(graph, [spec], spec, Device(), calls=3, rounds=2, per_layer=False)
    assert found.timings[0].latency.ms > 0 and found.timings[0].latency.energy_mj is None
    assert found.environment["power"] == "not measured: a sensor failed: it hangs"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_accelerator_is_refused(graph: NetworkGraph):
    cuda = Device(accelerator="cuda")
    spec = graph.spec(32, 0.05)
    with pytest.raises(UserError, match="no CUDA device"):
        measure.time_networks(graph, [spec], spec, cuda, calls=3, rounds=1, per_layer=False)
    with pytest.raises(UserError, match="no CUDA device"):
        environment(cuda)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_events_time_networks_and_ops(graph: NetworkGraph):
    spec = graph.spec(32, 0.25)
    cuda = Device(accelerator="cuda")
    found = measure.time_networks(graph, [spec], spec, cuda, calls=3, rounds=2, per_layer=True)
    [timing] = found.timings
    assert timing.latency.ms > 0
    assert timing.layer_ms is not None
    assert list(timing.layer_ms) == [layer.name for layer in graph.cost(spec).layers]
    assert min(timing.layer_ms.values()) >= 0
    found = environment(cuda)
    assert found["device"] == torch.cuda.get_device_name()
    assert found["clock"] == "CUDA events"
    assert found["cudnn.benchmark"] in ("True", "False")


def conv(cout: int) -> LayerCost:
    return LayerCost(
        name="c",
        kind="conv",
        cin=3,
        cout=cout,
        hin=8,
        win=8,
        hout=8,
        wout=8,
        kernel=(3, 3),
        macs=3 * 9 * cout * 64,
    )


def test_the_synthetic_device_is_its_formula():
    # 17 channels are computed as 32: 27·32·64 MACs; 192 + 1088 activations; 459 weights.
    expected = 0.002 + 459 / 4e6 + 2 * (27 * 32 * 64 / 20e6 + (192 + 1088) / 2e6)
    assert synthetic.layer_ms(conv(17), batch=2) == pytest.approx(expected)


def test_the_synthetic_device_has_a_staircase():
    ms = [synthetic.layer_ms(conv(c), 1) for c in (16, 17, 32, 33)]
    assert ms[1] - ms[0] > 5 * (ms[2] - ms[1]) / 15
    assert ms[3] - ms[2] > 5 * (ms[2] - ms[1]) / 15


def test_networks_on_the_synthetic_device_are_sums_without_noise(graph: NetworkGraph):
    device = Device(runtime="synthetic", batch=3)
    specs = [graph.spec(32, 0.5), graph.spec(64, 1.0)]
    timings = measure.time_networks(
        graph, specs, specs[0], device, calls=3, rounds=1, per_layer=True
    ).timings
    for spec, timing in zip(specs, timings, strict=True):
        layers = {c.name: synthetic.layer_ms(c, 3) for c in graph.cost(spec).layers}
        assert timing.layer_ms == layers
        assert timing.latency.ms == timing.latency.wall_ms_p95 == sum(layers.values())
        assert timing.latency.noise_floor == 0
        assert timing.reference_ms == timings[0].latency.ms
