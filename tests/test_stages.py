"""Stages without Ray: what they come to from measurements that a test makes up."""

from dataclasses import replace
from pathlib import Path

import pytest
from example_run import example_run
from rich.console import Console

from cluster.progress import Progress
from cluster.session import Session
from cluster.stages import Search
from engine.latency import Box, fit_latency, judge, profile_specs
from engine.limits import Limits, Usage
from engine.measure import environment, time_networks
from engine.recipe import Recipe, override
from engine.recipes import RECIPES
from engine.results import BaselineResult, FitResult, ImportancePredictor, ProfileResult
from engine.store import RunStore


def recipe_of(latency: str) -> Recipe:
    recipe = override(
        RECIPES["digits-vgg11"](),
        ["width=0.0625", "profile.networks=8", "profile.held_out=2", "device.runtime=synthetic"],
    )
    return replace(recipe, limits=Limits(latency=latency, params="2x"))


def search_in(directory: Path, recipe: Recipe) -> Search:
    store = RunStore(directory)
    progress = Progress(Console(quiet=True))
    return Search(recipe=recipe, store=store, session=Session(None, store.logs), progress=progress)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaselineResult, ProfileResult]:
    search = search_in(tmp_path_factory.mktemp("run"), recipe_of("1x"))
    graph, base, settings = search.graph, search.base, search.recipe.profile
    fitted, held_out = profile_specs(graph, base, (32,), settings)
    device = search.recipe.device
    timings = time_networks(
        graph, [base, *fitted, *held_out], base, device, calls=3, rounds=1, per_layer=True
    )
    cost = graph.cost(base)
    baseline = replace(
        example_run().baseline,
        spec=base,
        macs=cost.macs,
        params=cost.params,
        # No multiple of a power of two, so that a rescaled model is rounded.
        latency=replace(timings[0].latency, ms=timings[0].latency.ms / 3),
    )
    model = fit_latency(graph, timings[1:9], Box.around(graph, base, (32,), settings))
    profile = ProfileResult(
        model=model.to_json(),
        quality=judge(model, graph, timings[9:]),
        environment=environment(device),
        seconds=1.0,
    )
    return baseline, profile


@pytest.mark.parametrize("latency", ["1x", "1.0001x", "1.02x"])
@pytest.mark.parametrize("noise", [0.96, 1.0, 1.0005, 1.04])
def test_a_limit_within_the_noise_gives_the_base_network(
    latency: str, noise: float, profiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fits by definition: its latency is what the limit is a ratio to."""
    baseline, profile = profiled
    search = search_in(tmp_path, recipe_of(latency))
    rank = ImportancePredictor(a=1.0, b=-1.0, b_se=0.1, r2=1.0, sum_r2=1.0, flag="")
    fit = FitResult(predictors={group.name: rank for group in search.graph.groups})
    limit = search.recipe.limits.resolve(
        Usage(latency_ms=baseline.latency.ms, params=baseline.params)
    )
    measured = replace(baseline.latency, ms=baseline.latency.ms * noise, noise_floor=0.05)
    monkeypatch.setattr(Search, "_measure", lambda self, spec, reference_ms=None: measured)
    found = search.allocate(fit, profile, limit, 32, baseline)
    if noise >= 1 and latency != "1.02x":
        assert found.spec == search.base
        assert not found.allocation.steps
    assert found.allocation.usage.within(limit)
    assert len(found.rescaled) <= search.recipe.allocate.rounds
    assert "latency limit reached" in found.allocation.stop_reason
