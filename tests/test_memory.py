"""Peak activation memory against PyTorch's own storages, and against hand-made graphs."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.codec import canonical, decode
from engine.costs import LayerCost
from engine.formula import Count, LayerFormula, NetworkFormula
from engine.graph import NetworkGraph, load_graph
from engine.memory import ActivationMemory, memory_bytes, sizes_of
from engine.spec import ModelRef, NetworkSpec
from engine.widening import LayerCosts, NetworkWidening, plateaus


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the floating-point storages that are alive, as ops make them."""

    def __init__(self, *inputs: torch.Tensor) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()
        for tensor in inputs:
            self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                self._count(leaf)
        return found

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def counted(graph: NetworkGraph, spec: NetworkSpec, batch: int) -> int:
    module = graph.skeleton(spec).eval()
    images = torch.empty(
        batch, spec.model.channels, spec.resolution, spec.resolution, device="meta"
    )
    owned = {p.untyped_storage()._cdata for p in (*module.parameters(), *module.buffers())}
    tracker = LiveBytes(images)
    tracker._seen |= owned
    with torch.inference_mode(), tracker:
        module(images)
    return tracker.peak


NETWORKS = (
    *(("vgg11", 32), ("resnet18", 64), ("mobilenet_v2", 64), ("densenet121", 64)),
    *(("shufflenet_v2_x0_5", 64), ("convnext_tiny", 64), ("googlenet", 64)),
)


@pytest.mark.parametrize(("name", "resolution"), NETWORKS, ids=[n for n, _ in NETWORKS])
def test_the_peak_is_that_of_the_storages_of_pytorch(name: str, resolution: int) -> None:
    graph = load_graph(ModelRef(name=name, classes=10), resolution)
    wider = {g.name: g.base + g.multiple * (1 + k % 5) for k, g in enumerate(graph.groups)}
    for spec in (graph.spec(resolution), graph.spec(resolution).with_widths(wider)):
        formula = graph.formula(spec)
        found = memory_bytes(formula, spec, 3) - 4 * formula.cost(spec.width_of).params
        assert found == counted(graph, spec, 3)


def layer(index: int, inputs: tuple[int, ...], storage: int | None = None) -> LayerFormula:
    one = Count(1, ())
    return LayerFormula(
        name=f"op{index}",
        kind="add",
        cin=one,
        cout=one,
        learnt=one,
        hin=1,
        win=1,
        hout=1,
        wout=1,
        kernel=(1, 1),
        stride=1,
        groups=1,
        repeated=False,
        inputs=inputs,
        storage=index if storage is None else storage,
    )


def test_a_shortcut_lives_until_it_is_added() -> None:
    """By hand: with op 0 kept for op 3, the peak is at op 2: 7 of input, 5, 20 and 30."""
    layers = [layer(0, (-1,)), layer(1, (0,)), layer(2, (1,)), layer(3, (0, 2))]
    sizes = np.array([5, 20, 30, 5])
    assert ActivationMemory(layers, 7, 1).peak_bytes(sizes) == 4 * (7 + 5 + 20 + 30)
    assert ActivationMemory(layers, 7, 3).peak_bytes(sizes) == 12 * (7 + 5 + 20 + 30)
    chain = [layer(0, (-1,)), layer(1, (0,)), layer(2, (1,)), layer(3, (2,))]
    assert ActivationMemory(chain, 7, 1).peak_bytes(sizes) == 4 * (7 + 20 + 30)


def test_a_view_keeps_alive_what_it_looks_at() -> None:
    layers = [layer(0, (-1,)), layer(1, (0,), storage=0), layer(2, (-1,)), layer(3, (1, 2))]
    sizes = np.array([5, 5, 20, 1])
    assert ActivationMemory(layers, 7, 1).peak_bytes(sizes) == 4 * (7 + 5 + 20 + 1)


class Flat:
    """A latency model of which only the memory matters."""

    offset_ms = 1.0

    def __init__(self, grain: int = 1) -> None:
        self.grain = grain
        self.box = self

    def check(self, spec: NetworkSpec) -> None:
        pass

    def check_width(self, group: str, width: int) -> None:
        pass

    def layer_ms(self, cost: LayerCost) -> float:
        return 0.0

    def granularity(self, cost: LayerCost) -> int:
        return self.grain * (2 if cost.kernel == (1, 1) else 1)


RESNET = load_graph(ModelRef(name="resnet18", classes=10), 64)


@settings(max_examples=20)
@given(data=st.data())
def test_memory_after_a_step_is_that_of_the_whole_network(data: st.DataObject) -> None:
    base = RESNET.spec(64, 0.25)
    formula = RESNET.formula(base)
    widening = NetworkWidening(LayerCosts(formula, Flat()), batch=2)
    for _ in range(4):
        group = data.draw(st.sampled_from(list(widening.widths)))
        width = widening.widths[group] + data.draw(st.integers(0, 40))
        before, after = widening.usage, widening.after(group, width)
        spec = base.with_widths({**widening.widths, group: width})
        assert after.memory_bytes == memory_bytes(formula, spec, 2)
        assert (before.memory_bytes or 0) <= (after.memory_bytes or 0)
        widening.widen(group, width)
        assert widening.usage == after
    assert NetworkWidening(LayerCosts(formula, Flat())).usage.memory_bytes is None


def test_sizes_are_the_elements_of_the_shapes() -> None:
    spec = RESNET.spec(64, 0.5)
    shapes = RESNET.shapes(spec).values()
    assert sizes_of(RESNET.cost(spec).layers).tolist() == [int(np.prod(s[1:])) for s in shapes]


def test_a_formula_is_the_network_after_a_round_trip() -> None:
    spec = RESNET.spec(64, 0.5)
    formula = RESNET.formula(spec)
    again = decode(NetworkFormula, canonical(formula), "the formula")
    assert again == formula
    assert again.cost(spec.width_of) == RESNET.cost(spec)


def test_plateaus_are_the_largest_granularity_of_the_writers() -> None:
    """The residual groups are written by 3×3 and, at their ends, by 1×1 convolutions."""
    found = plateaus(RESNET.formula(RESNET.spec(64)), Flat(8))
    assert {found[g] for g in ("conv1", "layer1.0.conv1")} == {8}
    assert found["layer2.0.conv2"] == 16
    grouped = load_graph(ModelRef(name="resnext50_32x4d", classes=10), 64)
    formula = grouped.formula(grouped.spec(64))
    for group, plateau in plateaus(formula, Flat(12)).items():
        assert plateau % formula.multiples[group] == 0
