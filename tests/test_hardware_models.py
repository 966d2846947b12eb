"""What every latency model must pass; a new kind is tested by being in `KINDS`."""

import json
import math
from dataclasses import replace
from functools import cache
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.costs import LayerCost, NetworkCost
from engine.errors import UserError
from engine.graph import load_graph
from engine.hardware.contract import Box, LatencyModel
from engine.hardware.lut import Lut, Table, from_rows
from engine.hardware.models import KINDS, fit_latency, load_latency
from engine.hardware.neuralpower import NeuralPower, Polynomial, PowerRow, fit_power
from engine.hardware.paleo import Paleo
from engine.hardware.roofline import Roofline
from engine.latency import judge, profile_specs
from engine.measure import Timing, time_networks
from engine.recipe import Device, Profile
from engine.spec import ModelRef, NetworkSpec
from engine.tables import TableRow
from engine.widening import LayerCosts, NetworkWidening

GRAPH = load_graph(ModelRef(name="mobilenet_v2", classes=10), 32)
BASE = GRAPH.spec(32, 0.5)
PROFILE = Profile(networks=12, held_out=4, min_width=0.5, max_width=2.0)
RESOLUTIONS = (32, 48)
BOX = Box.around(GRAPH, BASE, RESOLUTIONS, PROFILE)
TRAINING, HELD_OUT = profile_specs(GRAPH, BASE, RESOLUTIONS, PROFILE)

every_model = pytest.mark.parametrize("kind", KINDS)


def timed(specs: list[NetworkSpec]) -> list[Timing]:
    device = Device(runtime="synthetic")
    return time_networks(GRAPH, specs, BASE, device, calls=3, rounds=1, per_layer=True).timings


@cache
def fitted(kind: str) -> LatencyModel:
    return fit_latency(kind, GRAPH, timed(TRAINING), BOX)


@st.composite
def specs(draw: st.DrawFn) -> NetworkSpec:
    """Any network inside the box."""
    widths = {
        g.name: GRAPH.round_width(g.name, draw(st.integers(*BOX.widths[g.name])))
        for g in GRAPH.groups
    }
    return GRAPH.spec(draw(st.integers(*RESOLUTIONS))).with_widths(widths)


class Counting:
    """A model that counts the ops that it is asked about."""

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def layer_ms(self, cost: LayerCost) -> float:
        self.asked.append(cost.name)
        return self._model.layer_ms(cost)


def test_the_recipe_offers_every_kind():
    assert set(get_args(get_type_hints(Profile)["model"])) == set(KINDS)
    for kind in KINDS:
        assert fitted(kind).kind == kind


@every_model
@settings(max_examples=15)
@given(data=st.data())
def test_no_prediction_falls_when_a_width_or_the_resolution_grows(kind: str, data: st.DataObject):
    model, spec = fitted(kind), data.draw(specs())
    group = data.draw(st.sampled_from(GRAPH.groups)).name
    wider = spec.with_widths(
        {group: data.draw(st.integers(spec.width_of[group], BOX.widths[group][1]))}
    )
    larger = spec.at(data.draw(st.integers(spec.resolution, RESOLUTIONS[-1])))
    before = model.predict(GRAPH.cost(spec))
    assert before > 0
    for more in (wider, larger):
        assert model.predict(GRAPH.cost(more)) >= before * (1 - 1e-12)


@every_model
@settings(max_examples=5)
@given(spec=specs(), factor=st.floats(0.1, 10))
def test_layers_and_offset_make_the_network(kind: str, spec: NetworkSpec, factor: float):
    model, cost = fitted(kind), GRAPH.cost(spec)
    layers = [model.layer_ms(layer) for layer in cost.layers]
    assert min(layers) >= 0
    total = model.offset_ms + sum(layers)
    assert model.predict(cost) == pytest.approx(total, rel=1e-12)
    assert model.rescaled(factor).predict(cost) == pytest.approx(factor * total)
    assert model.rescaled(factor).box == model.box


@every_model
def test_it_is_made_and_answers_the_same_way_twice(kind: str):
    again = fit_latency(kind, GRAPH, timed(TRAINING), BOX)
    assert again == fitted(kind)
    assert again.to_json() == fitted(kind).to_json()


@every_model
def test_it_comes_back_from_its_file(kind: str):
    model = fitted(kind)
    read = load_latency(model.to_json())
    assert read == model
    for spec in HELD_OUT:
        assert read.predict(GRAPH.cost(spec)) == model.predict(GRAPH.cost(spec))


@every_model
@pytest.mark.parametrize("damage", [{"scale": -1.0}, {"offset_ms": None}, {"sacle": 1.0}])
def test_a_damaged_file_is_one_line(kind: str, damage: dict[str, object]):
    tree = json.loads(fitted(kind).to_json()) | damage
    with pytest.raises(UserError, match=f"the latency model: .*{next(iter(damage))}"):
        load_latency(json.dumps(tree))


def test_a_file_of_no_kind_is_one_line():
    for text, message in (
        ("", "not valid JSON"),
        ("[]", "must be a JSON object with a kind"),
        ("{}", "must be a JSON object with a kind"),
        ('{"kind": "insito"}', "did you mean 'insitu'"),
    ):
        with pytest.raises(UserError, match=message):
            load_latency(text)
    with pytest.raises(UserError, match="unknown latency model 'tree'"):
        fit_latency("tree", GRAPH, timed(TRAINING), BOX)


@every_model
def test_an_unknown_op_is_refused_by_name(kind: str):
    odd = replace(GRAPH.cost(BASE).layers[0], kind="deform_conv", name="features_9")
    with pytest.raises(UserError, match=r"'features_9' \(deform_conv\)"):
        fitted(kind).layer_ms(odd)


@every_model
def test_networks_outside_the_box_are_refused(kind: str):
    model, group = fitted(kind), GRAPH.groups[0].name
    high = BOX.widths[group][1]
    for spec in (*TRAINING, *HELD_OUT):
        model.check(spec)
    with pytest.raises(UserError, match="32 to 48 px, not at 56"):
        model.check(BASE.at(56))
    with pytest.raises(UserError, match=f"to {high} channels of {group}, not {high + 1}"):
        model.check(BASE.with_widths({group: high + 1}))
    with pytest.raises(UserError, match="with 10 classes"):
        model.check(replace(BASE, model=ModelRef(name="mobilenet_v2", classes=100)))
    with pytest.raises(UserError, match=f"channels of {group}, not {high + 1}"):
        NetworkWidening(LayerCosts(GRAPH.formula(BASE), model)).after(group, high + 1)


@every_model
def test_a_change_of_one_group_asks_only_its_layers_and_equals_the_whole(kind: str):
    model = Counting(fitted(kind))
    widening = NetworkWidening(LayerCosts(GRAPH.formula(BASE), model))
    spec = BASE
    for group in GRAPH.groups:
        width = GRAPH.round_width(group.name, BASE.width_of[group.name] + 3)
        spec = spec.with_widths({group.name: width})
        model.asked.clear()
        asked = widening.after(group.name, width)
        assert len(model.asked) == len(GRAPH.touched(group.name)) < len(GRAPH.cost(spec).layers)
        model.asked.clear()
        widening.widen(group.name, width)
        assert model.asked == []
        assert asked.latency_ms == fitted(kind).predict(GRAPH.cost(spec))


@every_model
def test_channels_computed_together_are_a_positive_number(kind: str):
    model = fitted(kind)
    for cost in GRAPH.cost(BASE).layers:
        assert model.granularity(cost) >= 1
        if not cost.macs:
            assert model.granularity(cost) == 1


@every_model
def test_a_fit_needs_measured_networks(kind: str):
    with pytest.raises(UserError, match=r"at least 2 .* not 1"):
        fit_latency(kind, GRAPH, timed(TRAINING)[:1], BOX)


@pytest.mark.parametrize(("kind", "most"), [("insitu", 0.02), ("lut", 0.1), ("neuralpower", 0.1)])
def test_models_of_measured_ops_predict_a_known_device(kind: str, most: float):
    assert judge(fitted(kind), GRAPH, timed(HELD_OUT)).mape < most


def test_a_full_table_of_layers_is_looked_up_and_interpolated():
    def ms(cin: int, cout: int) -> float:
        return 0.1 + 1e-3 * cin + 1e-4 * cin * cout

    rows = [
        TableRow(op="conv", cin=i, cout=o, h=8, w=8, kernel=3, stride=1, groups=1, ms=ms(i, o))
        for i in (8, 16, 64)
        for o in (8, 24, 64)
    ]
    table = from_rows(rows, BOX)
    cost = LayerCost(
        name="c", kind="conv", cin=16, cout=24, hin=8, win=8, hout=8, wout=8, kernel=(3, 3), macs=1
    )
    # 30 and 32 channels take one time: eight are computed together.
    for cin, cout, steps in ((16, 24, 24), (40, 24, 24), (16, 30, 32), (64, 64, 64)):
        assert table.layer_ms(replace(cost, cin=cin, cout=cout)) == pytest.approx(ms(cin, steps))
    with pytest.raises(UserError, match=r"does not reach 'c' with 65 to 24 channels and 8×8"):
        table.layer_ms(replace(cost, cin=65))
    with pytest.raises(UserError, match=r"at least one timed layer, not 0"):
        from_rows([], BOX)


def test_a_table_tells_kernels_and_groups_apart_and_goes_by_the_size_of_the_input():
    def row(op: str, kernel: int, groups: int, ms: float) -> TableRow:
        return TableRow(
            op=op, cin=64, cout=64, h=55, w=55, kernel=kernel, stride=2, groups=groups, ms=ms
        )

    kinds = [("conv", 3, 1), ("conv", 3, 2), ("conv", 3, 64), ("conv", 5, 64)]
    kinds += [("conv_transpose", 2, 1), ("conv_transpose", 4, 1), ("pool", 2, 1), ("pool", 3, 1)]
    rows = [row(*kind, ms=1.0 + i) for i, kind in enumerate(kinds)]
    table = from_rows(rows, BOX)
    for one in rows:
        # Without padding: 27 outputs and not 28.
        cost = LayerCost(
            name="c", kind=one.op, cin=64, cout=64, hin=55, win=55, hout=27, wout=27,
            kernel=(one.kernel, one.kernel), stride=2, groups=one.groups,
            macs=int(one.op != "pool"),
        )  # fmt: skip
        assert table.layer_ms(cost) == pytest.approx(one.ms)


def test_a_table_has_no_layer_with_other_strides_along_a_row():
    rows = [
        TableRow(op="conv", cin=8, cout=8, h=8, w=8, kernel=3, stride=s, groups=1, ms=1.0)
        for s in (1, 2)
    ]
    layer = LayerCost(
        name="c", kind="conv", cin=8, cout=8, hin=8, win=8, hout=8, wout=4, kernel=(3, 3),
        stride=1, across=2, macs=1,
    )  # fmt: skip
    with pytest.raises(UserError, match="no op like 'c'"):
        from_rows(rows, BOX).layer_ms(layer)
    assert from_rows(rows, BOX).layer_ms(replace(layer, across=None)) == pytest.approx(1.0)


def test_a_table_does_not_answer_where_nothing_near_was_timed():
    """Wide layers of few pixels and narrow ones of many, as a network has them."""

    def row(cin: int, cout: int, side: int) -> TableRow:
        ms = 1e-6 * cin * cout * side**2
        return TableRow(
            op="conv", cin=cin, cout=cout, h=side, w=side, kernel=3, stride=1, groups=1, ms=ms
        )

    narrow = [row(i, o, 32) for i in (16, 32, 64) for o in (16, 64)]
    wide = [row(i, o, 8) for i, o in ((64, 64), (64, 256), (256, 256))]
    table = from_rows([*narrow, *wide], BOX)

    def ms(cin: int, cout: int, side: int) -> float:
        cost = LayerCost(
            name="c", kind="conv", cin=cin, cout=cout, hin=side, win=side, hout=side, wout=side,
            kernel=(3, 3), macs=1,
        )  # fmt: skip
        return table.layer_ms(cost)

    for one in (*narrow, *wide):
        assert ms(one.cin, one.cout, one.h) == pytest.approx(one.ms)
    assert ms(48, 40, 32) == pytest.approx(1e-6 * 48 * 40 * 32**2)
    for cin, cout, side in ((256, 256, 32), (16, 16, 8), (256, 64, 8), (64, 64, 16)):
        with pytest.raises(UserError, match=f"does not reach 'c' with {cin} to {cout} channels"):
            ms(cin, cout, side)


def test_a_full_table_holds_its_rows_however_they_grow():
    """With both sides doubled it takes less than what each doubling alone adds."""
    times = {(8, 8): 1.0, (16, 8): 2.0, (8, 16): 2.0, (16, 16): 2.5}
    rows = [
        TableRow(op="conv", cin=i, cout=o, h=8, w=8, kernel=3, stride=1, groups=1, ms=ms)
        for (i, o), ms in times.items()
    ]
    table = from_rows(rows, BOX)
    cost = LayerCost(
        name="c", kind="conv", cin=8, cout=8, hin=8, win=8, hout=8, wout=8, kernel=(3, 3), macs=1
    )
    for (cin, cout), ms in times.items():
        assert table.layer_ms(replace(cost, cin=cin, cout=cout)) == pytest.approx(ms)
    assert table.layer_ms(replace(cost, cin=12, cout=16)) == pytest.approx(2.25)


@pytest.mark.parametrize(
    ("op", "groups", "macs"), [("conv", None, 1), ("pool", 1, 0), ("norm", 1, 0), ("add", 1, 0)]
)
def test_layers_of_as_many_channels_in_as_out_lie_between_their_rows(op, groups, macs):
    rows = [
        TableRow(
            op=op, cin=c, cout=c, h=8, w=8, kernel=3, stride=1, groups=groups or c, ms=0.01 * c
        )
        for c in (16, 32, 64, 128)
    ]
    table = from_rows(rows, BOX)

    def ms(channels: int) -> float:
        return table.layer_ms(
            LayerCost(
                name="c", kind=op, cin=channels, cout=channels, hin=8, win=8, hout=8, wout=8,
                kernel=(3, 3), groups=groups or channels, macs=macs,
            )
        )  # fmt: skip

    for channels in (16, 24, 48, 104, 128):
        assert ms(channels) == pytest.approx(0.01 * channels)
    with pytest.raises(UserError, match="does not reach 'c' with 136 to 136 channels"):
        ms(136)


def test_a_mean_over_channels_depends_on_how_many_there_are():
    rows = [
        TableRow(op="pool", cin=c, cout=1, h=8, w=8, kernel=1, stride=1, groups=1, ms=0.01 * c)
        for c in (16, 32, 64)
    ]
    mean = LayerCost(name="m", kind="pool", cin=48, cout=1, hin=8, win=8, hout=8, wout=8)
    assert from_rows(rows, BOX).layer_ms(mean) == pytest.approx(0.48)


def test_a_table_with_the_axes_of_an_earlier_version_is_refused_in_one_line():
    knots = {"cout": (16,), "pixels": (64,), "ms": (0.1,)}
    tables = {"activation /1": Table(cin=(1,), **knots), "conv 3x3 /1": Table(cin=(16,), **knots)}
    model = Lut(box=BOX, tables=tables)
    written = model.to_json()
    assert load_latency(written) == model
    for old in (
        written.replace('"cin":[1]', '"cin":[16]'),
        written.replace("conv 3x3 /1", "conv 3x3 grouped /1"),
    ):
        assert old != written
        with pytest.raises(UserError, match=r"axes of its op.* another version .* profile the dev"):
            load_latency(old)


@pytest.mark.parametrize("ms", [-1.0, float("nan"), float("inf")])
def test_a_model_with_a_time_that_is_none_is_refused(ms):
    with pytest.raises(ValueError, match="ms must be finite and not negative"):
        Table(cin=(8,), cout=(8,), pixels=(1,), ms=(ms,))
    with pytest.raises(ValueError, match="coefficient must be finite and not negative"):
        NeuralPower(box=BOX, runtime={"linear": Polynomial(terms=((ms, (0,)),))})
    with pytest.raises(ValueError, match="ms_per_mac must be finite and not negative"):
        Paleo(box=BOX, ms_per_mac=ms, ms_per_byte=1.0)


def test_paleo_adds_what_the_roofline_takes_the_longer_of():
    """By hand, two images through a 3×3 convolution of 16 to 24 channels on 8×8 pixels.

    MACs: 2·64·9·16·24 = 442,368. Bytes: 4·(9·16·24 + 2·64·(16 + 24)) = 34,304.
    """
    cost = LayerCost(
        name="c", kind="conv", cin=16, cout=24, hin=8, win=8, hout=8, wout=8, kernel=(3, 3),
        macs=64 * 9 * 16 * 24,
    )  # fmt: skip
    paleo = Paleo(box=BOX, ms_per_mac=1e-6, ms_per_byte=1e-5, batch=2)
    assert paleo.op_ms(cost) == pytest.approx(0.442368 + 0.34304)
    roofline = Roofline(box=BOX, macs_per_ms=1e6, bytes_per_ms=1e5, batch=2)
    assert roofline.op_ms(cost) == pytest.approx(0.442368)
    starved = replace(roofline, bytes_per_ms=1e4)
    assert starved.op_ms(cost) == pytest.approx(3.4304)


@pytest.mark.parametrize("kind", ["flops", "paleo", "roofline", "lut"])
def test_one_network_that_was_disturbed_bends_no_model(kind: str):
    timings = timed(TRAINING)
    far = replace(timings[5], latency=replace(timings[5].latency, ms=20 * timings[5].latency.ms))
    model = fit_latency(kind, GRAPH, [*timings[:5], far, *timings[6:]], BOX)
    for spec in HELD_OUT:
        cost = GRAPH.cost(spec)
        assert model.predict(cost) == pytest.approx(fitted(kind).predict(cost), rel=0.1)


def test_power_may_fall_with_a_size_and_is_never_less_than_was_measured():
    layers = [c for spec in TRAINING for c in GRAPH.cost(spec).layers if c.macs]

    def watts(cost: LayerCost) -> float:
        return 8.0 - 0.5 * math.log2(cost.cout)

    power = fit_power([PowerRow(cost=c, power_w=watts(c)) for c in layers])
    for cost in (c for c in GRAPH.cost(HELD_OUT[0]).layers if c.macs):
        assert power.watts(cost) == pytest.approx(watts(cost), rel=0.05)
    least = min(map(watts, layers))
    assert power.watts(replace(layers[0], cout=10**9)) == pytest.approx(least)
    idle = replace(fitted("neuralpower"), scale=0.0, offset_ms=2.0)
    assert isinstance(idle, NeuralPower)
    assert power.energy_mj(idle, layers[:1]) == pytest.approx(2.0 * least)


def test_power_is_learnt_and_energy_is_power_times_time():
    layers = [c for spec in TRAINING for c in GRAPH.cost(spec).layers if c.macs]

    def watts(cost: LayerCost) -> float:
        return 2.0 + 0.5 * math.log2(cost.cout)

    power = fit_power([PowerRow(cost=c, power_w=watts(c)) for c in layers])
    unseen = [c for c in GRAPH.cost(HELD_OUT[0]).layers if c.macs]
    for cost in unseen:
        assert power.watts(cost) == pytest.approx(watts(cost), rel=0.05)
    runtime = fitted("neuralpower")
    assert isinstance(runtime, NeuralPower)
    # At one power, energy is power times the latency of all.
    whole = replace(runtime, offset_ms=0.25 * runtime.predict(NetworkCost(tuple(unseen))))
    flat = fit_power([PowerRow(cost=c, power_w=3.0) for c in layers])
    expected = 3.0 * whole.predict(NetworkCost(tuple(unseen)))
    assert flat.energy_mj(whole, unseen) == pytest.approx(expected, rel=0.03)
    # Without a time between ops, each counts by its own power.
    gapless = replace(runtime, offset_ms=0.0)
    first, last = unseen[:1], unseen[-1:]
    parts = [power.energy_mj(gapless, part) for part in (first, last)]
    assert power.energy_mj(gapless, [*first, *last]) == pytest.approx(sum(parts))
    assert parts[0] == pytest.approx(watts(first[0]) * gapless.layer_ms(first[0]), rel=0.05)
    with pytest.raises(UserError, match="knows no op"):
        power.watts(replace(unseen[0], kind="deform_conv"))
