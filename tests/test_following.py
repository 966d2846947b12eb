"""Networks whose authors spell, pool and keep things in other ways than most."""

import pytest
import torch
from example_networks import Net
from torch import nn
from torch.nn import functional as F

from engine import functions
from engine.carry import carry_weights
from engine.check import check_network
from engine.errors import UserError
from engine.graph import load_graph
from engine.spec import ModelRef


def graph_of(factory, resolution=16):
    return load_graph(ModelRef(name=f"test_following:{factory.__name__}", classes=5), resolution)


# Buffers -------------------------------------------------------------------------------------


class Masked(nn.Conv2d):
    """A convolution with a buffer of its own."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.register_buffer("mask", torch.arange(9.0).view(3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class DropPath(nn.Module):
    """A drop path that asks for a value in training, with its probability in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("p", torch.tensor(0.25))

    def forward(self, x):
        if not self.training or torch.rand((), device=x.device) < self.p:
            return x
        return 2 * x


class ScaledNorm(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("scale", torch.tensor([3.0]))
        self.running_mean.fill_(7.0)  # as if it were trained

    def forward(self, x):
        return self.scale * super().forward(x)


class Buffers(Net):
    """Buffers inside layers, and two that are not kept with the weights."""

    def __init__(self, classes):
        super().__init__(classes)
        self.masked, self.drop, self.norm = Masked(8, 8, 3), DropPath(), ScaledNorm(8)
        mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("gain", torch.full((1, 8, 1, 1), 0.5), persistent=False)

    def body(self, x):
        return self.norm(self.drop(self.masked(x))) * self.gain

    def forward(self, x):
        return super().forward(x - self.mean)


@pytest.mark.parametrize("multiplier", [1.0, 2.0])
def test_buffers_inside_layers_keep_the_values_of_the_original(multiplier, monkeypatch):
    # Memory that was in use before: what is not given a value is not zero by chance.
    def dirty(tensor, **options):
        return torch.full_like(tensor, 99, **options)

    monkeypatch.setattr(torch, "empty_like", dirty)
    graph = graph_of(Buffers)
    module = graph.build(graph.spec(16, multiplier), 0)
    original = Buffers(5)
    for name in ("masked.mask", "drop.p", "norm.scale", "mean"):
        assert torch.equal(module.get_buffer(name), original.get_buffer(name)), name
    assert bool((module.get_buffer("gain") == 0.5).all())
    norm = module.get_submodule("norm")
    assert not norm.running_mean.any() and bool((norm.running_var == 1).all())
    assert norm.num_batches_tracked == 0


def test_buffers_that_are_not_kept_are_not_carried():
    graph = graph_of(Buffers)
    spec, wider = graph.spec(16), graph.spec(16, 2.0)
    source, target = graph.build(spec, 0).eval(), graph.build(wider, 1).eval()
    assert carry_weights(source.state_dict(), graph, spec, wider, target) == ()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(target(images), source(images))


# Resolution ----------------------------------------------------------------------------------


class SqueezedPool(Net):
    """Its pool leaves one pixel at 8 px only."""

    def forward(self, x):
        return self.head(F.max_pool2d(self.stem(x), 8).squeeze(-1).squeeze(-1))


class PoolInBatch(Net):
    """At more than 8 px pixels become images."""

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 8)
        return self.head(x.view(-1, x.shape[1]))


class PoolAndMean(Net):
    """A flatten that is joined with means: as many of both at 8 px only."""

    def __init__(self, classes):
        super().__init__(classes, 16)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([F.max_pool2d(x, 8).flatten(1), x.mean((2, 3))], 1))


class TwoFlattens(Net):
    """Flattens of other sizes that both depend on the resolution."""

    def __init__(self, classes):
        super().__init__(classes, 8 * (16 + 4))

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([F.avg_pool2d(x, k).flatten(1) for k in (4, 8)], 1))


@pytest.mark.parametrize(
    ("factory", "node"), [(SqueezedPool, "squeeze"), (PoolInBatch, "view"), (PoolAndMean, "cat")]
)
def test_what_works_at_one_resolution_only_is_refused_at_another(factory, node):
    graph = graph_of(factory, 8)
    assert graph.build(graph.spec(8), 0)(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(UserError, match=f"cannot take 16×16 px, node {node}: .*AdaptiveAvgPool2d"):
        graph.check_resolution(16)


def test_features_that_were_flattened_from_other_sizes_cannot_be_joined():
    with pytest.raises(UserError, match="node cat: it joins features flattened from unequal"):
        graph_of(TwoFlattens)


class Pyramid(Net):
    """Spatial pyramid pooling (He et al. 2014)."""

    def __init__(self, classes):
        super().__init__(classes, 8 * (1 + 4 + 16))

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([F.adaptive_avg_pool2d(x, k).flatten(1) for k in (1, 2, 4)], 1))


@torch.no_grad()
def test_a_pyramid_keeps_its_features_apart():
    graph = graph_of(Pyramid)
    assert not graph.positions
    spec = graph.spec(16)
    wider = graph.spec(24).with_widths({"stem.0": 11})
    source, target = graph.build(spec, 0).eval(), graph.build(wider, 1).eval()
    assert carry_weights(source.state_dict(), graph, spec, wider, target) == ()
    images = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(target(images), source(images))
    narrow = graph.build(spec, 2)
    assert carry_weights(target.state_dict(), graph, wider, spec, narrow) == ("head",)
    assert torch.equal(narrow.get_parameter("head.weight"), source.get_parameter("head.weight"))


class ComputedWindow(Net):
    """A pooling window that is as large as the features."""

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.avg_pool2d(x, (x.size(2), x.size(3))).flatten(1))


class OnePixel(Net):
    def forward(self, x):
        return self.head(self.stem(x)[:, :, 0, 0])


class HalfTheSize(Net):
    def __init__(self, classes):
        super().__init__(classes, 8 * 8 * 8)

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.adaptive_avg_pool2d(x, (x.shape[2] // 2, x.shape[3] // 2)).flatten(1))


@pytest.mark.parametrize(
    ("factory", "positions"),
    [(ComputedWindow, {}), (OnePixel, {}), (Pyramid, {}), (HalfTheSize, {"head": 64})],
)
def test_which_linear_layers_change_with_the_resolution(factory, positions):
    graph = graph_of(factory)
    assert graph.positions == positions
    counts = {graph.cost(graph.spec(side)).params for side in (16, 24)}
    assert len(counts) == 1 + len(positions)
    for side in (16, 24):
        module = graph.build(graph.spec(side), 0)
        assert module(torch.zeros(2, 3, side, side)).shape == (2, 5)


def test_a_window_as_large_as_the_features_is_a_global_pool():
    graph = graph_of(ComputedWindow)
    kinds = {layer.name: layer.kind for layer in graph.cost(graph.spec(16)).layers}
    assert kinds["avg_pool2d"] == "global_pool"


# Spelling ------------------------------------------------------------------------------------


class Keywords(Net):
    """NumPy's names of arguments, which PyTorch takes, too."""

    def body(self, x):
        a, b = torch.chunk(x, 2, axis=1)
        x = torch.cat([torch.max(a, b), torch.min(a, b)], axis=1)
        x = x.unsqueeze(axis=1).squeeze(axis=1)
        x = torch.swapaxes(torch.swapdims(x, dim0=1, dim1=2), axis0=1, axis1=2)
        return x * x.mean(axis=(2, 3), keepdims=True)

    def forward(self, x):
        x = self.body(self.stem(x)).mean(axis=(2, 3))
        x = torch.reshape(x, shape=(x.size(0), -1))
        return self.head(x.view(size=(x.size(0), x.size(1))))


def test_names_of_arguments():
    graph = graph_of(Keywords)
    (group,) = graph.groups
    assert (group.base, group.multiple) == (4, 1)
    assert graph.build(graph.spec(16, 2.0), 0)(torch.zeros(2, 3, 16, 16)).shape == (2, 5)


class Gained(nn.Conv2d):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.ones(1))


class OwnGain(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.gained = Gained(8, 8, 1)

    def body(self, x):
        return self.gained(x)


class Places(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def body(self, x):
        return self.pool(x)[0]


class PlainTensor(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.mean = torch.tensor(0.5)

    def body(self, x):
        return x - self.mean


class SqueezesAll(Net):
    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.body(self.stem(x)), 1).squeeze())


class WeightNorm(Net):
    def __init__(self, classes):
        super().__init__(classes)
        with pytest.warns(FutureWarning):
            self.normed = nn.utils.weight_norm(nn.Conv2d(8, 8, 1))

    def body(self, x):
        return self.normed(x)


class Transposed(Net):
    def body(self, x):
        return x.mT


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (PlainTensor, "mean is a tensor but no parameter and no buffer; register it as a buffer"),
        (WeightNorm, "cannot be copied .* remove reparametrisations as torch.nn.utils.weight_norm"),
        (Transposed, "the attribute mT of a tensor is not known"),
        (OwnGain, "layer gained: it has the parameters gain, which nn.Conv2d does not have"),
        (Places, "layer pool: it returns the places .* leave return_indices out"),
    ],
)
def test_refusals_say_what_to_do(factory, words):
    with pytest.raises(UserError, match=words):
        graph_of(factory)


class Frozen(Net):
    """A learnt mean and kernels of its own that no training changes, and a frozen norm."""

    def __init__(self, classes):
        super().__init__(classes)
        mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
        self.mean = nn.Parameter(mean, requires_grad=False)
        self.wide, self.blur, self.last = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.norm = nn.BatchNorm2d(8)
        for layer in (self.blur, self.norm):
            layer.requires_grad_(requires_grad=False)
        with torch.no_grad():
            self.blur.weight.copy_(torch.arange(8 * 8 * 9.0).view(8, 8, 3, 3))
            self.blur.bias.copy_(torch.arange(8.0))

    def body(self, x):
        return self.norm(self.last(self.blur(self.wide(x))))

    def forward(self, x):
        return super().forward(x - self.mean)


@pytest.mark.parametrize("multiplier", [1.0, 2.0])
def test_what_is_frozen_keeps_its_values_and_its_channels(multiplier):
    graph = graph_of(Frozen)
    module = graph.build(graph.spec(16, multiplier), 0)
    original = Frozen(5)
    for name in ("mean", "blur.weight", "blur.bias"):
        assert torch.equal(module.get_parameter(name), original.get_parameter(name)), name
        assert not module.get_parameter(name).requires_grad
    assert [group.name for group in graph.groups] == ["stem.0"]
    assert set(graph.fixed) >= {"wide", "blur", "last"}


class OneSlope(Net):
    """One PReLU with one slope between layers of 8 and of 24 channels."""

    def __init__(self, classes):
        super().__init__(classes)
        self.act, self.wider, self.back = nn.PReLU(), nn.Conv2d(8, 24, 1), nn.Conv2d(24, 8, 1)

    def body(self, x):
        return self.act(self.back(self.act(self.wider(self.act(x)))))


class LearntExponent(Net):
    """GeM pooling."""

    def __init__(self, classes):
        super().__init__(classes)
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def body(self, x):
        pooled = F.avg_pool2d(x.clamp(min=1e-6).pow(self.p), (x.size(-2), x.size(-1)))
        return pooled.pow(1.0 / self.p)


class ComputedShape(Net):
    def body(self, x):
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2)


class TorchDropout(Net):
    def body(self, x):
        return torch.dropout(x, 0.5, self.training)


@pytest.mark.parametrize(
    "factory", [OneSlope, LearntExponent, ComputedShape, TorchDropout, SqueezesAll]
)
def test_they_pass_the_check(factory):
    found = check_network(ModelRef(name=f"test_following:{factory.__name__}", classes=5), 16)
    assert found.passed, (found.failure, [group.failure for group in found.groups])
    assert len(found.groups) == (3 if factory is OneSlope else 1)


def test_a_squeeze_of_all_axes_leaves_the_batch_of_one_image():
    graph = graph_of(SqueezesAll)
    module = graph.build(graph.spec(16, 2.0), 0).eval()
    images = torch.randn(3, 3, 16, 16)
    assert module(images[:1]).shape == (1, 5)
    torch.testing.assert_close(torch.cat([module(one[None]) for one in images]), module(images))


def test_a_dropout_of_torch_drops_in_training():
    graph = graph_of(TorchDropout)
    module = graph.build(graph.spec(16), 0)
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(module.train()(x), module.train()(x))
    assert torch.equal(module.eval()(x), module.eval()(x))


def test_a_form_that_is_not_known_names_the_node(monkeypatch):
    def fails(f, node, x):
        raise KeyError("size")

    monkeypatch.setitem(functions._HANDLERS, "unsqueeze", fails)
    load_graph.cache_clear()
    with pytest.raises(UserError, match=r"node unsqueeze: .* form .* \(KeyError\('size'\)\)"):
        graph_of(Keywords)
