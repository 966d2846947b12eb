"""The network graph: groups by hand, costs against PyTorch's counts, and what is refused."""

import math
import random

import example_networks as examples
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from engine.check import model_ref
from engine.depth import deeper_module
from engine.errors import UserError
from engine.graph import NetworkGraph, load_graph
from engine.names import NetworkName, parse_name
from engine.networks import make_network
from engine.spec import ModelRef
from engine.tracing import trace


def ref(factory, classes=5, channels=3):
    name = factory if isinstance(factory, str) else f"example_networks:{factory.__name__}"
    return ModelRef(name=name, classes=classes, channels=channels)


def groups(graph):
    return {g.name: (g.base, g.multiple, g.writers) for g in graph.groups}


def random_spec(graph, resolution, seed, low=0.5, high=2.0):
    chance = random.Random(seed)
    return graph.spec(resolution).with_widths(
        {
            g.name: max(1, round(g.base / g.multiple * chance.uniform(low, high))) * g.multiple
            for g in graph.groups
        }
    )


def counted(module, resolution, channels=3):
    """MACs by PyTorch's counter, and parameters."""
    module = module.eval()
    device = next(module.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, channels, resolution, resolution, device=device))
    return counter.get_total_flops() / 2, sum(p.numel() for p in module.parameters())


# Groups by hand ------------------------------------------------------------------------------


def test_resnet18_has_a_group_for_each_stage_and_one_for_each_block():
    graph = load_graph(ref("resnet18", 10), 64)
    expected = {
        "conv1": (64, 1, ("conv1", "layer1.0.conv2", "layer1.1.conv2")),
        "layer1.0.conv1": (64, 1, ("layer1.0.conv1",)),
        "layer1.1.conv1": (64, 1, ("layer1.1.conv1",)),
    }
    for stage, width in ((2, 128), (3, 256), (4, 512)):
        at = f"layer{stage}"
        expected[f"{at}.0.conv1"] = (width, 1, (f"{at}.0.conv1",))
        joined = (f"{at}.0.conv2", f"{at}.0.downsample.0", f"{at}.1.conv2")
        expected[f"{at}.0.conv2"] = (width, 1, joined)
        expected[f"{at}.1.conv1"] = (width, 1, (f"{at}.1.conv1",))
    assert groups(graph) == expected
    assert graph.group("conv1").coupled == (
        "conv1 + layer1.0.conv2: summed at add",
        "layer1.0.conv2 + layer1.1.conv2: summed at add_1",
    )
    assert graph.fixed == {"fc": "the network's output"}


def test_resnet18_costs_by_hand():
    graph = load_graph(ref("resnet18", 1000), 224)
    cost = graph.cost(graph.spec(224))
    # He et al. 2016 and torchvision: 11.69 M parameters; 1.8 G multiply-adds.
    assert cost.params == 11_689_512
    stem = 7 * 7 * 3 * 64 * 112**2
    layer1 = 4 * 9 * 64 * 64 * 56**2
    others = sum(
        (9 * w // 2 * w + 3 * 9 * w * w + w // 2 * w) * s**2
        for w, s in ((128, 28), (256, 14), (512, 7))
    )
    assert cost.macs == stem + layer1 + others + 512 * 1000


def test_densenet_concatenations_couple_nothing():
    graph = load_graph(ref("densenet121", 10), 32)
    layers = sum((6, 12, 24, 16))
    assert len(graph.groups) == 1 + 2 * layers + 3  # stem, two in each layer, transitions
    assert all(len(g.writers) == 1 and not g.coupled for g in graph.groups)
    spec = graph.spec(32).with_widths({"features.denseblock1.denselayer1.conv2": 50})
    shapes = {name: t.shape for name, t in graph.skeleton(spec).state_dict().items()}
    # What reads it: the other five layers of the block and the transition.
    for layer in range(2, 7):
        read = 64 + 50 + 32 * (layer - 2)
        norm = f"features.denseblock1.denselayer{layer}.norm1.weight"
        assert shapes[norm] == (read,)
    assert shapes["features.transition1.conv.weight"] == (128, 64 + 50 + 32 * 5, 1, 1)


def test_mobilenet_v2_depthwise_convolutions_follow():
    graph = load_graph(ref("mobilenet_v2", 10), 64)
    found = groups(graph)
    assert found["features.2.conv.0.0"] == (96, 1, ("features.2.conv.0.0", "features.2.conv.1.0"))
    assert found["features.2.conv.2"] == (24, 1, ("features.2.conv.2", "features.3.conv.2"))
    assert graph.group("features.2.conv.0.0").coupled == ("features.2.conv.1.0: depthwise",)
    layers = {c.name: c for c in graph.cost(graph.spec(64, 1.5)).layers}
    depthwise = layers["features_2_conv_1_0"]
    assert depthwise.groups == depthwise.cin == depthwise.cout == 144
    assert depthwise.macs == 9 * 144 * 16 * 16 and depthwise.params == 9 * 144


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (examples.SharedConv, {"stem.0": (8, 1, ("stem.0", "again"))}),
        (examples.Split, {"stem.0": (8, 1), "left": (6, 1), "right": (10, 1)}),
        (examples.CutSum, {"stem.0": (8, 1), "wide#0": (6, 1), "wide#1": (10, 1)}),
        (examples.Chunk, {"stem.0": (8, 1), "wide": (8, 1, ("wide", "depthwise"))}),
        (examples.DepthMultiplier, {"stem.0": (8, 1, ("stem.0", "depthwise", "other"))}),
        (examples.Grouped, {"stem.0": (8, 4), "branch": (4, 4), "grouped": (12, 4)}),
        (examples.SqueezeExcite, {"stem.0": (8, 1, ("stem.0", "fc.2")), "fc.0": (4, 1)}),
        (examples.SpatialAttention, {"stem.0": (8, 1)}),
        (examples.Shuffled, {"stem.0": (8, 2), "one": (6, 2), "two": (4, 2)}),
        (examples.PixelShuffled, {"stem.0": (8, 1), "wide": (7, 1), "last": (7, 1)}),
        (examples.Norms, {"stem.0": (8, 4, ("stem.0", "last"))}),
        (examples.PaddedShortcut, {"stem.0": (8, 1, ("stem.0", "main"))}),
        (examples.Sliced, {"stem.0": (4, 1, ("stem.0", "gated")), "wide": (7, 1, ("wide",))}),
        (
            examples.UNet,
            {
                "down.0.0": (8, 1),
                "down.1.0": (16, 1),
                "down.2.0": (32, 1),
                "up.0": (16, 1, ("up.0",)),
                "merge.0.0": (16, 1),
                "up.1": (8, 1),
                "merge.1.0": (8, 1),
            },
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_groups_by_hand(factory, expected):
    found = groups(load_graph(ref(factory), 32))
    assert found.keys() == expected.keys()
    assert {name: value[: len(expected[name])] for name, value in found.items()} == expected


# All example networks ------------------------------------------------------------------------


@pytest.mark.parametrize("factory", examples.FOLLOWED, ids=lambda f: f.__name__)
def test_costs_and_modules_of_any_widths(factory):
    graph = load_graph(ref(factory), 32)
    original = factory(5)
    for resolution, seed in ((32, 0), (32, 1), (44, 2)):
        spec = random_spec(graph, resolution, seed)
        module = graph.build(spec, seed)
        cost = graph.cost(spec)
        assert counted(module, resolution) == (cost.macs, cost.params)
        names = set(module.state_dict())
        left_out = {n for n in original.state_dict() if n.startswith(graph.unused or "-")}
        assert names == set(original.state_dict()) - left_out
        module.train()(torch.randn(2, 3, resolution, resolution)).sum().backward()
        assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("factory", examples.FOLLOWED, ids=lambda f: f.__name__)
def test_at_its_own_widths_it_computes_what_the_original_does(factory):
    torch.manual_seed(0)
    original = factory(5).eval()
    for name, tensor in original.state_dict().items():
        if "running" in name or tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    graph = load_graph(ref(factory), 32)
    module = graph.build(graph.spec(32), 0).eval()
    module.load_state_dict(original.state_dict(), strict=not graph.unused)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(module(images), original(images))


@pytest.mark.parametrize("factory", examples.REFUSED, ids=lambda f: f.__name__)
def test_refusals_name_the_place(factory):
    with pytest.raises(UserError) as refusal:
        load_graph(ref(factory), 32)
    for words in (factory.__name__, *examples.REFUSED[factory]):
        assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


class Recipe(nn.Module):
    """A network made of drawn steps; each takes earlier tensors of the same height and width."""

    def __init__(self, steps):
        super().__init__()
        self.steps, self.layers = steps, nn.ModuleDict()
        widths = [3]
        for i, (kind, x, y, size) in enumerate(steps):
            a, b = widths[x % len(widths)], widths[y % len(widths)]
            layer, width = None, a
            if kind == "conv":
                layer, width = nn.Conv2d(a, size, 3, padding=1), size
            elif kind == "grouped" and a % 2 == 0:
                layer, width = nn.Conv2d(a, 2 * size, 1, groups=2, bias=False), 2 * size
            elif kind == "depthwise":
                layer, width = nn.Conv2d(a, a * (1 + size % 2), 3, padding=1, groups=a), 0
                width = a * (1 + size % 2)
            elif kind == "norm":
                layer = nn.BatchNorm2d(a)
            elif kind == "group_norm" and a % 2 == 0:
                layer = nn.GroupNorm(2, a)
            elif kind == "linear":
                layer, width = nn.Linear(a, size), size
            elif kind == "gate":
                layer = nn.Conv2d(a, a, 1)
            elif kind == "cat":
                width = a + b
            elif kind == "half" and a % 2 == 0:
                width = a // 2
            if layer is not None:
                self.layers[str(i)] = layer
            widths.append(width)
        self.width = widths[-1]
        self.head = nn.Linear(self.width, 2)

    def forward(self, x):
        found, widths = [x], [3]
        for i, (kind, first, second, _) in enumerate(self.steps):
            one, other = first % len(found), second % len(found)
            a, b = found[one], found[other]
            layer = dict(self.layers.items()).get(str(i))
            width = widths[one]
            if kind == "linear":
                out = layer(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
                width = layer.out_features
            elif kind == "gate":
                out = a * torch.sigmoid(layer(F.adaptive_avg_pool2d(a, 1)))
            elif layer is not None:
                out = layer(a)
                width = getattr(layer, "out_channels", width)
            elif kind == "sum" and widths[one] == widths[other]:
                out = a + F.relu(b)
            elif kind == "cat":
                out, width = torch.cat([a, b], 1), width + widths[other]
            elif kind == "half" and width % 2 == 0:
                left, right = a.chunk(2, 1)
                out, width = left * right, width // 2
            elif kind == "shuffle" and width % 2 == 0:
                n, c, h, w = a.shape
                out = a.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            else:
                out = F.silu(a)
            found.append(out)
            widths.append(width)
        return self.head(found[-1].mean((2, 3)))


STEPS = ("conv", "conv", "conv", "grouped", "depthwise", "norm", "group_norm", "linear", "gate")
STEPS += ("sum", "sum", "cat", "half", "shuffle", "act")
steps = st.tuples(
    st.sampled_from(STEPS),
    st.integers(0, 7),
    st.integers(0, 7),
    st.sampled_from([2, 4, 6]),
)


@settings(max_examples=60)
@given(st.lists(steps, min_size=2, max_size=12), st.integers(0, 99))
def test_drawn_networks_run_with_any_widths_or_are_refused(program, seed):
    module = Recipe([("conv", 0, 0, 4), *program])
    try:
        graph = NetworkGraph(ref("drawn"), trace(module, 3, 8, "drawn"))
    except UserError as error:
        # Two parts of one channel look like two channels.
        known = ("no width", "stands", "meet", "multiple", "constant 2")
        assert any(why in str(error) for why in known)
        return
    for number in range(2):
        spec = random_spec(graph, 8, seed + number, high=3.0)
        graph.verify(spec)
        cost = graph.cost(spec)
        assert counted(graph.skeleton(spec), 8) == (cost.macs, cost.params)


# Resolution ----------------------------------------------------------------------------------


def test_a_flatten_makes_the_classifier_follow_the_resolution():
    graph = load_graph(ref(examples.LeNet), 32)
    assert graph.positions == {"fc1": 25}
    for resolution, side in ((32, 5), (40, 7), (45, 8)):
        spec = graph.spec(resolution).with_widths({"conv2": 20})
        module = graph.build(spec, 0)
        assert module.get_submodule("fc1").in_features == 20 * side * side
        assert module(torch.zeros(2, 3, resolution, resolution)).shape == (2, 5)
        assert counted(module, resolution) == (graph.cost(spec).macs, graph.cost(spec).params)
    # It may be looked at first at another resolution than it was written for.
    assert load_graph(ref(examples.LeNet), 45).groups == graph.groups


def test_with_a_pool_the_classifier_is_the_same_at_every_resolution():
    pooled, _ = model_ref("example_networks:LeNet", "3x45x45", 5, adaptive_pool=True)
    assert pooled.name == "example_networks:LeNet@pool=5"
    graph = load_graph(pooled, 45)
    plain = load_graph(ref(examples.LeNet), 32)
    params = {graph.cost(graph.spec(r)).params for r in (24, 32, 45, 64)}
    assert params == {plain.cost(plain.spec(32)).params} and not graph.positions
    a, b = plain.build(plain.spec(32), 3).eval(), graph.build(graph.spec(32), 3).eval()
    assert a.state_dict().keys() == b.state_dict().keys()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(a(images), b(images))


def test_a_pool_needs_a_flatten():
    with pytest.raises(UserError, match="no linear layer"):
        model_ref("resnet18", "3x64x64", 10, adaptive_pool=True)


@pytest.mark.parametrize("resolution", [0, 1, 3, 31])
def test_too_small_a_resolution_is_the_users_error(resolution):
    graph = load_graph(ref("vgg11", 10), 32)
    with pytest.raises(UserError, match=rf"{resolution}×{resolution} px"):
        graph.check_resolution(resolution)
    with pytest.raises(UserError, match="another size"):
        load_graph(ref("vgg11", 10), resolution)


@pytest.mark.parametrize("resolution", [45, 64, 97])
def test_sizes_at_odd_resolutions_are_pytorchs(resolution):
    for name in ("googlenet", "squeezenet1_0", "example_networks:UpSampled"):
        graph = load_graph(ref(name), 64)
        spec = random_spec(graph, resolution, resolution)
        cost = graph.cost(spec)
        assert counted(graph.skeleton(spec), resolution) == (cost.macs, cost.params)


# Include and exclude -------------------------------------------------------------------------


def names(name):
    return [group.name for group in load_graph(ref(name, 10), 64).groups]


def test_patterns_choose_groups_and_the_rest_stays():
    everything = names("resnet18")
    assert names("resnet18@include=layer4.*") == [n for n in everything if "layer4" in n]
    some = names("resnet18@exclude=conv1+layer1.0.conv1+layer[34].*")
    assert some == ["layer1.1.conv1", *(n for n in everything if "layer2" in n)]
    both = names("resnet18@include=layer3.*+layer4.*,exclude=layer4.*")
    assert both == [n for n in everything if "layer3" in n]
    graph = load_graph(ref("resnet18@include=layer4.*", 10), 64)
    assert graph.fixed["conv1"] == "excluded"
    state = graph.skeleton(graph.spec(64, 2.0)).state_dict()
    assert state["conv1.weight"].shape[0] == 64 and state["fc.weight"].shape == (10, 1024)


def test_parts_of_one_layer_are_chosen_apart():
    cut = "example_networks:CutSum"
    assert names(f"{cut}@exclude=wide#0") == ["stem.0", "wide#1"]
    assert names(f"{cut}@include=wide*") == ["wide#0", "wide#1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("exclude=layer1.1.conv2", ("layer1.1.conv2 is excluded", "conv1", "summed at add_1")),
        ("include=layer1.0.conv2", ("layer1.0.conv2 is included", "conv1")),
        ("include=layer1.*,exclude=conv1", ("layer1.0.conv2 is included", "excluded")),
        ("exclude=layer9.*", ("'layer9.*'", "fits no width group")),
        ("exclude=*", ("no width group",)),
        ("include=fc", ("'fc'", "fits no width group")),
    ],
)
def test_patterns_that_cannot_be_kept(options, words):
    with pytest.raises(UserError) as refusal:
        load_graph(ref(f"resnet18@{options}", 10), 64)
    assert all(word in str(refusal.value) for word in words)


# Names and depth -----------------------------------------------------------------------------


@given(
    st.builds(
        NetworkName,
        base=st.sampled_from(["vgg11", "my.models:net"]),
        depth=st.floats(0.1, 8),
        pool=st.none() | st.integers(1, 9),
        include=st.lists(st.sampled_from(["stem.*", "layer[12].?"]), unique=True).map(
            lambda patterns: tuple(sorted(patterns))
        ),
        exclude=st.just(()) | st.just(("head#1",)),
    )
)
def test_a_name_is_its_options(name):
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18@depth=2.50", "must be written 'resnet18@depth=2.5'"),
        ("resnet18@depth=1", "must be written 'resnet18'"),
        ("resnet18@", "unknown option ''"),
        ("resnet18@dept=2", "did you mean 'depth'"),
        ("resnet18@depth=deep", "must be a number"),
        ("resnet18@depth=-1", "must be positive"),
        ("resnet18@depth=nan", "must be positive"),
        ("resnet18@pool=0", "at least 1"),
        ("resnet18@exclude=", "a pattern must name"),
        ("resnet18@pool=7,depth=2", "must be written 'resnet18@depth=2,pool=7'"),
        ("example_networks:UNet@depth=2", "depth is for"),
        ("alexnet@depth=2", "another depth"),
        ("vgg11@exclude=a@b", "a pattern must name"),
        ("resnet19", "did you mean 'resnet1"),
        ("nowhere.module:net", "importing 'nowhere.module' failed"),
        ("example_networks:nothing", "has no function 'nothing'"),
        ("example_script:net", "ends the program when it is imported; put what makes it a script"),
        ("", "unknown model ''"),
    ],
)
def test_bad_names(name, words):
    with pytest.raises(UserError) as refusal:
        load_graph(ref(name), 32)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("vgg11", ["features"]),
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("resnext50_32x4d", ["layer1", "layer2", "layer3", "layer4"]),
        ("wide_resnet50_2", ["layer1", "layer2", "layer3", "layer4"]),
        ("efficientnet_b0", [f"features.{i}" for i in range(1, 8)]),
        ("efficientnet_b5", [f"features.{i}" for i in range(1, 8)]),
    ],
)
@pytest.mark.parametrize("depth", [0.3, 1.5, 2.0])
def test_depth_multiplies_the_blocks_and_every_stage_has_its_share(name, of, depth):
    written = make_network(ref(name), without_values=True)
    deeper = make_network(ref(str(NetworkName(base=name, depth=depth))), without_values=True)

    def blocks(network: nn.Module) -> list[int]:
        if name != "vgg11":
            return [len(network.get_submodule(stage)) for stage in of]
        layers = list(network.get_submodule("features"))
        ends = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        stages = zip([0, *ends], ends, strict=False)
        return [sum(isinstance(m, nn.Conv2d) for m in layers[a:b]) for a, b in stages]

    before, after = blocks(written), blocks(deeper)
    assert sum(after) == max(len(before), round(sum(before) * depth))
    for n, times in zip(before, after, strict=True):
        assert times == n * depth if depth == 2.0 else abs(times - n * depth) <= 1


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "efficientnet_b6"])
def test_depth_of_families_with_tables_of_their_own_begins_where_torchvision_does(name):
    with torch.device("meta"):
        mine = deeper_module(name, 1.0, 7)
    theirs = make_network(ref(name, 7), without_values=True)
    assert {k: v.shape for k, v in mine.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    ratio = make_network(ref(f"{name}@depth=2", 7), without_values=True)
    assert len(list(ratio.modules())) > 1.6 * len(list(theirs.modules()))
    for one, other in zip(mine.modules(), theirs.modules(), strict=True):
        if isinstance(one, nn.BatchNorm2d):
            assert (one.eps, one.momentum) == (other.eps, other.momentum)
        if isinstance(one, nn.Dropout):
            assert one.p == other.p


def test_vgg19_is_vgg11_at_twice_the_depth():
    twice, known = (load_graph(ref(name, 10), 32) for name in ("vgg11@depth=2", "vgg19"))
    assert [g.base for g in twice.groups] == [g.base for g in known.groups]


# Building ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_no_global_randomness_is_used():
    graph = load_graph(ref("example_networks:Norms"), 32)
    spec = graph.spec(32, 1.5)
    one, other, third = (graph.build(spec, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert not torch.equal(one["stem.0.weight"], third["stem.0.weight"])
    state = torch.random.get_rng_state()
    graph.build(spec, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_initial_values_follow_the_original():
    graph = load_graph(ref("example_networks:OwnParameters"), 32)
    module = graph.build(graph.spec(32, 2.0), 0)
    assert torch.equal(module.get_parameter("scale"), torch.full((16, 1, 1), 1e-6))
    torch.testing.assert_close(
        module.get_buffer("mean"), torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    )
    assert module.get_parameter("gate").item() == 0.0
    weight = load_graph(ref("vgg11", 10), 32)
    convolution = weight.build(weight.spec(32), 0).get_submodule("features.8").weight
    assert convolution.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)


def test_what_acts_only_in_training_still_does():
    lenet = load_graph(ref(examples.LeNet), 32)
    module = lenet.build(lenet.spec(32), 0)
    images = torch.randn(4, 3, 32, 32)
    module.train()
    norm = module.get_submodule("norm")
    norm.momentum = 0.0
    assert not torch.equal(module(images), module(images))
    module.eval()
    assert torch.equal(module(images), module(images))
    path = load_graph(ref(examples.Regularised), 32)
    dropped = path.build(path.spec(32), 0).train()
    assert isinstance(dropped.get_submodule("drop"), examples.DropPath)


def test_an_inserted_layer_takes_no_place_of_the_users_own():
    """torch.fx calls the function's node dropout, so that its layer would be the user's."""
    graph = load_graph(ref(examples.DroppedTwice), 32)
    module = graph.build(graph.spec(32), 0)
    drops = [layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)]
    assert sorted(drops) == [0.1, 0.7]
    assert module.get_submodule("dropout_layer").p == 0.1


def test_unused_layers_are_said_and_left_out():
    graph = load_graph(ref(examples.Auxiliary), 32)
    assert graph.unused == ("auxiliary",)
    graph = load_graph(ref(examples.googlenet_with_auxiliaries), 64)
    assert {path.partition(".")[0] for path in graph.unused} == {"aux1", "aux2"}
    assert len(graph.groups) == 57


def test_grey_images():
    for name in ("resnet18", "inception_v3", "vgg11"):
        size = 80
        graph = load_graph(ref(name, 10, channels=1), size)
        spec = graph.spec(size, 0.5)
        cost = graph.cost(spec)
        assert counted(graph.skeleton(spec), size, channels=1) == (cost.macs, cost.params)
    with pytest.raises(UserError, match="1×32×32"):
        load_graph(ref(examples.UNet, channels=1), 32)


def test_a_spec_of_another_network_is_refused():
    graph, other = load_graph(ref("vgg11", 10), 32), load_graph(ref("vgg13", 10), 32)
    with pytest.raises(ValueError, match="another network"):
        graph.cost(other.spec(32))
    with pytest.raises(ValueError, match="no positive multiple of 4"):
        grouped = load_graph(ref(examples.Grouped), 32)
        grouped.cost(grouped.spec(32).with_widths({"branch": 6}))


def test_touched_layers_are_those_whose_cost_changes():
    graph = load_graph(ref("resnet18", 10), 64)
    base = graph.spec(64)
    before = graph.cost(base).layers
    for group in graph.groups:
        after = graph.cost(base.with_widths({group.name: group.base + 8})).layers
        changed = {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
        assert changed == set(graph.touched(group.name))
