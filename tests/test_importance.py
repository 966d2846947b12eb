"""Eq. 5 against loops over every kernel and every weight."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.errors import UserError
from engine.importance import ImportanceMeter

WRITERS = {
    "stem": ("stem", "project"),  # a residual group: two writers of the same channels
    "grouped": ("grouped",),
    "up": ("up",),
    "hidden": ("hidden",),
}


class Small(nn.Module):
    """Every kind of writer: plain, grouped and transposed convolutions, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.project = nn.Conv2d(6, 4, 1)
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
        self.hidden = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = x + self.project(self.grouped(x).relu())
        return self.head(self.hidden(self.up(x).relu().mean((2, 3))).relu())


def network() -> Small:
    torch.manual_seed(0)
    return Small()


def backward(net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 3, 5, 5, generator=generator)
    y = torch.randint(3, (8,), generator=generator)
    net.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()


def kernel(conv: Any, out: int) -> list[tuple[float, float]]:
    """(gradient, weight) of every weight that leads to output channel ``out``."""
    weight, grad = conv.weight.detach(), conv.weight.grad
    if isinstance(conv, nn.ConvTranspose2d):
        # Weights are (in, out per group, ...): output `out` is fed by its own group of inputs.
        per_group = conv.out_channels // conv.groups
        inputs_per_group = conv.in_channels // conv.groups
        first = (out // per_group) * inputs_per_group
        inputs = range(first, first + inputs_per_group)
        pairs = [(grad[i, out % per_group], weight[i, out % per_group]) for i in inputs]
        return [
            (float(g), float(m))
            for gs, ms in pairs
            for g, m in zip(gs.flatten(), ms.flatten(), strict=True)
        ]
    return [
        (float(g), float(m))
        for g, m in zip(grad[out].flatten(), weight[out].flatten(), strict=True)
    ]


def by_loops(net: Small, names: tuple[str, ...]) -> float:
    total = 0.0
    for name in names:
        module: Any = net.get_submodule(name)
        count = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        kernels = [sum((g * m) ** 2 for g, m in kernel(module, out)) for out in range(count)]
        total += sum(kernels) / len(kernels)
    return total


def test_one_step_equals_loops_over_every_kernel_and_weight() -> None:
    net = network()
    meter = ImportanceMeter(net, WRITERS)
    backward(net, seed=1)
    meter.update()
    expected = {group: by_loops(net, names) for group, names in WRITERS.items()}
    assert meter.means() == pytest.approx(expected, rel=1e-6)
    assert min(expected.values()) > 0


def test_steps_are_averaged_while_the_weights_move() -> None:
    net = network()
    meter = ImportanceMeter(net, WRITERS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    expected = dict.fromkeys(WRITERS, 0.0)
    for seed in range(3):
        backward(net, seed)
        meter.update()
        for group, names in WRITERS.items():
            expected[group] += by_loops(net, names) / 3
        optimizer.step()
    assert meter.means() == pytest.approx(expected, rel=1e-6)


def test_the_mean_over_kernels_does_not_change_when_a_layer_is_repeated() -> None:
    """Twice the same kernels: the sum doubles, Eq. 5 does not."""
    conv = nn.Conv2d(2, 3, 3)
    twice = nn.Conv2d(2, 6, 3)
    torch.manual_seed(0)
    conv.weight.grad = torch.randn_like(conv.weight)
    twice.weight = nn.Parameter(torch.cat([conv.weight.detach()] * 2))
    twice.weight.grad = torch.cat([conv.weight.grad] * 2)
    net = nn.ModuleDict({"conv": conv, "twice": twice})
    meter = ImportanceMeter(net, {"conv": ("conv",), "twice": ("twice",)})
    meter.update()
    means = meter.means()
    assert means["twice"] == pytest.approx(means["conv"], rel=1e-12)


def test_biases_and_other_parameters_do_not_count() -> None:
    net = network()
    backward(net, seed=1)
    meter = ImportanceMeter(net, WRITERS)
    meter.update()
    for name, parameter in net.named_parameters():
        if name.endswith("bias") or name.startswith(("norm", "head")):
            parameter.data.add_(100)
            parameter.grad = torch.full_like(parameter, 100)
    again = ImportanceMeter(net, WRITERS)
    again.update()
    assert again.means() == meter.means()


def test_tiny_gradients_do_not_underflow() -> None:
    """(g·m)² of 1e-60 is zero in float32."""
    conv = nn.Conv2d(1, 1, 1)
    conv.weight = nn.Parameter(torch.full((1, 1, 1, 1), 1e-10))
    conv.weight.grad = torch.full((1, 1, 1, 1), 1e-20)
    meter = ImportanceMeter(nn.Sequential(conv), {"conv": ("0",)})
    meter.update()
    assert meter.means()["conv"] == pytest.approx(1e-60, rel=1e-5)


def test_a_layer_without_gradient_is_named() -> None:
    net = network()
    backward(net, seed=1)
    net.grouped.weight.grad = None
    with pytest.raises(UserError, match="'grouped' has no gradient"):
        ImportanceMeter(net, WRITERS).update()


def test_a_failed_step_leaves_the_meter_as_it_was() -> None:
    net = network()
    backward(net, seed=1)
    meter = ImportanceMeter(net, WRITERS)
    meter.update()
    before = meter.means()
    net.hidden.weight.grad = None
    with pytest.raises(UserError):
        meter.update()
    assert meter.means() == before


def test_only_layers_with_kernels_can_write() -> None:
    with pytest.raises(UserError, match="'norm' must be a convolution or linear layer"):
        ImportanceMeter(network(), {"g": ("norm",)})
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(UserError, match="'0' must hold its weight as a parameter"):
        ImportanceMeter(net, {"g": ("0",)})


def test_no_mean_before_the_first_step() -> None:
    with pytest.raises(ValueError, match="before the first update"):
        ImportanceMeter(network(), WRITERS).means()


def test_a_restored_meter_goes_on_bit_by_bit(tmp_path: Path) -> None:
    net = network()
    through = ImportanceMeter(net, WRITERS)
    for seed in range(2):
        backward(net, seed)
        through.update()
    torch.save(through.state(), tmp_path / "meter")
    restored = ImportanceMeter(net, WRITERS)
    restored.load_state(torch.load(tmp_path / "meter", weights_only=True))
    assert restored.means() == through.means()
    backward(net, seed=2)
    for meter in (through, restored):
        meter.update()
    assert restored.means() == through.means()


def test_a_state_does_not_change_with_later_steps() -> None:
    net = network()
    meter = ImportanceMeter(net, WRITERS)
    backward(net, seed=0)
    meter.update()
    state, means = meter.state(), meter.means()
    restored = ImportanceMeter(net, WRITERS)
    restored.load_state(state)
    backward(net, seed=1)
    meter.update()
    assert restored.means() == means
    restored.load_state(state)
    assert restored.means() == means != meter.means()


def test_a_state_of_other_groups_is_refused() -> None:
    meter = ImportanceMeter(network(), WRITERS)
    with pytest.raises(ValueError, match="must have 4 sums"):
        meter.load_state({"sums": torch.zeros(3, dtype=torch.float64), "updates": torch.tensor(1)})


class NoRead(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading a value or copying it over."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.copy_.default,
            torch.ops.aten._to_copy.default,
            torch.ops.aten.nonzero.default,
        ), f"{func} reads from the device"
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing_from_the_device() -> None:
    net = network()
    backward(net, seed=1)
    meter = ImportanceMeter(net, WRITERS)
    with NoRead():
        meter.update()
    with pytest.raises(AssertionError, match="reads from the device"), NoRead():
        float(meter.state()["sums"][0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_does_not_synchronise_and_agrees_with_the_cpu() -> None:
    net = network()
    backward(net, seed=1)
    expected = ImportanceMeter(net, WRITERS)
    expected.update()
    moved = network().cuda()
    for here, there in zip(net.parameters(), moved.parameters(), strict=True):
        assert here.grad is not None
        there.grad = here.grad.cuda()
    meter = ImportanceMeter(moved, WRITERS)
    torch.cuda.set_sync_debug_mode("error")
    try:
        meter.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.means() == pytest.approx(expected.means(), rel=1e-6)
    assert all(math.isfinite(v) for v in meter.means().values())
