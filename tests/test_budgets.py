"""Any budget from the file that a run leaves, without PyTorch and without Ray."""

import csv
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from engine.answers import METHODS, answer, frontier, importance_added
from engine.budgets import ALGORITHM_1, FILE, Budgets, budgets_key, read_budgets
from engine.cli import main
from engine.codec import canonical, decode
from engine.errors import UserError
from engine.graph import load_graph
from engine.hardware.contract import Box
from engine.hardware.models import fit_latency, load_latency
from engine.latency import profile_specs
from engine.limits import Limits, Usage
from engine.measure import time_networks
from engine.memory import memory_bytes
from engine.provenance import run_info
from engine.recipe import Allocate, Cluster, Device, Profile, Recipe
from engine.response import ResponseSurface
from engine.results import ImportancePredictor, Latency
from engine.spec import ModelRef
from engine.store import RunStore

GRAPH = load_graph(ModelRef(name="vgg11", classes=10), 32)
BASE = GRAPH.spec(32, 0.25)
FOUND = BASE.at(40)


@pytest.fixture(scope="module")
def budgets() -> Budgets:
    profile = Profile(networks=8, held_out=2)
    specs, _ = profile_specs(GRAPH, BASE, [40], profile)
    timings = time_networks(
        GRAPH, specs, BASE, Device(runtime="synthetic"), calls=3, rounds=1, per_layer=True
    ).timings
    model = fit_latency("insitu", GRAPH, timings, Box.around(GRAPH, BASE, [40], profile))
    formula = GRAPH.formula(FOUND)
    return Budgets(
        base=BASE,
        formula=formula,
        predictors={
            group.name: ImportancePredictor(
                a=2.0**-k, b=-1.3, b_se=0.1, r2=0.9, sum_r2=0.5, flag=""
            )
            for k, group in enumerate(GRAPH.groups)
        },
        model=model.to_json(),
        settings=Allocate(),
        baseline=Usage(
            latency_ms=model.predict(GRAPH.cost(BASE)),
            params=GRAPH.cost(BASE).params,
            memory_bytes=memory_bytes(GRAPH.formula(BASE), BASE, 1),
        ),
        batch=1,
        method="response",
        surface=ResponseSurface(
            base=BASE.width_of,
            base_resolution=32,
            floor=0.1,
            gains={g: 0.1 / (1 + k) for k, g in enumerate(BASE.width_of)},
            resolution_gain=0.0,
            exponent=0.5,
            pull=1.0,
            rmse=0.0,
            r2=1.0,
        ),
    )


@pytest.fixture(scope="module")
def run(budgets: Budgets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "known"
    store = RunStore(path)
    recipe = Recipe(width=0.25, limits=Limits(latency="3x", params="2x"))
    with store.lock():
        store.write_info(run_info("known", "", recipe))
        store.folder.write(FILE, canonical(budgets))
    return path


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_is_what_the_graph_and_the_model_say_of_its_network(
    budgets: Budgets, method: str
) -> None:
    one = answer(budgets, Limits(latency="3x", params="2x", memory="2x"), method)
    cost, usage = GRAPH.cost(one.spec), one.allocation.usage
    assert one.spec.resolution == 40
    assert (one.macs, usage.params) == (cost.macs, cost.params)
    assert usage.latency_ms == budgets.latency_model.predict(cost)
    assert usage.memory_bytes == one.memory_bytes
    assert usage.memory_bytes == memory_bytes(GRAPH.formula(one.spec), one.spec, 1)
    assert usage.within(one.allocation.limit)
    assert decode(Budgets, canonical(budgets), FILE) == budgets


def test_the_importance_added_is_that_of_every_kernel() -> None:
    law = ImportancePredictor(a=2.0, b=-1.0, b_se=0.0, r2=1.0, sum_r2=1.0, flag="")
    assert importance_added({"a": law}, {"a": 4}, {"a": 6}) == pytest.approx(2 / 4 + 2 / 5)


def test_a_response_surface_is_answered_by_its_least_loss(budgets: Budgets) -> None:
    """No other method leads to a network that the surface finds better."""
    limits = Limits(latency="3x", params="2x")
    assert budgets.surface is not None
    losses = {
        method: budgets.surface(answer(budgets, limits, method).spec.width_of, 40)
        for method in METHODS
    }
    assert min(losses, key=lambda method: losses[method]) == "response"


def test_a_method_that_does_not_answer_is_one_line(
    budgets: Budgets, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = Limits(latency="3x", params="2x")
    with pytest.raises(UserError, match=r"left no response surface: .* too few sampled networks"):
        answer(replace(budgets, surface=None), limits, "response")
    with pytest.raises(UserError, match="netadapt is no method that answers without training"):
        answer(budgets, limits, "netadapt")
    with pytest.raises(SystemExit):
        main(["allocate", str(run), "--method", "netadapt"])
    assert "invalid choice: 'netadapt'" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_a_frontier_holds_the_answers_to_its_own_limits(budgets: Budgets, method: str) -> None:
    found = frontier(budgets, Limits(latency="1x", params="2x"), method, points=8)
    assert 1 < len(found) <= 8
    limits = [answer.allocation.limit for answer in found]
    assert [one.latency_ms for one in limits] == sorted({one.latency_ms for one in limits})
    assert all(a.allocation.usage.within(limit) for a, limit in zip(found, limits, strict=True))
    used = [answer.allocation.usage.latency_ms for answer in found]
    assert used == sorted(used)


def test_more_latency_than_the_last_of_a_frontier_changes_nothing(budgets: Budgets) -> None:
    """Where the choice does not look at the limits."""
    by_importance = replace(budgets, settings=Allocate(choice="importance"))
    found = frontier(by_importance, Limits(latency="1x", params="2x"), ALGORITHM_1, points=8)
    limit = found[-1].allocation.limit
    last = replace(limit, latency_ms=2 * limit.latency_ms)
    assert by_importance.allocate(last).widths == found[-1].allocation.widths


def test_budgets_are_corrected_by_what_was_measured(budgets: Budgets) -> None:
    spec = answer(budgets, Limits(latency="3x", params="2x"), ALGORITHM_1).spec
    model = load_latency(budgets.corrected(spec, Latency.constant(10.0)).model)
    assert model.predict(GRAPH.cost(spec)) == pytest.approx(10.0)


def at_the_resolution_of_the_base(budgets: Budgets) -> Budgets:
    """With a model that is right for the base network, as a run's is before it has an answer."""
    formula = GRAPH.formula(BASE)
    expected = budgets.latency_model.predict(formula.cost(BASE.width_of))
    baseline = replace(budgets.baseline, latency_ms=expected)
    return replace(budgets, formula=formula, baseline=baseline)


@pytest.mark.parametrize("off", [1.12, 0.88])
def test_between_the_base_network_and_the_answer_both_count(budgets: Budgets, off: float) -> None:
    """The answer takes 12 % more or less than expected; the base network does not."""
    exact = at_the_resolution_of_the_base(budgets)
    base_ms = exact.baseline.latency_ms
    found = answer(exact, Limits(latency="1.5x", params="9x"), ALGORITHM_1)
    slower_ms = off * found.allocation.usage.latency_ms
    left = exact.corrected(found.spec, Latency.constant(slower_ms))

    def ms(limit_ms: float, widths: Mapping[str, int]) -> float:
        return left.factor_near(limit_ms) * left.latency_model.predict(exact.formula.cost(widths))

    assert ms(base_ms, BASE.width_of) == pytest.approx(base_ms)
    for limit_ms in (slower_ms, 2 * slower_ms):
        assert ms(limit_ms, found.spec.width_of) == pytest.approx(slower_ms)
    middle = math.sqrt(base_ms * slower_ms)
    assert ms(middle, BASE.width_of) == pytest.approx(base_ms * math.sqrt(off), rel=1e-6)
    # What the base network keeps as measured is answered, and larger limits by larger networks.
    limits = [f"{1 + 0.1 * i:.1f}x" for i in range(8)]
    answers = [answer(left, Limits(latency=limit, params="9x"), ALGORITHM_1) for limit in limits]
    assert answers[0].spec.width_of == BASE.width_of
    macs = [one.macs for one in answers]
    assert macs == sorted(macs) and macs[-1] > macs[0]
    for limit, one in zip(limits, answers, strict=True):
        assert one.allocation.usage.latency_ms <= float(limit[:-1]) * base_ms
        assert one.allocation.limit.latency_ms == pytest.approx(float(limit[:-1]) * base_ms)
        assert f"of {one.allocation.limit.latency_ms:.4g} ms" in one.allocation.stop_reason
    few = Limits(latency="1x", params="1.02x")  # the widest is faster than the answer
    curve = frontier(left, few, ALGORITHM_1)
    assert curve[0].spec.width_of == BASE.width_of
    widest = answer(left, replace(few, latency="99x"), ALGORITHM_1)
    assert curve[-1].spec == widest.spec


@pytest.mark.parametrize("room", [None, 1.05])
def test_the_base_network_is_an_answer_to_its_own_latency(
    budgets: Budgets, room: float | None
) -> None:
    """However factors are rounded that are multiplied by and divided by again."""
    exact = at_the_resolution_of_the_base(budgets)
    found = answer(exact, Limits(latency="1.5x", params="9x"), ALGORITHM_1)
    for k in range(60):
        ms = (0.8 + k / 97) * found.allocation.usage.latency_ms
        left = replace(exact.corrected(found.spec, Latency.constant(ms)), room=room)
        one = answer(left, Limits(latency="1x", params="9x"), ALGORITHM_1)
        assert one.spec.width_of == BASE.width_of


def test_answers_leave_the_room_for_noise_that_the_run_left(budgets: Budgets) -> None:
    exact = at_the_resolution_of_the_base(budgets)
    limits = Limits(latency="2x", params="99x")
    bare = answer(exact, limits, ALGORITHM_1)
    noisy = Latency.constant(bare.allocation.usage.latency_ms, noise_floor=0.06)
    left = exact.corrected(bare.spec, noisy)
    limit_ms = 2 * exact.baseline.latency_ms
    roomy = answer(left, limits, ALGORITHM_1)
    assert 0.9 * limit_ms < roomy.allocation.usage.latency_ms <= limit_ms / 1.03
    assert roomy.allocation.limit.latency_ms == pytest.approx(limit_ms)
    assert roomy.allocation.stop_reason.startswith("latency limit")
    assert f"of {limit_ms:.4g} ms" in roomy.allocation.stop_reason
    assert answer(left, replace(limits, latency="1x"), ALGORITHM_1).spec.width_of == BASE.width_of


def test_limits_that_contradict_are_one_line(budgets: Budgets) -> None:
    with pytest.raises(UserError, match=r"latency limit .* below the baseline's own"):
        answer(budgets, Limits(latency="0.000001ms", params="2x"), ALGORITHM_1)
    # The base network keeps it, the base widths at the resolution that was found do not.
    with pytest.raises(UserError, match=r"at the resolution found take .* raise limits.latency"):
        answer(budgets, Limits(latency="1.01x", params="9x"), ALGORITHM_1)
    with pytest.raises(UserError, match=r"at the resolution found take .* raise limits.memory"):
        answer(budgets, Limits(latency="9x", params="9x", memory="1x"), ALGORITHM_1)


def test_the_command_answers_several_budgets(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "networks.csv"
    main(["allocate", str(run), "--latency", "2x", "3x", "--params", "2x", "--csv", str(file)])
    out = capsys.readouterr().out
    assert out.count("reached: ") == 2
    assert "widths by response" in out
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2
    for row in rows:
        widths = {g: int(row[g]) for g in BASE.width_of}
        cost = GRAPH.cost(FOUND.with_widths(widths))
        assert (int(row["params"]), int(row["macs"])) == (cost.params, cost.macs)
    main(["allocate", str(run), "--frontier", "--method", "uniform-alpha"])
    told = " ".join(capsys.readouterr().out.split())
    assert "widths by uniform-alpha" in told and "importance added" in told


def test_a_limit_that_leaves_no_room_does_not_keep_others_from_an_answer(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["allocate", str(run), "--latency", "1.01x", "2x", "--params", "2x"])
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert told.out.count("reached: ") == 1
    assert told.err.count("\n") == 1 and "at the resolution found take" in told.err
    with pytest.raises(SystemExit):
        main(["allocate", str(run), "--latency", "2x", "3x", "--params", "1000"])
    told = capsys.readouterr().err
    assert told.count("the parameter limit") == 1, "what is wrong with both is said once"


def test_the_command_needs_no_torch(run: Path) -> None:
    code = (
        "import sys; from engine.cli import main; "
        f"main(['allocate', {str(run)!r}, '--latency', '2x', '3x']); "
        "print(*{'torch', 'ray', 'scipy', 'sklearn', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_budgets_of_an_earlier_recipe_are_not_answered_from(budgets: Budgets, tmp_path: Path):
    recipe = Recipe(limits=Limits(latency="2x", params="2x"))
    folder = RunStore(tmp_path).folder
    folder.write(FILE, canonical(replace(budgets, key=budgets_key(recipe))))
    others = replace(recipe, limits=Limits(latency="3x", params="9M"), cluster=Cluster(retries=7))
    for same in (recipe, others):
        assert read_budgets(folder, same).base == BASE
    for changed in (
        replace(recipe, device=Device(runtime="onnxruntime")),
        replace(recipe, sample=replace(recipe.sample, networks=24)),
    ):
        with pytest.raises(UserError, match=r"of its recipe before that was changed; `hacscale"):
            read_budgets(folder, changed)
    folder.write(FILE, b"{")
    with pytest.raises(UserError, match=r"`hacscale resume .*` writes it again"):
        read_budgets(folder, recipe)
    folder.write(FILE, canonical(budgets))  # as earlier versions wrote it, without a key
    assert read_budgets(folder, recipe) == budgets


def test_a_run_without_an_allocation_says_so(run: Path, tmp_path: Path) -> None:
    recipe = RunStore(run).info().recipe
    with pytest.raises(UserError, match="has chosen no widths yet"):
        read_budgets(RunStore(tmp_path, read_only=True).folder, recipe)
    with pytest.raises(SystemExit):
        main(["allocate", str(run), "--frontier", "--latency", "2x"])
