"""Systolic arrays, processing in memory and energy: hand-computed cases and naive loops."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec import canonical, decode
from engine.costs import LayerCost, NetworkCost
from engine.errors import UserError
from engine.hardware.contract import Box
from engine.hardware.energy import Energy
from engine.hardware.pim import Pim
from engine.hardware.systolic import Systolic, smooth_ceil
from engine.spec import ModelRef

BOX = Box(model=ModelRef(name="vgg11", classes=10), widths={"a": (1, 9)}, resolutions=(8, 8))


def conv(cin: int, cout: int, pixels: int, kernel: int = 3, groups: int = 1) -> LayerCost:
    return LayerCost(
        name="c",
        kind="conv",
        cin=cin,
        cout=cout,
        hin=pixels,
        win=pixels,
        hout=pixels,
        wout=pixels,
        kernel=(kernel, kernel),
        groups=groups,
        macs=cin // groups * cout * kernel**2 * pixels**2,
    )


# Systolic --------------------------------------------------------------------------------------


def test_runtime_and_utilisation_by_hand():
    array = Systolic(box=BOX, rows=128, columns=128, batch=2)
    # 3·3·64 = 576 weights: 5 tiles of rows; 100 filters: 1 of columns; 14² pixels of 2 images.
    assert array.runtime(conv(64, 100, 14)) == 5 * 196 * 2
    assert array.utilisation(conv(64, 100, 14)) == pytest.approx(576 * 100 / (5 * 128 * 128))
    assert array.utilisation(conv(128, 256, 14, kernel=1)) == 1.0
    # Depthwise: ⌈9/128⌉ tiles for each of 64 channels.
    depthwise = conv(64, 64, 14, groups=64)
    assert array.runtime(depthwise) == 64 * 196 * 2
    assert array.utilisation(depthwise) == pytest.approx(9 / 128**2)
    linear = LayerCost(
        name="l", kind="linear", cin=300, cout=10, hin=1, win=1, hout=1, wout=1, macs=3000
    )
    assert array.runtime(linear) == 3 * 2


def test_a_transposed_convolution_uses_its_weights_at_every_input_pixel():
    # 2×2 kernels from 64 to 32 channels, 8² to 16² pixels: every weight meets every input once.
    up = replace(
        conv(64, 32, 8, kernel=2), kind="conv_transpose", hout=16, wout=16, macs=64 * 32 * 4 * 64
    )
    assert up.weights == 64 * 32 * 4
    # 64 rows by 4 · 32 columns: one tile. It is a 1×1 convolution to 128 channels.
    assert Systolic(box=BOX, rows=128, columns=128).runtime(up) == 64
    assert Systolic(box=BOX, rows=128, columns=128).utilisation(up) == 0.5
    # 64 values in to each of 4 arrays across, 128 sums out, at each of 64 positions.
    assert Pim(box=BOX, rows=128, columns=128, cells=4).moved(up) == 64 * (64 * 4 + 128)
    wide = replace(up, cin=256, cout=3, kernel=(4, 4), macs=256 * 3 * 16 * 64)
    array = Systolic(box=BOX, rows=128, columns=128)
    assert array.runtime(wide) == 2 * 64  # 256 rows by 48 columns
    assert array.utilisation(wide) == 256 * 48 / (2 * 128 * 128)
    assert array.granularity(wide) == 128 // 16


@pytest.mark.parametrize("groups", [1, 2, 32])
def test_the_channels_computed_together_are_the_steps_of_the_exact_staircase(groups: int):
    for array in (
        Systolic(box=BOX, rows=16, columns=8, weight_bytes_per_cycle=1e9),
        Pim(box=BOX, rows=64, columns=64, cells=8, bytes_per_cycle=1e9),
    ):
        grain = array.granularity(conv(64, 64, 1, groups=groups))
        assert grain == 8 * groups

        def time(cout: int, array: Systolic | Pim = array) -> float:
            cost = conv(64, cout, 1, groups=groups)
            return array.runtime(cost) if isinstance(array, Systolic) else array.arrays_of(cost)

        widths = range(groups, 6 * grain, groups)
        steps = [c for c in widths if time(c + groups) > time(c)]
        assert steps == list(range(grain, 6 * grain - groups, grain))


def test_a_depthwise_convolution_has_no_plateaus():
    """A channel more is a group more, of as many filters as the others have."""
    for array in (Systolic(box=BOX), Pim(box=BOX)):
        for filters in (1, 2):
            assert array.granularity(conv(64, 64 * filters, 8, groups=64)) == 1


@settings(max_examples=60)
@given(cin=st.integers(1, 40), cout=st.integers(1, 40), pixels=st.integers(1, 6), kernel=st.just(3))
def test_cycles_are_the_sum_over_tiles(cin: int, cout: int, pixels: int, kernel: int):
    array = Systolic(box=BOX, rows=16, columns=8, weight_bytes_per_cycle=4.0, weight_bytes=2)
    depth, expected = kernel * kernel * cin, 0.0
    for top in range(0, depth, 16):
        for left in range(0, cout, 8):
            rows, columns = min(16, depth - top), min(8, cout - left)
            expected += max(pixels**2, rows, rows * columns * 2 / 4.0) + (rows + columns) / 2
    assert array.cycles(conv(cin, cout, pixels)) == pytest.approx(expected)
    assert array.cycles(conv(cin, cout, pixels)) >= array.runtime(conv(cin, cout, pixels))


def test_cycles_become_milliseconds():
    cost = conv(64, 64, 14)
    slow = Systolic(box=BOX, clock_ghz=0.5)
    assert slow.op_ms(cost) == pytest.approx(slow.cycles(cost) / 0.5e6)
    assert slow.op_ms(replace(cost, kind="add", macs=0)) == 0


SCALE_SIM = (
    # Input and output channels, output pixels a side, kernel, cycles.
    (3, 32, 112, 3, 12_637),
    (32, 64, 112, 1, 25_275),
    (64, 128, 56, 1, 25_839),
    (128, 128, 56, 1, 51_679),
    (128, 256, 28, 1, 28_095),
    (256, 256, 28, 1, 56_191),
    (256, 512, 14, 1, 37_119),
    (512, 512, 14, 1, 74_239),
    (512, 1024, 7, 1, 73_215),
    (1024, 1024, 7, 1, 146_431),
)
"""The convolutions of MobileNet, less the depthwise ones, on a weight-stationary array of 32 × 32.

Source: COMPUTE_REPORT.csv of edgeTPU_fitMobileNet in the repository of SCALE-Sim, which counts
cycles one by one. There a tile is loaded, used and drained before the next one comes in.
"""


@pytest.mark.parametrize(("cin", "cout", "pixels", "kernel", "published"), SCALE_SIM)
def test_cycles_of_scale_sim(cin: int, cout: int, pixels: int, kernel: int, published: int):
    array = Systolic(box=BOX, rows=32, columns=32, weight_bytes_per_cycle=32.0)
    cost = conv(cin, cout, pixels, kernel=kernel)
    tiles = array.runtime(cost) // pixels**2
    # Rows to load a tile, rows + columns − 2 until its last product is out; counted from 0.
    assert array.runtime(cost) == published + 1 - tiles * (2 * 32 + 32 - 2)
    # Here the next tile is loaded while one is used.
    assert array.runtime(cost) < array.cycles(cost) < published


def test_small_outputs_are_bound_by_loading_weights():
    array = Systolic(box=BOX)
    assert array.cycles(conv(512, 512, 56)) < 1.05 * array.runtime(conv(512, 512, 56))
    assert array.cycles(conv(512, 512, 2)) > 20 * array.runtime(conv(512, 512, 2))


def test_the_smooth_form_follows_the_exact_one_between_its_steps():
    array = Systolic(box=BOX, rows=36, columns=16)
    cin = torch.tensor([4.0, 6.0, 8.0, 10.0, 40.0], dtype=torch.float64, requires_grad=True)
    cout = torch.tensor([16.0, 24.0, 32.0, 40.0, 16.0], dtype=torch.float64, requires_grad=True)
    smooth = array.smooth_runtime(cin, cout, (3, 3), 49)
    pairs = list(zip(cin.tolist(), cout.tolist(), strict=True))
    exact = [array.runtime(conv(int(c), int(f), 7)) for c, f in pairs]
    assert smooth.tolist() == pytest.approx(exact, rel=0.03)
    used = array.smooth_utilisation(cin, cout, (3, 3)).tolist()
    assert used == pytest.approx(
        [array.utilisation(conv(int(c), int(f), 7)) for c, f in pairs], rel=0.03
    )
    smooth.sum().backward()
    assert cin.grad is not None and cout.grad is not None
    assert bool((cin.grad >= 0).all()) and bool((cout.grad >= 0).all())


@pytest.mark.parametrize("rows", [9, 27, 36, 128])
def test_the_smooth_form_is_right_at_every_whole_width(rows: int):
    """Also of the first convolution, which fills 27 of 128 rows."""
    array = Systolic(box=BOX, rows=rows, columns=128)
    for kernel in (1, 3):
        cin = torch.arange(1.0, 260.0, dtype=torch.float64)
        smooth = array.smooth_runtime(cin, cin, (kernel, kernel), 49)
        exact = [array.runtime(conv(int(c), int(c), 7, kernel=kernel)) for c in cin]
        assert smooth.tolist() == pytest.approx(exact, rel=0.02)
        used = array.smooth_utilisation(cin, cin, (kernel, kernel))
        assert float(used.max()) <= 1.02


def test_the_smooth_ceiling_can_be_differentiated():
    x = torch.linspace(0.0, 3.0, 13, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda at: smooth_ceil(at, 0.5), (x,))
    assert smooth_ceil(torch.tensor([0.0, 0.5, 1.0, 1.5, 3.0]), 0.5).tolist() == pytest.approx(
        [0, 1, 1, 2, 3], abs=0.03
    )


def test_an_impossible_array_is_refused():
    for wrong in ({"rows": 0}, {"clock_ghz": 0.0}, {"weight_bytes_per_cycle": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Systolic(box=BOX, **wrong)  # pyright: ignore[reportArgumentType]
        if "weight_bytes_per_cycle" not in wrong:
            with pytest.raises(ValueError, match=next(iter(wrong))):
                Pim(box=BOX, **wrong)  # pyright: ignore[reportArgumentType]


# Processing in memory --------------------------------------------------------------------------


def test_array_utilisation_by_hand():
    cost = conv(64, 128, 14)
    small = Pim(box=BOX, rows=128, columns=128, cells=4)
    # 576 rows: 5 arrays down; 128 · 4 columns: 4 across.
    assert small.arrays_of(cost) == 20
    assert small.utilisation(cost) == pytest.approx(576 * 512 / (20 * 128 * 128))
    large = replace(small, rows=4096, columns=4096)
    assert large.arrays_of(cost) == 1
    assert large.utilisation(cost) == pytest.approx(576 * 512 / 4096**2)


@pytest.mark.parametrize("side", [128, 256, 512, 1024, 2048, 4096])
def test_small_filters_leave_arrays_empty(side: int):
    array = Pim(box=BOX, rows=side, columns=side)
    shares = [array.utilisation(conv(c, c, 8, kernel=1)) for c in (3, 16, 64, 128)]
    assert shares == sorted(shares)
    assert array.utilisation(conv(32, 32, 8, groups=32)) == pytest.approx(9 * 4 / side**2)


def test_activation_movement_by_hand():
    array = Pim(box=BOX, rows=128, columns=128, cells=4, batch=2)
    # Every pixel: 576 inputs to each of 4 arrays across, 128 sums from each of 5 down.
    assert array.moved(conv(64, 128, 14)) == 2 * 196 * (576 * 4 + 128 * 5)


def test_arrays_take_turns_where_there_are_too_few():
    cost = conv(64, 128, 14)
    plenty = Pim(box=BOX, arrays=20, bytes_per_cycle=1e9)
    assert plenty.op_ms(cost) == pytest.approx(196 * 8 / 0.1e6)
    assert replace(plenty, arrays=7).op_ms(cost) == pytest.approx(3 * 196 * 8 / 0.1e6)
    moving = replace(plenty, bytes_per_cycle=1.0)
    assert moving.op_ms(cost) == pytest.approx(moving.moved(cost) / 0.1e6)


# Energy ----------------------------------------------------------------------------------------


def test_relative_costs_are_the_published_ones():
    """One MAC with its one access at every level, Yang et al. 2017: 1, 1, 2, 6, 200."""
    model = Energy()
    assert (model.mac, model.rf, model.noc, model.buffer, model.dram) == (1, 1, 2, 6, 200)


def test_energy_by_hand():
    cost = LayerCost(name="l", kind="linear", cin=4, cout=8, hin=1, win=1, hout=1, wout=1, macs=32)
    model = Energy(reuse=16)
    # 32 MACs; RF 4 · 32; NoC and buffer 3 · 32 / 16 values; DRAM 32 weights, 4 inputs, 8 outputs.
    assert model.compute(cost) == 32
    assert model.data(cost) == 4 * 32 * 1 + 6 * 2 + 6 * 6 + (32 + 4 + 8) * 200
    assert model.layer(cost) == model.compute(cost) + model.data(cost)


def test_ops_without_arithmetic_are_taken_to_be_fused():
    first = conv(3, 64, 32)
    relu = replace(first, name="r", kind="activation", cin=64, kernel=(1, 1), macs=0)
    network = NetworkCost(layers=(first, relu, conv(64, 64, 32)))
    model = Energy()
    assert model.layer(relu) == 0
    assert model.predict(network) == model.layer(first) + model.layer(network.layers[2])


@settings(max_examples=30)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 8))
def test_data_is_linear_in_the_bit_width_and_zeros_are_free(cin: int, cout: int, pixels: int):
    cost = conv(cin, cout, pixels)
    model = Energy()
    half = replace(model, weight_bits=8, activation_bits=8)
    assert half.data(cost) == pytest.approx(model.data(cost) / 2)
    assert half.compute(cost) == model.compute(cost)
    sparse = replace(model, weight_sparsity=0.5, activation_sparsity=0.5)
    assert sparse.compute(cost) == pytest.approx(model.compute(cost) / 4)
    assert sparse.data(cost) == pytest.approx(model.data(cost) / 2)
    assert model.layer(conv(cin + 1, cout, pixels)) > model.layer(cost)
    assert model.layer(conv(cin, cout + 1, pixels)) > model.layer(cost)


def test_a_measured_network_makes_it_millijoules():
    network = NetworkCost(layers=(conv(3, 8, 8), conv(8, 8, 8)))
    model = Energy().calibrated(network, 2.5)
    assert model.predict(network) == pytest.approx(2.5)
    assert model.calibrated(network, 5.0).predict(network) == pytest.approx(5.0)
    ratio = Energy().layer(network.layers[0]) / Energy().layer(network.layers[1])
    assert model.layer(network.layers[0]) / model.layer(network.layers[1]) == pytest.approx(ratio)


def test_an_unknown_op_has_no_energy():
    with pytest.raises(UserError, match=r"'c' \(deform_conv\)"):
        Energy().layer(replace(conv(3, 8, 8), kind="deform_conv"))


def test_energy_round_trips_through_its_file():
    model = Energy(weight_bits=8, activation_sparsity=0.25).calibrated(
        NetworkCost(layers=(conv(3, 8, 8),)), 2.5
    )
    assert decode(Energy, canonical(model), "energy.json") == model
