"""Gates on channels: their gradients by autograd, and what is left when they are closed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from engine.carry import carry_weights
from engine.errors import UserError
from engine.gates import ChannelGates, check_scales
from engine.graph import NetworkGraph, load_graph
from engine.spec import ModelRef, NetworkSpec

SIDE = 12


class BatchNormWithoutScale(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class Folded(nn.Module):
    """A batch norm over flattened channels, and a transposed convolution in groups."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 6, 2, stride=2)
        self.out = nn.ConvTranspose2d(6, 4, 1, groups=2)
        self.pool, self.norm = nn.AdaptiveAvgPool2d(2), nn.BatchNorm1d(16)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.out(self.up(x).relu()).relu()
        return self.head(self.norm(torch.flatten(self.pool(x), 1)))


class Blocks(nn.Module):
    """A norm over a concatenation, as in DenseNet; an inverted residual, as in MobileNetV2."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.grown = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, padding=1)
        self.both = nn.BatchNorm2d(10)
        self.down, self.down_norm = nn.Conv2d(10, 5, 1), nn.BatchNorm2d(5)
        self.expand, self.expand_norm = nn.Conv2d(5, 9, 1), nn.BatchNorm2d(9)
        self.depthwise = nn.Conv2d(9, 9, 3, padding=1, groups=9)
        self.depthwise_norm = nn.BatchNorm2d(9)
        self.project, self.project_norm = nn.Conv2d(9, 5, 1), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.both(torch.cat([x, self.grown(x)], 1)).relu()
        x = self.down_norm(self.down(x))
        y = self.expand_norm(self.expand(x)).relu()
        y = self.depthwise_norm(self.depthwise(y)).relu()
        return self.head((x + self.project_norm(self.project(y))).mean((2, 3)))


def blocks(classes: int) -> nn.Module:
    return Blocks(classes)


def without_scale(classes: int) -> nn.Module:
    return BatchNormWithoutScale(classes)


def folded(classes: int) -> nn.Module:
    return Folded(classes)


def graph_of(name: str, side: int = SIDE) -> NetworkGraph:
    return load_graph(ModelRef(name=name, classes=3), side)


def unlike(module: nn.Module, seed: int = 0) -> nn.Module:
    """Gives all weights and statistics values of their own, as a training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.empty_like(tensor).uniform_(0.1, 0.5, generator=generator))
    return module


def backward(module: nn.Module, side: int = SIDE) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 3, side, side, generator=generator, dtype=torch.float64)
    labels = torch.arange(6) % 3
    nn.functional.cross_entropy(module(images), labels).backward()


# Where the gates of a group stand, written down by hand: the layer, its first channel, into how
# many parts the group's channels are cut, and how often in a row each stands.
RESIDUAL = {
    "stem": [("stem_norm", 0, 3, 1), ("outer", 0, 3, 1)],
    "inner": [("inner_norm", 0, 3, 1)],
    "hidden": [("hidden_norm", 0, 1, 1)],
}
FOLDED = {"up": [("up", 0, 2, 1)], "out": [("out", 0, 2, 1), ("norm", 0, 2, 4)]}
BLOCKS = {
    "stem": [("stem", 0, 1, 1), ("both", 0, 1, 1)],
    "grown": [("grown", 0, 1, 1), ("both", 6, 1, 1)],
    "down": [("down_norm", 0, 1, 1), ("project_norm", 0, 1, 1)],
    "expand": [("expand_norm", 0, 1, 1), ("depthwise_norm", 0, 1, 1)],
}


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("tiny_training:residual", RESIDUAL),
        ("test_gates:folded", FOLDED),
        ("test_gates:blocks", BLOCKS),
    ],
    ids=["residual", "folded", "blocks"],
)
def test_the_gradient_of_a_gate_is_that_of_autograd(
    name: str, places: dict[str, list[tuple[str, int, int, int]]]
) -> None:
    graph = graph_of(name)
    spec = graph.spec(SIDE)
    module = unlike(graph.build(spec, 0)).double()
    gates = {
        group: torch.ones(
            width // graph.group(group).multiple, dtype=torch.float64, requires_grad=True
        )
        for group, width in spec.widths
    }

    def gated(gate: Tensor, first: int, parts: int, times: int) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, args: object, output: Tensor) -> Tensor:
            factors = [torch.tensor(1.0)] * output.shape[1]
            channel = first
            for _ in range(parts):
                for unit in gate:
                    for _ in range(times):
                        factors[channel] = unit
                        channel += 1
            return output * torch.stack(factors).view(1, -1, *(1,) * (output.dim() - 2))

        return hook

    for group, layers in places.items():
        for path, *where in layers:
            module.get_submodule(path).register_forward_hook(gated(gates[group], *where))
    backward(module)
    expected = torch.cat([gate.grad for gate in gates.values()])
    assert expected.abs().min() > 1e-9
    found = ChannelGates(graph, spec, module).gradients()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def narrower(graph: NetworkGraph, spec: NetworkSpec, by: int = 1) -> NetworkSpec:
    return spec.with_widths({g: w - by * graph.group(g).multiple for g, w in spec.widths})


@pytest.mark.parametrize(
    "name",
    [
        "tiny_training:residual",
        "test_gates:folded",
        *(
            f"example_networks:{network}"
            for network in ("SharedConv", "CutSum", "Chunk", "DepthMultiplier", "Grouped", "UNet")
        ),
        "example_networks:SqueezeExcite",
        "test_gates:blocks",
        "vgg11",
    ],
)
def test_a_network_with_closed_gates_computes_what_one_without_the_channels_does(
    name: str,
) -> None:
    """The last channel of every group is gone; the other network is made by another way."""
    side = 32 if ":" not in name else SIDE
    graph = graph_of(name, side)
    spec = graph.spec(side, 0.125) if ":" not in name else graph.spec(side)
    spec = spec.with_widths({g: max(w, 2 * graph.group(g).multiple) for g, w in spec.widths})
    module = unlike(graph.build(spec, 0)).double().eval()
    smaller = narrower(graph, spec)
    expected = graph.build(smaller, 1).double().eval()
    carry_weights(module.state_dict(), graph, spec, smaller, expected)
    gates = ChannelGates(graph, spec, module)
    opened = gates.opened()
    first = 0
    for count in gates.counts:
        first += count
        opened[first - 1] = False
    assert gates.widths(opened) == smaller.width_of
    gates.close(opened)
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(module(images), expected(images), rtol=1e-9, atol=1e-9)


def test_closed_gates_have_no_gradient_and_open_ones_are_left_alone() -> None:
    graph = graph_of("tiny_training:residual")
    spec = graph.spec(SIDE)
    module = unlike(graph.build(spec, 0)).double()
    before = {name: tensor.clone() for name, tensor in module.named_parameters()}
    gates = ChannelGates(graph, spec, module)
    gates.close(gates.opened())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.named_parameters())
    opened = gates.opened()
    opened[0] = opened[-1] = False
    gates.close(opened)
    backward(module)
    assert (gates.gradients() == 0).tolist() == [not keep for keep in opened.tolist()]


def test_the_largest_scale_of_a_channel_counts() -> None:
    """Groups without batch norm have no scale; one of three parts has a larger one here."""
    graph = graph_of("tiny_training:residual")
    module = graph.build(graph.spec(SIDE), 0)
    with torch.no_grad():
        module.get_submodule("inner_norm").weight.copy_(
            torch.tensor([0.1, -0.2, 0.3, 0.05, 0.0, -0.9])
        )
    scales = ChannelGates(graph, graph.spec(SIDE), module).scales()
    assert scales.tolist() == pytest.approx([1, 1, 0.3, 0.9, *[1] * 8])
    folded_graph = graph_of("test_gates:folded")
    module = folded_graph.build(folded_graph.spec(SIDE), 0)
    scales = ChannelGates(folded_graph, folded_graph.spec(SIDE), module).scales()
    assert scales.tolist() == [torch.inf] * 3 + [1.0] * 2


def test_networks_that_cannot_be_judged_are_one_line() -> None:
    graph = graph_of("test_gates:without_scale")
    with pytest.raises(UserError, match=r"channels of conv cannot be judged.*affine=True"):
        ChannelGates(graph, graph.spec(SIDE), graph.build(graph.spec(SIDE), 0))
    with pytest.raises(UserError, match="has no batch norm with learnt scales"):
        check_scales(graph, SIDE)
    check_scales(graph_of("tiny_training:residual"), SIDE)


def test_a_layer_without_gradient_is_named() -> None:
    graph = graph_of("tiny_training:residual")
    module = graph.build(graph.spec(SIDE), 0)
    with pytest.raises(UserError, match="'stem_norm' has no gradient"):
        ChannelGates(graph, graph.spec(SIDE), module).gradients()
