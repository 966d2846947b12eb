from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from engine import measure, synthetic
from engine.codec import canonical, decode
from engine.costs import LayerCost
from engine.errors import UserError
from engine.graph import NetworkGraph, load_graph
from engine.measure import CpuStopwatch, Reading, Subject, Timing, environment, interleave
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

    def subject(self, *op_ms: float) -> Subject:
        """A network of ops that take so long."""
        graph = fx.Graph()
        value = graph.placeholder("x")
        for ms in op_ms:
            value = graph.call_function(self._op(ms), (value,))
        graph.output(value)
        watch = CpuStopwatch(self.clock, self.clock)
        return Subject(fx.GraphModule(torch.nn.Module(), graph), torch.zeros(1), watch)

    def _op(self, ms: float):
        def op(x: torch.Tensor) -> torch.Tensor:
            self.spend(ms)
            return x

        return op


def specs_named(*resolutions: int) -> list[NetworkSpec]:
    return [NetworkSpec(model=MODEL, resolution=r, widths=()) for r in resolutions]


def test_ops_are_timed_inside_whole_forwards():
    reading = Machine().subject(3, 5, 0.5).read(calls=4, layers=True)
    assert reading.ms == 8.5
    assert reading.wall_ms == (8.5,) * 4
    assert reading.layer_ms == {"op": 3, "op_1": 5, "op_2": 0.5}


def test_the_minimum_of_the_calls_counts():
    machine = Machine(slow_from=9)
    reading = machine.subject(3, 5).read(calls=3, layers=False)
    assert reading.ms == 8
    assert reading.wall_ms == (8, 3 + 2 * 5, 16)
    assert reading.layer_ms == {}


@given(slow_from=st.floats(0, 3000))
def test_drift_is_corrected_whenever_the_machine_becomes_half_as_fast(slow_from: float):
    machine = Machine(slow_from=slow_from)
    costs = {8: (1.0, 3.0), 16: (2.0, 4.0), 24: (5.0, 5.0), 32: (20.0, 7.0)}
    subjects = {r: machine.subject(*ms) for r, ms in costs.items()}
    reference, *specs = specs_named(*costs)

    timings = interleave(
        lambda spec, layers: subjects[spec.resolution].read(3, layers),
        specs,
        reference,
        rounds=3,
        per_layer=True,
    )

    for timing in timings:
        first, second = costs[timing.spec.resolution]
        scale = timing.reference_ms / 4
        assert 1 <= scale <= 2
        assert timing.latency.ms == pytest.approx((first + second) * scale)
        assert timing.layer_ms == pytest.approx({"op": first * scale, "op_1": second * scale})
        assert timing.latency.noise_floor == pytest.approx(0, abs=1e-9)


def test_a_network_whose_rounds_disagree_is_visited_again_but_not_for_ever():
    reference, calm, once, wild = specs_named(8, 16, 24, 32)
    wanted = {calm: [2.0] * 3, once: [3.0, 4.0, 3.0, 3.0], wild: [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]}
    left = {spec: list(values) for spec, values in wanted.items()}
    progress: list[tuple[int, int]] = []

    def read(spec: NetworkSpec, layers: bool) -> Reading:
        ms = 1.0 if spec == reference else left[spec].pop(0)
        return Reading(ms=ms, wall_ms=(ms, ms), layer_ms={})

    timings = interleave(
        read,
        [calm, once, wild],
        reference,
        rounds=3,
        per_layer=False,
        on_progress=lambda done, total: progress.append((done, total)),
    )

    assert not any(left.values())
    assert [t.spec for t in timings] == [calm, once, wild]
    assert [t.latency.ms for t in timings] == [2, 3, 2]
    assert [t.latency.noise_floor for t in timings] == [0, 0, 1.5]
    assert [t.layer_ms for t in timings] == [None] * 3
    assert [done for done, _ in progress] == list(range(1, 14))
    assert progress[-1] == (13, 13)
    assert all(done <= total for done, total in progress)


def test_wall_statistics_are_of_all_calls_and_the_papers_of_the_first_fifty():
    reference, spec = specs_named(8, 16)
    readings = iter([tuple(float(i) for i in range(40)), tuple(float(i) for i in range(40, 80))])

    def read(which: NetworkSpec, layers: bool) -> Reading:
        wall = next(readings) if which == spec else (1.0,)
        return Reading(ms=1.0, wall_ms=wall, layer_ms={})

    [timing] = interleave(read, [spec], reference, rounds=2, per_layer=False)
    assert timing.latency.wall_ms_min == 0
    assert timing.latency.wall_ms_median == 39.5
    assert timing.latency.wall_ms_p95 == pytest.approx(0.95 * 79)
    assert timing.latency.wall_ms_mean50 == 24.5


def test_a_clock_without_ticks_is_refused():
    frozen = Machine().subject(0)
    with pytest.raises(UserError, match="too coarse"):
        interleave(
            lambda spec, layers: frozen.read(3, layers),
            specs_named(16),
            specs_named(8)[0],
            rounds=1,
            per_layer=False,
        )


def test_real_networks_are_timed_op_by_op(graph: NetworkGraph):
    specs = [graph.spec(40, 0.1), graph.spec(32, 0.05)]
    threads = torch.get_num_threads()
    timings = measure.time_networks(
        graph, specs, specs[1], Device(batch=2), calls=3, rounds=2, per_layer=True
    )
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
    assert decode(list[Timing], canonical(timings), "timings") == timings


def test_marks_do_not_change_what_a_network_computes(graph: NetworkGraph):
    module = graph.build(graph.spec(32, 0.1), seed=3).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    machine = Machine()
    subject = Subject(module, images, CpuStopwatch(machine.clock, machine.clock))
    marked, names = subject.marked
    with torch.inference_mode():
        assert torch.equal(marked(images), module(images))
    assert names == [layer.name for layer in graph.cost(graph.spec(32, 0.1)).layers]


# Without room, 2 rounds of 2 networks and the reference around each of them build.
@pytest.mark.parametrize(("room", "builds"), [(10**9, 2), (0, 2 * 2 + 2 * 2 + 1)])
def test_networks_are_kept_only_while_there_is_room(
    graph: NetworkGraph, monkeypatch: pytest.MonkeyPatch, room: int, builds: int
):
    built: list[NetworkSpec] = []
    build = graph.build

    def counting(spec: NetworkSpec, seed: int) -> fx.GraphModule:
        built.append(spec)
        return build(spec, seed)

    monkeypatch.setattr(graph, "build", counting)
    monkeypatch.setattr(measure, "KEPT_PARAMS", room)
    monkeypatch.setattr(measure, "AGREEMENT", float("inf"))
    reference, spec = graph.spec(32, 0.05), graph.spec(32, 0.06)
    measure.time_networks(
        graph, [spec, reference], reference, Device(), calls=3, rounds=2, per_layer=False
    )
    assert len(built) == builds


def test_several_threads_are_timed_by_the_wall_clock(graph: NetworkGraph):
    assert "wall" in environment(Device(threads=2))["clock"]
    assert "CPU time" in environment(Device(threads=1))["clock"]
    spec = graph.spec(32, 0.05)
    [timing] = measure.time_networks(
        graph, [spec], spec, Device(threads=2), calls=3, rounds=1, per_layer=False
    )
    assert timing.latency.ms > 0


def test_the_environment_states_what_a_figure_is_valid_for():
    found = environment(Device(threads=1, batch=4))
    assert found["batch"] == "4"
    assert found["torch"] == torch.__version__
    assert found["dtype"] == "float32"
    assert all(isinstance(v, str) and v for v in found.values())
    assert environment(Device(runtime="synthetic"))["runtime"] == "synthetic"


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
    [timing] = measure.time_networks(graph, [spec], spec, cuda, calls=3, rounds=2, per_layer=True)
    assert timing.latency.ms > 0
    assert timing.layer_ms is not None
    assert list(timing.layer_ms) == [layer.name for layer in graph.cost(spec).layers]
    assert min(timing.layer_ms.values()) >= 0
    assert environment(cuda)["gpu"]


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
    )
    for spec, timing in zip(specs, timings, strict=True):
        layers = {c.name: synthetic.layer_ms(c, 3) for c in graph.cost(spec).layers}
        assert timing.layer_ms == layers
        assert timing.latency.ms == timing.latency.wall_ms_p95 == sum(layers.values())
        assert timing.latency.noise_floor == 0
        assert timing.reference_ms == timings[0].latency.ms
