"""Eq. 3 on real graphs, against MACs counted by hand and a scan over all multipliers."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.depth import repeats
from engine.graph import load_graph
from engine.scaling import deepened, feasible_resolutions, scale_for_alpha
from engine.spec import ModelRef

STAGES = (1, 1, 2, 2, 2)
BASE = (64, 128, 256, 256, 512, 512, 512, 512)


@pytest.fixture(scope="module")
def vgg():
    return load_graph(ModelRef(name="vgg11", classes=10), 32)


def vgg11_macs(widths, resolution):
    """3×3 convolutions in five stages that each halve the image, then a 10-way classifier."""
    widths, channels, total = list(widths), 3, 0
    for layers in STAGES:
        for _ in range(layers):
            total += 9 * channels * widths[0] * resolution**2
            channels = widths.pop(0)
        resolution //= 2
    return total + channels * 10


def channels(spec):
    return [c for _, c in spec.widths]


@pytest.mark.parametrize(
    ("alpha", "resolution"),
    # √2 ^ α · 32 by hand: 32.6, 35.9, 36.3, 40.3, 43.9, 44.5
    [(0.05, 32), (0.33, 32), (0.365, 40), (0.666, 40), (0.91, 40), (0.95, 48)],
)
def test_resolution_of_eq3_to_the_nearest_multiple(vgg, alpha, resolution):
    exact = 32 * math.sqrt(2**alpha)
    assert abs(exact - resolution) <= 4
    assert scale_for_alpha(vgg, vgg.spec(32), alpha, 2.0, 8).resolution == resolution


def test_alpha_0_is_width_only_and_alpha_1_resolution_only(vgg):
    base = vgg.spec(32)
    width_only = scale_for_alpha(vgg, base, 0.0, 4.0, 8)
    assert width_only.resolution == 32
    # VGG's first layer is linear in the width, all others quadratic: slightly above √s = 2.
    assert all(
        2 <= wide / narrow <= 2.02 for wide, narrow in zip(channels(width_only), BASE, strict=True)
    )
    resolution_only = scale_for_alpha(vgg, base, 1.0, 4.0, 8)
    assert resolution_only.resolution == 64
    assert channels(resolution_only) == list(BASE)


@settings(max_examples=25)
@given(
    alpha=st.floats(0, 1),
    budget=st.floats(1, 6),
    round_to=st.sampled_from([1, 4, 8, 16, 32]),
    width=st.sampled_from([0.125, 0.5, 1.0]),
    resolution=st.sampled_from([32, 36]),
)
def test_realised_macs_are_the_nearest_that_any_multiplier_gives(
    vgg, alpha, budget, round_to, width, resolution
):
    base = vgg.spec(resolution, multiplier=width)
    spec = scale_for_alpha(vgg, base, alpha, budget, round_to)
    target = budget * vgg11_macs(channels(base), resolution)
    miss = abs(vgg11_macs(channels(spec), spec.resolution) - target)
    for step in range(800):
        multiplier = 0.5 + step * 2 * budget / 800
        scanned = [max(1, round(c * multiplier)) for c in channels(base)]
        assert miss <= abs(vgg11_macs(scanned, spec.resolution) - target) * (1 + 1e-9)
    assert spec.resolution == resolution or spec.resolution % round_to == 0
    assert spec.resolution >= resolution
    assert vgg11_macs(channels(base), spec.resolution) <= 1.25 * target
    # √(1/1.25) of the base widths, and half a channel of rounding.
    assert all(c >= 0.89 * b - 0.5 for c, b in zip(channels(spec), channels(base), strict=True))


@settings(max_examples=20)
@given(
    low=st.floats(0.01, 0.5),
    span=st.floats(0.01, 0.49),
    budget=st.sampled_from([1.3, 2.0, 4.0]),
    round_to=st.sampled_from([2, 8, 32]),
    resolution=st.sampled_from([32, 36]),
)
def test_feasible_resolutions_are_those_of_a_fine_grid(
    vgg, low, span, budget, round_to, resolution
):
    base = vgg.spec(resolution, multiplier=0.125)
    high = low + span
    feasible = feasible_resolutions(vgg, base, low, high, budget, round_to)
    grid = [low + span * i / 250 for i in range(251)]
    exact = {resolution * math.sqrt(budget**alpha) for alpha in grid}
    rounded = {max(resolution, math.floor(r / round_to + 0.5) * round_to) for r in exact}
    macs = vgg11_macs(channels(base), resolution)
    affordable = {
        r
        for r in rounded
        if r == resolution or vgg11_macs(channels(base), r) <= 1.25 * budget * macs
    }
    if rounded - affordable:
        # Lowered ones come to the largest multiple that is affordable, at last to the base's.
        steps = range(resolution // round_to * round_to, max(rounded), round_to)
        affordable.add(
            max(
                (
                    r
                    for r in steps
                    if r > resolution and vgg11_macs(channels(base), r) <= 1.25 * budget * macs
                ),
                default=resolution,
            )
        )
    assert feasible == tuple(sorted(affordable))


def test_alphas_of_one_resolution_are_one_network(vgg):
    base = vgg.spec(32, multiplier=0.5)
    found = {}
    for i in range(101):
        spec = scale_for_alpha(vgg, base, i / 100, 3.0, 8)
        assert found.setdefault(spec.resolution, spec) == spec
    assert sorted(found) == list(feasible_resolutions(vgg, base, 0, 1, 3.0, 8))
    widths = [channels(found[r])[-1] for r in sorted(found)]
    assert widths == sorted(widths, reverse=True)


def test_the_bases_own_widths_are_scaled_not_the_models(vgg):
    base = vgg.spec(32, multiplier=0.25)
    lopsided = base.with_widths({base.widths[-1][0]: 300})
    spec = scale_for_alpha(vgg, lopsided, 0.05, 2.0, 8)
    ratios = [
        wide / narrow for wide, narrow in zip(channels(spec), channels(lopsided), strict=True)
    ]
    assert max(ratios) - min(ratios) < 0.07


def test_a_coarse_multiple_falls_back_to_the_bases_resolution(vgg):
    base = vgg.spec(32)
    # 0.95: 44.5 px, nearest multiple of 32 is 32; of 48: 48 px fits; of 64: 64 px is 4 times.
    assert scale_for_alpha(vgg, base, 0.95, 2.0, 64) == scale_for_alpha(vgg, base, 0.05, 2.0, 64)
    assert feasible_resolutions(vgg, base, 0.05, 0.95, 2.0, 64) == (32,)
    # 41.2 px, nearest multiple of 16 is 48: 2.25 times the MACs is too far above 1.7.
    assert scale_for_alpha(vgg, base, 0.95, 1.7, 16).resolution == 32
    assert scale_for_alpha(vgg, base, 0.95, 1.85, 16).resolution == 48


def test_a_deeper_network_is_as_wide_as_the_base_whose_narrow_layers_are_rounded():
    graph = load_graph(ModelRef(name="mobilenet_v2", classes=10), 64)
    base = graph.spec(64, 0.35)
    deeper = deepened(graph, base, depth=1.5, width=1.0, resolution=64)
    # 1,280 channels before the classifier, in both.
    assert base.widths[-1][1] == deeper.widths[-1][1] == 448


def test_a_multiple_of_the_depth_that_adds_no_layer_is_no_other_network(vgg):
    """VGG-11 has eight convolutions; 1.05 times 8 is rounded to 8, 1.1 times 8 to 9."""
    base = vgg.spec(32, 0.25)
    assert deepened(vgg, base, depth=1.05, width=1.0, resolution=32) == base
    wider = deepened(vgg, base, depth=1.05, width=2.0, resolution=40)
    assert wider == vgg.spec(40, 0.5)
    deeper = deepened(vgg, base, depth=1.1, width=1.0, resolution=32)
    convolutions = [c for c in load_graph(deeper.model, 32).cost(deeper).layers if c.kind == "conv"]
    assert len(convolutions) == 9


@pytest.mark.parametrize("width", [0.3, 1.0])
def test_a_deeper_network_of_grouped_convolutions_is_rounded_to_its_groups(width: float):
    """Its residual sums are as wide as grouped convolutions of the next stage."""
    graph = load_graph(ModelRef(name="resnext50_32x4d", classes=10), 64)
    base = graph.spec(64, width)
    for factor in (1.0, 1.1, 1.1**7):
        deeper = deepened(graph, base, depth=1.2, width=factor, resolution=64)
        found = load_graph(deeper.model, 64)
        assert found.cost(deeper).macs > graph.cost(base).macs
        multiple = {group.name: group.multiple for group in found.groups}
        assert 32 in multiple.values()
        assert all(width % multiple[name] == 0 for name, width in deeper.widths)


@pytest.mark.parametrize(
    ("blocks", "depth", "found"),
    [
        ((1, 1, 2, 2, 2), 1.0, [1, 1, 2, 2, 2]),  # VGG-11
        ((1, 1, 2, 2, 2), 9 / 8, [1, 1, 3, 2, 2]),
        ((1, 1, 2, 2, 2), 11 / 8, [1, 1, 3, 3, 3]),
        ((1, 1, 2, 2, 2), 2.0, [2, 2, 4, 4, 4]),
        ((3, 4, 6, 3), 17 / 16, [3, 4, 7, 3]),  # ResNet-50
        ((3, 4, 6, 3), 0.25, [1, 1, 1, 1]),
        ((3, 4, 6, 3), 0.5, [2, 2, 3, 1]),
        ((3, 4, 6, 3), 0.01, [1, 1, 1, 1]),
    ],
)
def test_blocks_are_dealt_one_by_one(blocks, depth, found):
    assert repeats(blocks, depth) == found


@given(
    blocks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    depths=st.tuples(st.floats(0.1, 4), st.floats(0.1, 4)),
)
def test_no_stage_of_a_deeper_network_is_shallower(blocks, depths):
    low, high = (repeats(blocks, depth) for depth in sorted(depths))
    assert all(a <= b for a, b in zip(low, high, strict=True))
    assert repeats(blocks, 1.0) == blocks


def test_a_largest_resolution_caps_what_alpha_asks(vgg):
    base = vgg.spec(32)
    assert scale_for_alpha(vgg, base, 0.95, 4.0, 8, 50).resolution == 48
    assert scale_for_alpha(vgg, base, 0.95, 4.0, 8, 20).resolution == 32
    capped = scale_for_alpha(vgg, base, 0.95, 4.0, 8, 48)
    assert capped == scale_for_alpha(vgg, base, 0.5, 4.0, 8)


def test_pooling_floors_do_not_move_the_budget():
    graph = load_graph(ModelRef(name="resnet18", classes=10), 32)
    base = graph.spec(32, multiplier=0.25)
    for alpha in (0.05, 0.3, 0.6, 0.95):
        for budget in (1.5, 2.0, 3.0):
            spec = scale_for_alpha(graph, base, alpha, budget, 4)
            assert graph.cost(spec).macs / graph.cost(base).macs == pytest.approx(budget, rel=0.02)


@pytest.mark.parametrize(
    ("alpha", "budget", "round_to", "word"),
    [
        (-0.1, 2.0, 8, "alpha"),
        (1.1, 2.0, 8, "alpha"),
        (math.nan, 2.0, 8, "alpha"),
        (0.5, 0.9, 8, "budget"),
        (0.5, math.nan, 8, "budget"),
        (0.5, math.inf, 8, "budget"),
        (0.5, 2.0, 0, "round_to"),
    ],
)
def test_arguments_out_of_range(vgg, alpha, budget, round_to, word):
    with pytest.raises(ValueError, match=word):
        scale_for_alpha(vgg, vgg.spec(32), alpha, budget, round_to)
