"""Weights carried to other widths: wider networks compute the same, narrower ones keep a part."""

import random

import example_networks as examples
import pytest
import torch

from engine.carry import carry_weights
from engine.errors import UserError
from engine.graph import load_graph
from engine.spec import ModelRef


def graph_of(name, resolution=32):
    return load_graph(ModelRef(name=name, classes=10), resolution)


def trained(graph, spec, seed=0):
    """A network whose every number, also the running statistics, is one of a kind."""
    module = graph.build(spec, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if "running_mean" in name:
            tensor.normal_(0.0, 0.1, generator=generator)
        elif "running_var" in name:
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(torch.empty_like(tensor).normal_(0.0, 0.1, generator=generator))
    return module


def other_widths(graph, spec, seed, low, high):
    chance = random.Random(seed)
    return spec.with_widths(
        {
            g.name: max(g.multiple, spec.width_of[g.name] + g.multiple * chance.randint(low, high))
            for g in graph.groups
        }
    )


def images(resolution=32):
    return torch.randn(4, 3, resolution, resolution, generator=torch.Generator().manual_seed(9))


def close(one, other):
    scale = one.abs().max().item()
    assert scale > 1e-3
    return (one - other).abs().max().item() < 1e-5 * scale


@pytest.mark.parametrize(
    "name",
    [
        "vgg11",
        "resnet18",
        "densenet121",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "resnext50_32x4d",
        "regnet_y_400mf",
        "googlenet",
        *(f"example_networks:{f.__name__}" for f in (
            examples.SharedConv, examples.CutSum, examples.Chunk, examples.DepthMultiplier,
            examples.SqueezeExcite, examples.PixelShuffled, examples.UpSampled, examples.Frozen,
            examples.PaddedShortcut, examples.Sliced, examples.LeNet, examples.UNet,
        )),
    ],
)  # fmt: skip
@torch.no_grad()
def test_a_widened_network_gives_the_same_logits(name):
    graph = graph_of(name)
    spec = graph.spec(32, 0.5 if ":" not in name else 1.0)
    wider = other_widths(graph, spec, 1, 0, 3)
    source = trained(graph, spec)
    target = graph.build(wider, 7).eval()
    assert not close(source(images()), target(images()))
    assert carry_weights(source.state_dict(), graph, spec, wider, target) == ()
    assert close(source(images()), target(images()))
    # What was added is not nothing: its kernels keep weights, so they have gradients.
    added = [t for t in target.parameters() if t.ndim > 1]
    assert all(bool((t != 0).any()) for t in added)


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "shufflenet_v2_x0_5", "convnext_tiny"])
@torch.no_grad()
def test_there_and_back_again(name):
    graph = graph_of(name)
    spec = graph.spec(32, 0.5)
    wider = other_widths(graph, spec, 2, 0, 3)
    source, target, back = trained(graph, spec), graph.build(wider, 1), graph.build(spec, 2)
    carry_weights(source.state_dict(), graph, spec, wider, target)
    changed = carry_weights(target.state_dict(), graph, wider, spec, back)
    assert changed  # narrower: channels were dropped
    expected = source.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in back.state_dict().items())


@torch.no_grad()
def test_a_narrower_network_keeps_the_first_channels():
    graph = graph_of("resnet18")
    spec = graph.spec(32, 0.25)
    narrow = spec.with_widths({"layer2.0.conv1": 20})
    source, target = trained(graph, spec), graph.build(narrow, 1)
    assert carry_weights(source.state_dict(), graph, spec, narrow, target) == ("layer2_0_conv2",)
    old, new = source.state_dict(), target.state_dict()
    assert torch.equal(new["layer2.0.conv1.weight"], old["layer2.0.conv1.weight"][:20])
    assert torch.equal(new["layer2.0.bn1.running_var"], old["layer2.0.bn1.running_var"][:20])
    assert torch.equal(new["layer2.0.conv2.weight"], old["layer2.0.conv2.weight"][:, :20])
    assert torch.equal(new["layer3.0.conv1.weight"], old["layer3.0.conv1.weight"])


@torch.no_grad()
def test_grouped_convolutions_keep_their_groups():
    graph = graph_of("example_networks:Grouped")
    spec = graph.spec(32)
    wider = spec.with_widths({"grouped": 20})
    source, target = trained(graph, spec), graph.build(wider, 1)
    carry_weights(source.state_dict(), graph, spec, wider, target)
    old, new = source.get_parameter("grouped.weight"), target.get_parameter("grouped.weight")
    for group in range(4):  # 3 of 5 kernels in each
        assert torch.equal(new[5 * group : 5 * group + 3], old[3 * group : 3 * group + 3])


@pytest.mark.parametrize(
    ("factory", "op"),
    [
        (examples.Norms, "group"),
        (examples.Shuffled, "shuffle"),
        (examples.Shuffled, "view_1"),
        (examples.SpatialAttention, "max_1"),
    ],
)
@torch.no_grad()
def test_ops_over_all_channels_are_named(factory, op):
    graph = graph_of(f"example_networks:{factory.__name__}")
    spec = graph.spec(32)
    wider = other_widths(graph, spec, 1, 1, 2)
    source, target = trained(graph, spec), graph.build(wider, 1).eval()
    changed = carry_weights(source.state_dict(), graph, spec, wider, target)
    assert op in changed
    assert not close(source(images()), target(images()))


@torch.no_grad()
def test_another_resolution_keeps_what_does_not_depend_on_it():
    graph = graph_of("example_networks:LeNet")
    spec, larger = graph.spec(32), graph.spec(40)
    source, target = trained(graph, spec), graph.build(larger, 1)
    changed = carry_weights(source.state_dict(), graph, spec, larger, target)
    assert changed == ("norm", "fc1")
    old, new = source.state_dict(), target.state_dict()
    kept = [key for key in old if old[key].shape == new[key].shape]
    assert "fc2.weight" in kept and "conv2.weight" in kept
    assert all(torch.equal(old[key], new[key]) for key in kept)


def test_a_convolutional_network_computes_the_same_at_another_resolution():
    graph = graph_of("resnet18")
    spec = graph.spec(32, 0.25)
    larger = other_widths(graph, spec, 3, 0, 2).at(64)
    source, target = trained(graph, spec), graph.build(larger, 1).eval()
    assert carry_weights(source.state_dict(), graph, spec, larger, target) == ()
    with torch.no_grad():
        assert close(source(images(64)), target(images(64)))


def test_weights_of_another_network_are_refused():
    graph = graph_of("vgg11")
    spec, other = graph.spec(32, 0.25), graph.spec(32, 0.5)
    state, target = graph.build(spec, 0).state_dict(), graph.build(other, 0)
    with pytest.raises(UserError, match=r"'features.0.weight' have the shape \(16, 3, 3, 3\)"):
        carry_weights(state, graph, other, spec, target)
    del state["classifier.bias"]
    with pytest.raises(UserError, match="weights have no 'classifier"):
        carry_weights(state, graph, spec, other, target)
