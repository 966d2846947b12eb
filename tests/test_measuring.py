"""What others disturbed is measured again; the sessions of the device are made up."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster import measuring
from cluster.measuring import Measuring
from engine import measure
from engine.graph import load_graph
from engine.measure import Measurement, Timing, measure_here
from engine.profile_key import ProfileKey
from engine.recipe import Device, Profile
from engine.results import Latency
from engine.spec import ModelRef, NetworkSpec
from engine.store import RunStore

GRAPH = load_graph(ModelRef(name="vgg11", classes=10), 32)
KEY = ProfileKey.of(Device(), "this one")
REFERENCE, CALM, LOUD = (GRAPH.spec(32, width) for width in (1 / 16, 1 / 8, 1 / 4))


def timing(spec: NetworkSpec, ms: float, floor: float, reference_ms: float = 1.0) -> Timing:
    latency = Latency.constant(ms, floor)
    return Timing(spec=spec, latency=latency, layer_ms={"op": ms}, reference_ms=reference_ms)


def measured(
    monkeypatch: pytest.MonkeyPatch, *sessions: Sequence[Timing]
) -> tuple[list[list[NetworkSpec]], Measurement]:
    """What was asked for in each session, and what came of sessions that found these timings."""
    asked: list[list[NetworkSpec]] = []

    def session(_graph: object, specs: Sequence[NetworkSpec], *_: object, **__: object):
        asked.append(list(specs))
        return Measurement(key=KEY, environment={}, timings=tuple(sessions[len(asked) - 1]))

    monkeypatch.setattr(measure, "time_networks", session)
    found = measure_here(
        GRAPH, [CALM, LOUD], REFERENCE, Device(), calls=1, rounds=2, per_layer=False
    )
    return asked, found


def test_only_what_was_disturbed_is_measured_again_and_the_quieter_figure_stands(
    monkeypatch: pytest.MonkeyPatch,
):
    # The machine is a twentieth slower by then: 2.1 of its ms are 2 of the first session.
    asked, found = measured(
        monkeypatch,
        [timing(CALM, 1.0, 0.02), timing(LOUD, 9.0, 0.5)],
        [timing(LOUD, 2.1, 0.03, reference_ms=1.05)],
    )
    assert asked == [[CALM, LOUD], [LOUD]]
    assert [t.latency.ms for t in found.timings] == [1.0, 2.0]
    assert [t.layer_ms for t in found.timings] == [{"op": 1.0}, {"op": 2.0}]
    assert {t.reference_ms for t in found.timings} == {1.0}
    floors = [t.latency.noise_floor for t in found.timings]
    assert floors == pytest.approx([0.02, math.hypot(0.03, math.log(1.05))])
    assert not found.disturbed


def test_a_machine_that_is_disturbed_throughout_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    asked, found = measured(
        monkeypatch,
        [timing(CALM, 1.0, 0.02), timing(LOUD, 9.0, 0.5)],
        [timing(LOUD, 9.0, 0.2)],
        [timing(LOUD, 9.0, 0.4)],
    )
    assert len(asked) == 3
    assert found.timings[1].latency.noise_floor == 0.2
    monkeypatch.setattr(measuring, "measure", lambda *_: found)
    of_run = Measuring(
        device=Device(), settings=Profile(), store=RunStore(tmp_path), start_ray=lambda: None
    )
    with caplog.at_level(logging.WARNING, "hacscale"):
        assert of_run("compare", [CALM, LOUD], REFERENCE, per_layer=False) == found
    (warning,) = caplog.messages
    assert "1 of 2 networks" in warning
    assert "at worst 20 %" in warning
