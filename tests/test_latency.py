import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from engine.costs import LayerCost
from engine.errors import UserError
from engine.graph import NetworkGraph, load_graph
from engine.hardware.boosting import Boosting, Tree, boost, exported
from engine.hardware.contract import Box, op_class
from engine.hardware.insitu import Bend, Fork, InSitu, OpModel, fit
from engine.hardware.models import load_latency
from engine.latency import judge, profile_specs
from engine.measure import Timing, time_networks
from engine.recipe import Device, Profile
from engine.spec import ModelRef, NetworkSpec
from engine.widening import LayerCosts, NetworkWidening, fast_steps

VGG = load_graph(ModelRef(name="vgg11", classes=10), 32)
RESNET = load_graph(ModelRef(name="resnet18", classes=10), 32)
BASE = VGG.spec(32, 0.25)
RESOLUTIONS = (32, 40, 48)
PROFILE = Profile(networks=20, held_out=6)
BOX = Box.around(VGG, BASE, RESOLUTIONS, PROFILE)


def timed(specs: list[NetworkSpec], graph: NetworkGraph = VGG, batch: int = 1) -> list[Timing]:
    device = Device(runtime="synthetic", batch=batch)
    return time_networks(graph, specs, specs[0], device, calls=3, rounds=1, per_layer=True).timings


TRAINING, HELD_OUT = profile_specs(VGG, BASE, RESOLUTIONS, PROFILE)
TIMINGS = timed(TRAINING)
MODEL = fit(VGG, TIMINGS, BOX, 1)


def specs_in(graph: NetworkGraph, box: Box):
    """Any network inside the box."""
    widths = {g.name: st.integers(*box.widths[g.name]) for g in graph.groups}
    return st.builds(
        lambda resolution, chosen: graph.spec(resolution).with_widths(
            {g: graph.round_width(g, w) for g, w in chosen.items()}
        ),
        st.integers(*box.resolutions),
        st.fixed_dictionaries(widths),
    )


rates = st.lists(st.floats(0, 1e-3), min_size=8, max_size=8).map(tuple)
some_bends = st.lists(
    st.builds(
        Bend,
        what=st.sampled_from(("weights", "inputs", "outputs")),
        beyond=st.integers(0, 100_000),
        ms=st.floats(0, 1e-3),
    ),
    max_size=2,
).map(tuple)
op_models = st.builds(
    OpModel, granularity=st.sampled_from((8, 16, 32)), rates=rates, bends=some_bends
)
forks = st.recursive(
    op_models,
    lambda models: st.builds(
        Fork,
        trait=st.sampled_from(("pixels", "inputs", "cin", "cout", "channels")),
        value=st.sampled_from((2, 4, 16)),
        those=models,
        others=models,
    ),
    max_leaves=4,
)
models = st.builds(
    InSitu,
    box=st.just(BOX),
    ops=st.fixed_dictionaries({name: op_models for name in MODEL.ops}),
    scale=st.floats(0, 10),
    offset_ms=st.floats(0, 10),
)
forked_models = st.builds(
    InSitu, box=st.just(BOX), ops=st.fixed_dictionaries({name: forks for name in MODEL.ops})
)


# The fit ---------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(spec=specs_in(VGG, BOX))
def test_a_known_device_is_recovered_everywhere_in_the_box(spec: NetworkSpec):
    truth = timed([spec])[0].latency.ms
    assert MODEL.predict(VGG.cost(spec)) == pytest.approx(truth, rel=1e-6)


def one_algorithm(model: InSitu, name: str) -> OpModel:
    op = model.ops[name]
    assert isinstance(op, OpModel)
    return op


def test_the_staircase_of_a_known_device_is_found():
    assert one_algorithm(MODEL, "conv 3x3").granularity == 16
    assert MODEL.scale == pytest.approx(1)
    # The classes are always ten, so that its overhead cannot be told from the time for outputs.
    classifier = 10 * one_algorithm(MODEL, "linear").rates[5]
    overheads = 0.002 * len(VGG.cost(BASE).layers)
    assert MODEL.offset_ms + classifier == pytest.approx(overheads, rel=1e-3)


def test_the_fit_takes_the_batch_it_was_measured_with():
    model = fit(VGG, timed(TRAINING, batch=4), BOX, 4)
    for timing in timed(HELD_OUT, batch=4):
        assert model.predict(VGG.cost(timing.spec)) == pytest.approx(timing.latency.ms, rel=1e-6)


def test_sums_of_ops_are_calibrated_to_whole_networks():
    def whole(timing: Timing) -> Timing:
        return replace(timing, latency=replace(timing.latency, ms=1.3 * timing.latency.ms + 0.5))

    model = fit(VGG, [whole(t) for t in TIMINGS], BOX, 1)
    assert model.scale == pytest.approx(1.3)
    for timing in map(whole, timed(HELD_OUT)):
        assert model.predict(VGG.cost(timing.spec)) == pytest.approx(timing.latency.ms, rel=1e-6)


def fitted_to(op_ms: Callable[[LayerCost], float]) -> tuple[InSitu, Callable[[Timing], Timing]]:
    """A model of a device whose ops take as long as told, and the timings of that device."""

    def told(timing: Timing) -> Timing:
        layers = {c.name: op_ms(c) for c in VGG.cost(timing.spec).layers}
        latency = replace(timing.latency, ms=sum(layers.values()))
        return replace(timing, layer_ms=layers, latency=latency)

    return fit(VGG, [told(t) for t in TIMINGS], BOX, 1), told


def test_ops_of_few_pixels_that_another_algorithm_computes_are_told_apart():
    def op_ms(cost: LayerCost) -> float:
        small = cost.hout * cost.wout <= 4
        # Slower for 2 × 2 outputs than for 4 × 4, as on CPUs with AVX2.
        return 0.001 + cost.macs * (9e-8 if small else 1e-8)

    model, told = fitted_to(op_ms)
    fork = model.ops["conv 3x3"]
    assert isinstance(fork, Fork)
    assert (fork.trait, fork.value) == ("pixels", 4)
    assert [name for name, op in model.ops.items() if isinstance(op, Fork)] == ["conv 3x3"]
    assert load_latency(model.to_json()) == model
    for timing in map(told, timed(HELD_OUT)):
        assert model.predict(VGG.cost(timing.spec)) == pytest.approx(timing.latency.ms, rel=1e-6)
        last = next(c for c in VGG.cost(timing.spec).layers if c.name == "features_25")
        expected = op_ms(last) - 0.001  # its overhead is in the offset of the network
        assert model.layer_ms(last) == pytest.approx(expected, rel=1e-3)


def test_ops_of_few_inputs_that_another_algorithm_computes_are_told_apart():
    """As PyTorch, which leaves convolutions of one image to oneDNN where they have many inputs."""

    def op_ms(cost: LayerCost) -> float:
        return 0.001 + cost.macs * (1e-8 if cost.in_size > 5_120 else 3e-8)

    model, told = fitted_to(op_ms)
    fork = model.ops["conv 3x3"]
    assert isinstance(fork, Fork)
    assert (fork.trait, fork.value) == ("inputs", 5_120)
    assert judge(model, VGG, [told(t) for t in timed(HELD_OUT)]).mape < 1e-3
    assert set(fast_steps(VGG.formula(BASE), model).values()) == {1}


def test_what_one_op_alone_has_does_not_extrapolate_from_it():
    """The widest network's last layer is slow for a reason that no other shows."""
    odd = max((c for t in TRAINING for c in VGG.cost(t).layers), key=lambda c: c.weights)

    def op_ms(cost: LayerCost) -> float:
        return 0.001 + cost.macs * 1e-8 * (20 if cost.weights == odd.weights else 1)

    model, _ = fitted_to(op_ms)
    for timing in timed(HELD_OUT):
        truth = sum(0.001 + c.macs * 1e-8 for c in VGG.cost(timing.spec).layers)
        assert model.predict(VGG.cost(timing.spec)) == pytest.approx(truth, rel=0.1)


def test_channels_that_a_fast_algorithm_needs_are_found_and_widths_are_steps_of_them():
    """As ONNX Runtime, which computes blocks of four input channels and falls back for others."""

    def op_ms(cost: LayerCost) -> float:
        return 0.001 + cost.macs * (4e-8 if cost.cin % 4 else 1e-8)

    model, told = fitted_to(op_ms)
    for timing in map(told, timed(HELD_OUT)):
        assert model.predict(VGG.cost(timing.spec)) == pytest.approx(timing.latency.ms, rel=1e-4)
    conv = next(c for c in VGG.cost(BASE).layers if c.name == "features_4")
    assert model.fast_multiples(conv) == (4, 1)
    assert model.fast_multiples(replace(conv, cin=conv.cin + 1)) == (1, 1)
    formula, last = VGG.formula(BASE), VGG.groups[-1].name
    steps = fast_steps(formula, model)
    # The last group is read by no convolution.
    assert steps.pop(last) == 1
    assert set(steps.values()) == {4}
    first = VGG.groups[0].name
    off = replace(formula, base=BASE.with_widths({first: BASE.width_of[first] + 2}))
    assert fast_steps(off, model)[first] == 1


def test_an_algorithm_that_is_slower_for_even_channels_makes_no_steps():
    model, _ = fitted_to(lambda cost: 0.001 + cost.macs * (1e-8 if cost.cout % 4 else 4e-8))
    assert isinstance(model.ops["conv 3x3"], Fork)
    conv = next(c for c in VGG.cost(BASE).layers if c.name == "features_4")
    assert model.fast_multiples(conv) == (1, 1)


def test_steps_are_in_channels_of_the_group_where_an_op_has_each_of_them_several_times():
    """A linear layer reads every channel of a 5 × 5 map: two of them are 50 of its inputs."""
    graph = load_graph(ModelRef(name="example_networks:LeNet", classes=10), 32)
    formula = graph.formula(graph.spec(32))
    op = OpModel(granularity=1, rates=(1.0, *[0.0] * 7))
    slow = replace(op, rates=(2.0, *[0.0] * 7))
    fork = Fork(trait="cin", value=10, those=slow, others=op)
    model = InSitu(box=BOX, ops={"linear": fork, "conv 5x5": op})
    # The first linear layer has 30 outputs, which the second one reads.
    assert fast_steps(formula, model) == {"conv1": 1, "conv2": 2, "fc1": 10}


def test_an_algorithm_in_an_algorithm_is_found():
    def op_ms(cost: LayerCost) -> float:
        if cost.hout <= 6:
            return 0.001 + cost.macs * 9e-8
        return 0.001 + cost.macs * (2e-8 if cost.cout % 2 else 1e-8)

    model, told = fitted_to(op_ms)
    assert judge(model, VGG, [told(t) for t in timed(HELD_OUT)]).mape < 0.01


def test_noise_does_not_break_the_fit():
    rng = np.random.default_rng(0)

    def noisy(timing: Timing) -> Timing:
        assert timing.layer_ms is not None
        layers = {name: ms * float(rng.normal(1, 0.1)) for name, ms in timing.layer_ms.items()}
        return replace(timing, layer_ms=layers)

    model = fit(VGG, [noisy(t) for t in TIMINGS], BOX, 1)
    assert judge(model, VGG, timed(HELD_OUT)).mape < 0.05


def test_ops_without_a_measurable_time_are_taken_for_very_short():
    def blind(timing: Timing) -> Timing:
        assert timing.layer_ms is not None
        return replace(timing, layer_ms={**timing.layer_ms, "flatten": 0.0})

    model = fit(VGG, [blind(t) for t in TIMINGS], BOX, 1)
    assert judge(model, VGG, timed(HELD_OUT)).mape < 0.01


def test_a_fit_needs_several_networks_timed_op_by_op():
    with pytest.raises(UserError, match=r"at least 2 .* not 1"):
        fit(VGG, TIMINGS[:1], BOX, 1)
    with pytest.raises(UserError, match="per_layer"):
        fit(VGG, [*TIMINGS[:5], replace(TIMINGS[5], layer_ms=None)], BOX, 1)


# The correction --------------------------------------------------------------------------------


def test_exported_trees_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    features = rng.integers(1, 500, (300, 4)).astype(float)
    targets = np.log(features).sum(axis=1) + rng.normal(0, 0.3, 300)
    model = boost(features, targets)
    copy = exported(model)
    # Values on thresholds go left in both.
    on_thresholds = np.array([[t.threshold[0]] * 4 for t in copy.trees if t.feature[0] != -1])
    for row in (*features, *rng.integers(1, 900, (100, 4)).astype(float), *on_thresholds):
        assert copy(row.tolist()) == pytest.approx(model.predict(row[None])[0], abs=1e-9)
        for i in range(4):
            assert copy([*row[:i], row[i] + 100, *row[i + 1 :]]) >= copy(row.tolist()) - 1e-12


def test_a_growth_that_no_size_has_is_corrected():
    def odd_ms(cost: LayerCost) -> float:
        """Ten times slower from 100 input channels on, whatever the spatial size."""
        return 0.001 + cost.macs * 1e-7 * (10 if cost.cin >= 100 else 1)

    model, _ = fitted_to(odd_ms)
    conv = one_algorithm(model, "conv 3x3")
    plain = replace(model, ops={**model.ops, "conv 3x3": replace(conv, power=1.0, correction=None)})
    assert conv.correction is not None
    assert one_algorithm(MODEL, "conv 3x3").correction is None
    off = [
        float(
            np.mean(
                [
                    abs(np.log(m.layer_ms(c) / odd_ms(c)))
                    for t in HELD_OUT
                    for c in VGG.cost(t).layers
                    if op_class(c) == "conv 3x3"
                ]
            )
        )
        for m in (model, plain)
    ]
    assert off[0] < 0.6 * off[1]
    assert load_latency(model.to_json()) == model


def test_a_damaged_tree_is_refused():
    leaf = {"feature": (-1,), "threshold": (0.0,), "left": (0,), "right": (0,), "value": (1.0,)}
    assert Tree(**leaf)([]) == 1.0
    with pytest.raises(ValueError, match="children of node 0 must follow it"):
        Tree(**leaf | {"feature": (0,)})
    with pytest.raises(ValueError, match="as many thresholds"):
        Tree(**leaf | {"value": ()})
    split = leaf | {"feature": (3, -1, -1), "left": (1, 0, 0), "right": (2, 0, 0)}
    split |= {"threshold": (0.0,) * 3, "value": (0.0,) * 3}
    with pytest.raises(ValueError, match="features must exceed 3"):
        Boosting(constant=0.0, trees=(Tree(**split),), features=3)


# Predictions -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data(), model=models)
def test_no_prediction_falls_when_a_group_gets_wider(data: st.DataObject, model: InSitu):
    spec = data.draw(specs_in(VGG, BOX))
    group = data.draw(st.sampled_from(VGG.groups)).name
    wider = spec.with_widths({group: data.draw(st.integers(spec.width_of[group], 600))})
    before, after = model.predict(VGG.cost(spec)), model.predict(VGG.cost(wider))
    assert after >= before * (1 - 1e-12)


@settings(max_examples=30)
@given(spec=specs_in(VGG, BOX), model=models, factor=st.floats(0.1, 10))
def test_layers_and_offset_make_the_network_and_rescaling_is_exact(
    spec: NetworkSpec, model: InSitu, factor: float
):
    cost = VGG.cost(spec)
    total = model.offset_ms + sum(model.layer_ms(layer) for layer in cost.layers)
    assert model.predict(cost) == pytest.approx(total)
    assert model.rescaled(factor).predict(cost) == pytest.approx(factor * total)


def test_an_op_model_is_the_sum_by_hand():
    by_hand = (1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7)
    op = OpModel(granularity=8, rates=by_hand)
    # 3×3, 2 → 9 channels on 5×5 outputs: 162 weights; 16 channels and 32 pixels after rounding,
    # 8 pixels in every row.
    cost = LayerCost(
        name="c",
        kind="conv",
        cin=2,
        cout=9,
        hin=5,
        win=5,
        hout=5,
        wout=5,
        kernel=(3, 3),
        macs=162 * 25,
    )
    sizes = (4050, 2 * 9 * 16 * 25, 162 * 32, 162, 50, 225, 2 * 9 * 25, 162 * 5 * 8)
    assert op.ms(cost) == sum(10**i * size for i, size in enumerate(sizes))


def test_the_time_of_an_op_bends_up_where_a_cache_is_full():
    bends = (
        Bend(what="weights", beyond=1000, ms=1.0),
        Bend(what="weights", beyond=2000, ms=1.0),
        Bend(what="inputs", beyond=300, ms=5.0),
        Bend(what="outputs", beyond=100, ms=2.0),
    )
    op = OpModel(granularity=1, rates=(0.0,) * 8, bends=bends)

    def ms(cin: int, cout: int, pixels: int) -> float:
        cost = LayerCost(
            name="c", kind="conv", cin=cin, cout=cout, hin=pixels, win=pixels,
            hout=pixels, wout=pixels, macs=cin * cout * pixels**2,
        )  # fmt: skip
        return op.ms(cost)

    assert ms(10, 100, 1) == 0
    assert ms(20, 100, 1) == 1000
    assert ms(40, 100, 2) == (4000 - 1000) + (4000 - 2000) + 2 * (400 - 100)
    assert ms(100, 10, 2) == 5 * (400 - 300)


def test_convolutions_of_other_shape_are_other_ops():
    cost = VGG.cost(BASE).layers[0]
    assert op_class(cost) == "conv 3x3"
    assert op_class(replace(cost, kernel=(1, 1))) == "conv 1x1"
    assert op_class(replace(cost, groups=16)) == "conv 3x3 grouped"
    assert op_class(replace(cost, kind="pool")) == "pool"


def test_an_unknown_op_is_refused_by_name():
    unknown = replace(VGG.cost(BASE).layers[0], kind="deform_conv", name="features_9")
    with pytest.raises(UserError, match=r"'features_9' \(deform_conv\)"):
        MODEL.layer_ms(unknown)


# Where a model holds ---------------------------------------------------------------------------


def test_networks_outside_the_box_are_refused():
    for spec in (BASE, *TRAINING, *HELD_OUT):
        MODEL.check(spec)
    first, last = VGG.groups[0].name, VGG.groups[-1].name
    with pytest.raises(UserError, match="32 to 48 px, not at 56"):
        MODEL.check(BASE.at(56))
    with pytest.raises(UserError, match=f"8 to 64 channels of {first}, not 65"):
        MODEL.check(BASE.with_widths({first: 65}))
    with pytest.raises(UserError, match=f"64 to 512 channels of {last}, not 63"):
        MODEL.check(BASE.with_widths({last: 63}))
    with pytest.raises(UserError, match="of 'vgg11' with 10 classes"):
        MODEL.check(replace(BASE, model=ModelRef(name="vgg11", classes=100)))
    with pytest.raises(UserError, match="no width group 'head'"):
        MODEL.check(replace(BASE, widths=(("head", 8),)))
    with pytest.raises(UserError, match="not at 56"):
        judge(MODEL, VGG, [replace(TIMINGS[0], spec=BASE.at(56))])


def test_the_profile_covers_its_box():
    assert TRAINING[0] == BASE
    assert TRAINING[1] == VGG.spec(32, 0.125)
    assert TRAINING[2] == VGG.spec(48, 1.0)
    assert (len(TRAINING), len(HELD_OUT)) == (20, 6)
    assert len({*TRAINING, *HELD_OUT}) == 26
    # A quarter of the training is the sweep: one channel more, then to the ends of the steps.
    assert [t.widths[0][1] - BASE.widths[0][1] for t in TRAINING[3:8]] == [1, 8, 9, 16, 17]
    assert {s.resolution for s in TRAINING} == {s.resolution for s in HELD_OUT} == {*RESOLUTIONS}
    # A Latin hypercube of log-uniform multipliers has one network in each of its 18 strata.
    drawn = [*TRAINING, *HELD_OUT][8:]
    for group, base in BASE.widths[3:]:
        logs = np.log([s.width_of[group] / base for s in drawn])
        assert logs.mean() == pytest.approx(np.log(2) / 2, abs=0.05)
        assert np.ptp(logs) > 0.85 * np.log(8)


def test_the_profile_is_decided_by_its_seed():
    again = profile_specs(VGG, BASE, RESOLUTIONS, PROFILE)
    assert again == (TRAINING, HELD_OUT)
    other = profile_specs(VGG, BASE, RESOLUTIONS, replace(PROFILE, seed=1))
    assert other[0][:8] == TRAINING[:8]
    assert not {*other[0][8:], *other[1]} & {*TRAINING, *HELD_OUT}


def test_the_resolution_of_the_base_network_is_profiled_too():
    training, held_out = profile_specs(VGG, BASE, [48], PROFILE)
    assert {s.resolution for s in (*training, *held_out)} == {32, 48}
    assert Box.around(VGG, BASE, [48], PROFILE).resolutions == (32, 48)


def test_an_impossible_profile_is_refused():
    with pytest.raises(UserError, match="cannot take 16×16"):
        profile_specs(VGG, BASE, [16], PROFILE)
    narrow = replace(PROFILE, min_width=1.0, max_width=1.0)
    with pytest.raises(UserError, match="26 networks"):
        profile_specs(VGG, BASE, RESOLUTIONS, narrow)


# Quality ---------------------------------------------------------------------------------------


def test_quality_is_of_the_relative_errors():
    factors = (1.0, 1.05, 0.8, 1.25, 1.0, 1.0)
    off = [
        replace(t, latency=replace(t.latency, ms=t.latency.ms * f))
        for t, f in zip(timed(HELD_OUT), factors, strict=True)
    ]
    quality = judge(MODEL, VGG, off)
    assert quality.mape == pytest.approx(sum(abs(1 / f - 1) for f in factors) / 6)
    assert quality.within_10 == pytest.approx(4 / 6)
    assert quality.measured_ms == tuple(t.latency.ms for t in off)
    ranks = [rankdata(quality.predicted_ms), rankdata(quality.measured_ms)]
    assert quality.spearman == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_quality_without_an_order_or_without_networks():
    same = timed([HELD_OUT[0]] * 2)
    assert judge(MODEL, VGG, same).spearman == 0
    with pytest.raises(UserError, match="held_out"):
        judge(MODEL, VGG, [])


# JSON ------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(model=forked_models)
def test_json_round_trip(model: InSitu):
    assert load_latency(model.to_json()) == model


def test_json_of_a_fitted_model_predicts_the_same():
    read = load_latency(MODEL.to_json())
    assert read.predict(VGG.cost(BASE)) == MODEL.predict(VGG.cost(BASE))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("scael",), 1.0, "unknown key 'scael'; did you mean 'scale'"),
        (("scale",), -1.0, "scale must be finite and not negative"),
        (("scale",), "1", "scale"),
        (("offset_ms",), None, "offset_ms"),
        (("ops", "linear", "rates"), [0.0] * 7, "8 finite, non-negative numbers"),
        (("ops", "linear", "rates"), [0.0] * 7 + [-1e-9], "8 finite, non-negative numbers"),
        (("ops", "linear", "below"), [], "unknown key 'ops.linear.op.below'; if another version"),
        (("ops", "linear", "granularity"), 0, "granularity must be at least 1"),
        (("box", "resolutions"), [48, 32], "1 <= low <= high"),
        (("box", "widths", "features.0"), [8], "features.0"),
    ],
)
def test_damaged_json_is_refused(path: tuple[str, ...], value: object, message: str):
    tree = json.loads(MODEL.to_json())
    *parents, leaf = path
    node = tree
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    with pytest.raises(UserError, match="the latency model: ") as refusal:
        load_latency(json.dumps(tree))
    assert message in str(refusal.value)


def test_json_of_something_else_is_refused():
    for text in ("", "[]", "{}", MODEL.to_json().replace('"scale":', '"scale":NaN,"x":')):
        with pytest.raises(UserError, match="the latency model"):
            load_latency(text)


# Widening --------------------------------------------------------------------------------------

RESNET_BASE = RESNET.spec(64, 0.25)
RESNET_BOX = Box.around(RESNET, RESNET_BASE, [64], Profile())
RESNET_MODEL = fit(
    RESNET, timed(profile_specs(RESNET, RESNET_BASE, [64], Profile())[0], RESNET), RESNET_BOX, 1
)


@pytest.mark.parametrize(
    ("graph", "model", "base"), [(VGG, MODEL, BASE), (RESNET, RESNET_MODEL, RESNET_BASE)]
)
@settings(max_examples=20)
@given(data=st.data())
def test_widening_agrees_with_predicting_the_whole_network(
    graph: NetworkGraph, model: InSitu, base: NetworkSpec, data: st.DataObject
):
    widening = NetworkWidening(LayerCosts(graph.formula(base), model))
    spec = base
    for _ in range(data.draw(st.integers(1, 12))):
        group = data.draw(st.sampled_from(graph.groups)).name
        width = data.draw(st.integers(*model.box.widths[group]))
        wider = spec.with_widths({group: width})
        asked = widening.after(group, width)
        whole = graph.cost(wider)
        assert asked.latency_ms == model.predict(whole)
        assert asked.params == whole.params
        assert widening.widths == spec.width_of
        if data.draw(st.booleans()):
            widening.widen(group, width)
            spec = wider
            assert widening.usage == asked
        assert widening.widths == spec.width_of
        assert widening.usage.latency_ms == model.predict(graph.cost(spec))


def test_widening_stays_inside_the_box():
    with pytest.raises(UserError, match="not at 56"):
        NetworkWidening(LayerCosts(VGG.formula(BASE.at(56)), MODEL))
    widening = NetworkWidening(LayerCosts(VGG.formula(BASE), MODEL))
    group = VGG.groups[0].name
    for ask in (widening.after, widening.widen):
        with pytest.raises(UserError, match="not 65"):
            ask(group, 65)
        with pytest.raises(UserError, match="no width group"):
            ask("features.99", 8)
    assert widening.widths == BASE.width_of
