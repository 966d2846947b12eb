"""Stages without Ray: what they come to from measurements that a test makes up."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from example_run import example_run
from rich.console import Console

from cluster.measuring import Measuring
from cluster.progress import Progress
from cluster.search import Search
from cluster.session import Session
from cluster.stages.allocate import allocate_stage
from cluster.stages.alpha import alpha_stage
from cluster.stages.baseline import baseline_stage
from cluster.stages.groundwork import Groundwork
from cluster.stages.profile import _sentence, latency_model, profile_stage
from cluster.trainer import Trainer
from engine.errors import UserError
from engine.graph import load_graph
from engine.limits import Limits
from engine.measure import Measurement, measure_here
from engine.recipe import Recipe, override
from engine.recipes import RECIPES
from engine.results import BaselineResult, FitResult, ImportancePredictor, ProfileResult
from engine.scaling import multiplied
from engine.spec import NetworkSpec
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


def measured_here(
    measuring: Measuring, purpose: str, specs, reference: NetworkSpec, *, per_layer: bool
) -> Measurement:
    return measure_here(
        load_graph(reference.model, reference.resolution),
        specs,
        reference,
        measuring.device,
        calls=3,
        rounds=1,
        per_layer=per_layer,
    )


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaselineResult, ProfileResult]:
    search = search_in(tmp_path_factory.mktemp("run"), recipe_of("1x"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measuring, "__call__", measured_here)
        patch.setattr(Trainer, "train_final", lambda self, task: example_run().trained)
        baseline = baseline_stage(search)
        return baseline, profile_stage(search, baseline)


@pytest.mark.parametrize("latency", ["1x", "1.0001x", "1.02x"])
@pytest.mark.parametrize("noise", [0.96, 1.0, 1.0005, 1.04])
def test_a_limit_within_the_noise_gives_the_base_network(
    latency: str, noise: float, profiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fits by definition: its latency is what the limit is a ratio to."""
    baseline, profile = profiled
    search = search_in(tmp_path, recipe_of(latency))
    rank = ImportancePredictor(a=1.0, b=-1.0, b_se=0.1, r2=1.0, sum_r2=1.0, flag="")
    fit = FitResult(predictors={group.name: rank for group in search.base.graph.groups})
    limit = search.recipe.limits.resolve(baseline.usage)
    measured = replace(baseline.latency, ms=baseline.latency.ms * noise, noise_floor=0.05)
    monkeypatch.setattr(Measuring, "latencies", lambda *anything: [measured])
    known = Groundwork(
        baseline=baseline,
        limit=limit,
        profile=profile,
        alpha=replace(example_run().alpha, resolution=32),
        sample=example_run().sample,
        fit=fit,
    )
    found = allocate_stage(search, known)
    assert (found.spec == search.base.spec) == (latency != "1.02x")  # which leaves room for steps
    assert bool(found.allocation.steps) == (found.spec != search.base.spec)
    assert found.allocation.usage.within(limit)
    assert "latency limit reached" in found.allocation.stop_reason


def test_images_that_are_kept_smaller_than_networks_see_them_are_told(tmp_path: Path) -> None:
    def told(original: int | None, *settings: str) -> str:
        said = io.StringIO()
        search = search_in(tmp_path / "run", override(recipe_of("2x"), list(settings)))
        search = replace(search, progress=Progress(Console(file=said, width=400)))
        vars(search.data)["facts"] = replace(example_run().data, original=original)
        search.check()
        return said.getvalue()

    highest = ["alpha.budget=4", "alpha.high=0.95"]  # 32·√4^0.95 = 62 px
    assert "have 500 px and are kept at 32" in told(500, *highest)
    assert "data.stored_resolution=40" in told(40, *highest)
    assert not told(32, *highest) and not told(8, *highest) and not told(None, *highest)
    assert not told(500, *highest, "data.stored_resolution=64")


def test_a_device_on_which_widths_hardly_count_is_told() -> None:
    profile = example_run().profile
    quality = replace(profile.quality, measured_ms=(1.0, 1.2), predicted_ms=(1.0, 1.2))
    assert "latency hardly limits widths" in _sentence(replace(profile, quality=quality))
    quality = replace(quality, measured_ms=(1.0, 2.0))
    assert "hardly" not in _sentence(replace(profile, quality=quality))


def test_a_profile_file_is_looked_at_before_anything_is_trained_and_not_once_it_is_kept(
    tmp_path: Path,
) -> None:
    recipe = override(recipe_of("2x"), [f"profile.file={tmp_path / 'gone.json'}"])
    search = search_in(tmp_path / "run", recipe)
    with pytest.raises(UserError, match=r"gone\.json"):
        search.check()
    search.store.stage("profile", int, "any", lambda: 1)
    search.check()


@pytest.mark.parametrize("latency", ["1.3x", "2x"])
def test_a_budget_beyond_the_limits_is_lowered_to_what_they_leave_for_resolution(
    latency: str, profiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All resolutions that can be afforded are then found, whatever the budget is."""
    baseline, _ = profiled
    settings = ["alpha.candidates=limits", "alpha.budget=9", "alpha.round_to=2"]
    search = search_in(tmp_path, override(recipe_of(latency), settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measuring, "__call__", measured_here)
        profile = profile_stage(search, baseline)
    candidate = candidates_of(search, profile, baseline, monkeypatch)
    limit = search.recipe.limits.resolve(baseline.usage)
    model, base = latency_model(search, profile, baseline), search.base.spec

    def keeps(resolution: int) -> bool:
        cost = search.costs.of(base.at(resolution))
        return search.costs.usage(base.at(resolution), model.predict(cost)).within(limit)

    affordable = [r for r in search.base.resolutions if keeps(r)]
    assert len(affordable) > 2 and max(affordable) < max(search.base.resolutions)
    found = [candidate(alpha).resolution for alpha in np.linspace(0.05, 0.95, 200)]
    assert found == sorted(found)
    assert set(found) - {base.resolution} == set(affordable) - {base.resolution}
    assert found.count(max(affordable)) < 40  # its share of 0.2 at the most, and not the rest


@pytest.mark.parametrize("candidates", ["limits", "compute"])
def test_candidates_for_the_limits_use_them_up_and_those_for_compute_break_them(
    candidates: str, profiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with thousands of multiples of the widths, tried one by one."""
    baseline, profile = profiled
    settings = [f"alpha.candidates={candidates}", "alpha.budget=3"]
    search = search_in(tmp_path, override(recipe_of("3x"), settings))
    limit = search.recipe.limits.resolve(baseline.usage)
    candidate = candidates_of(search, profile, baseline, monkeypatch)
    graph, base, costs = search.base.graph, search.base.spec, search.costs
    model = latency_model(search, profile, baseline)

    def keeps(spec: NetworkSpec) -> bool:
        return costs.usage(spec, model.predict(costs.of(spec))).within(limit)

    for alpha in (0.05, 0.5, 0.95):
        found = candidate(alpha)
        tried = {
            multiplied(graph, base.at(found.resolution), width)
            for width in np.linspace(1, 4, 2000).tolist()
        }
        most = max(costs.of(spec).params for spec in tried if keeps(spec))
        if candidates == "limits":
            assert keeps(found)
            assert costs.of(found).params == most
        elif alpha == 0.05:
            assert costs.of(found).params > limit.params


def candidates_of(
    search: Search,
    profile: ProfileResult,
    baseline: BaselineResult,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[float], NetworkSpec]:
    """What the α stage gives its searcher, which asks for nothing here."""
    given: dict[str, Callable[[float], NetworkSpec]] = {}

    def searcher(candidate: Callable[[float], NetworkSpec], **others: object) -> SimpleNamespace:
        given["candidate"] = candidate
        return SimpleNamespace(alphas=(), known=0)

    trials = SimpleNamespace(run_search=lambda *settings, **others: None)
    monkeypatch.setattr("cluster.stages.alpha.AlphaSearcher", searcher)
    monkeypatch.setattr(Trainer, "trials", trials)
    limit = search.recipe.limits.resolve(baseline.usage)
    with pytest.raises(KeyboardInterrupt):
        alpha_stage(search, profile, baseline, limit)
    return given["candidate"]
