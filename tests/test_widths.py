"""Sampled widths: stratified, reproducible anywhere, extensible, inside their box."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from engine.graph import load_graph
from engine.recipe import Sample
from engine.spec import ModelRef, NetworkSpec
from searchers import widths
from searchers.widths import sampled_spec


class Unrounded:
    """Stands in for a graph whose widths need no rounding."""

    def round_width(self, group, width):
        return width


def flat(groups):
    """A network whose widths are the multipliers themselves."""
    names = tuple((f"g{i}", 1.0) for i in range(groups))
    return NetworkSpec(model=ModelRef(name="flat", classes=2), resolution=32, widths=names)


def positions(settings, groups, seed, indexes):
    """Multipliers mapped back to [0, 1]: networks × groups."""
    low, high = math.log(settings.min_width), math.log(settings.max_width)
    base = flat(groups)
    rows = [sampled_spec(Unrounded(), base, settings, seed, i) for i in indexes]
    return np.array([[(math.log(w) - low) / (high - low) for _, w in r.widths] for r in rows])


@settings(max_examples=6)
@given(
    block=st.integers(2, 12),
    groups=st.integers(1, 9),
    seed=st.integers(-(2**40), 2**40),
    number=st.integers(0, 50),
)
def test_each_block_has_one_network_in_every_stratum_of_every_group(block, groups, seed, number):
    sample = Sample(block=block, min_width=0.3, max_width=3.0)
    points = positions(sample, groups, seed, range(number * block, (number + 1) * block))
    strata = np.floor(points * block - 1e-9).clip(0).astype(int)
    for column in strata.T:
        assert sorted(column) == list(range(block))


def test_more_networks_extend_the_sequence_in_any_order():
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    base = graph.spec(32, multiplier=0.25)
    short, long = Sample(networks=5), Sample(networks=40)
    forwards = [sampled_spec(graph, base, short, 7, i) for i in range(5)]
    backwards = [sampled_spec(graph, base, long, 7, i) for i in reversed(range(40))]
    assert backwards[::-1][:5] == forwards
    assert len(set(backwards)) == 40
    assert sampled_spec(graph, base, short, 8, 0) != forwards[0]


@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000),
    index=st.integers(0, 40),
    width=st.sampled_from([0.02, 0.125, 1.0]),
    low=st.floats(0.1, 0.9),
    high=st.floats(1.0, 4.0),
)
def test_widths_stay_in_the_box_and_the_resolution_is_the_bases(seed, index, width, low, high):
    graph = load_graph(ModelRef(name="resnet18", classes=10), 32)
    base = graph.spec(40, multiplier=width)
    box = Sample(min_width=low, max_width=high)
    spec = sampled_spec(graph, base, box, seed, index)
    assert (spec.resolution, spec.model) == (40, base.model)
    for (name, chosen), (same, own) in zip(spec.widths, base.widths, strict=True):
        assert name == same
        assert chosen == graph.round_width(name, chosen)
        step = graph.group(name).multiple
        assert max(step, low * own - step / 2) <= chosen <= max(step, high * own + step / 2)
    graph.cost(spec)


def test_multipliers_are_log_uniform_and_groups_nearly_uncorrelated():
    points = positions(Sample(block=16), 6, 0, range(160))
    assert abs(np.median(points) - 0.5) < 0.05
    off_diagonal = ~np.eye(6, dtype=bool)
    correlations, discrepancies, drawn = [], [], []
    rng = np.random.default_rng(0)
    for block in np.split(points, 10):
        correlations.append(np.abs(np.corrcoef(block.T))[off_diagonal].max())
        discrepancies.append(qmc.discrepancy(block))
        independent = rng.random((16, 6))
        drawn.append(qmc.discrepancy(independent))
    # 16 independent draws of 6 groups have a largest correlation of 0.5 or so.
    assert np.mean(correlations) < 0.35
    assert max(discrepancies) < min(drawn)
    assert np.abs(np.corrcoef(points.T))[off_diagonal].max() < 0.15


def test_rows_do_not_depend_on_the_state_of_the_process():
    indexes = (9, 0, 3)
    first = positions(Sample(), 4, 3, indexes)
    widths._hypercube.cache_clear()
    np.random.seed(1)
    random.seed(1)
    assert np.array_equal(positions(Sample(), 4, 3, indexes[::-1]), first[::-1])


def test_a_negative_index_is_refused():
    with pytest.raises(ValueError, match="index"):
        sampled_spec(Unrounded(), flat(2), Sample(), 0, -1)


def test_one_group_and_a_range_of_narrow_widths_can_repeat_a_network():
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    base = graph.spec(32, multiplier=0.002)
    assert {c for _, c in base.widths} == {1}
    specs = {
        sampled_spec(graph, base, Sample(min_width=0.6, max_width=1.4), 0, i) for i in range(8)
    }
    assert specs == {base}
