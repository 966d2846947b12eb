"""NeuralScale and MorphNet against laws that are known, and by what they train."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_peers import EXPONENTS, question, trained, usage

from engine.errors import UserError
from engine.graph import load_graph
from engine.limits import Usage
from engine.peers.contract import Method, Question
from engine.peers.methods import METHODS
from engine.peers.morphnet import MorphNet
from engine.peers.neuralscale import NeuralScale, fit_laws
from engine.rows import Row, TrainingTask
from engine.shrinking import Pruning, Shrunk, Sparsifying
from engine.spec import ModelRef, NetworkSpec

SHRINKING = [method for method in METHODS if isinstance(method, NeuralScale | MorphNet)]


class Trainer:
    """Trains what it has not trained before, and remembers what it was asked for."""

    def __init__(self, train: object = trained) -> None:
        self.known: dict[str, Row] = {}
        self.tasks: list[TrainingTask] = []
        self._train = train

    def __call__(self, tasks: Sequence[TrainingTask]) -> list[Row]:
        new = [task for task in tasks if task.id not in self.known]
        self.tasks += new
        self.known |= {row.task.id: row for row in self._train(new)}
        return [self.known[task.id] for task in tasks if task.id in self.known]


def asked(train: Trainer, latency: float = 2.0, params: float = 1.5) -> Question:
    return replace(question(latency, params), train=train)


@given(
    laws=st.lists(st.tuples(st.floats(0.05, 50.0), st.floats(0.0, 1.5)), min_size=1, max_size=6),
    taus=st.lists(st.integers(1_000, 10_000_000), min_size=3, max_size=12, unique=True),
)
def test_known_power_laws_are_found_again(laws: list[tuple[float, float]], taus: list[int]) -> None:
    """Widths that are not rounded, so that the fit must be exact."""
    path = [
        Shrunk(params=tau, widths={f"g{k}": a * tau**b for k, (a, b) in enumerate(laws)})
        for tau in taus
    ]
    found = fit_laws(path)
    for k, (alpha, beta) in enumerate(laws):
        assert found.beta[f"g{k}"] == pytest.approx(beta, abs=1e-5)
        assert found.widths(taus[0])[f"g{k}"] == pytest.approx(alpha * taus[0] ** beta, rel=1e-5)


def test_least_squares_by_the_normal_equations() -> None:
    """β = cov(ln τ, ln φ) / var(ln τ), ln α = mean(ln φ) − β·mean(ln τ)."""
    rows = [(100_000, 60, 31), (50_000, 45, 28), (20_000, 20, 27), (9_000, 15, 11)]
    found = fit_laws([Shrunk(params=t, widths={"a": a, "b": b}) for t, a, b in rows])
    x = [math.log(row[0]) for row in rows]
    for column, group in enumerate("ab", 1):
        y = [math.log(row[column]) for row in rows]
        mx, my = sum(x) / 4, sum(y) / 4
        beta = sum((u - mx) * (v - my) for u, v in zip(x, y, strict=True))
        beta /= sum((u - mx) ** 2 for u in x)
        assert found.beta[group] == pytest.approx(beta, rel=1e-9)
        assert found.log_alpha[group] == pytest.approx(my - beta * mx, rel=1e-9)


def test_the_laws_of_a_steep_path_stay_numbers() -> None:
    """20 to 2 channels while the network loses a twentieth of its parameters: β = 41."""
    path = [
        Shrunk(params=params, widths={"a": width})
        for params, width in ((9_200_000, 20), (8_950_000, 10), (8_700_000, 2))
    ]
    laws = fit_laws(path)
    assert laws.beta["a"] > 35
    assert 1 < laws.widths(8_900_000)["a"] < 20
    assert 1e20 < laws.widths(9_200_000 * 1_000)["a"] < math.inf


@pytest.mark.parametrize("params", [1.0, 2.0])
def test_neuralscale_is_the_last_of_its_laws_that_fits(params: float) -> None:
    """Counted up over a fine grid of τ, with the limits as they are."""
    train = Trainer()
    answer = NeuralScale(iterations=1).propose(asked(train, 50.0, params))
    (row,) = train.known.values()
    assert row.path is not None
    graph, base = question().graph, question().base
    laws = fit_laws(row.path)
    fits = []
    for tau in graph.cost(base).params * params * np.geomspace(0.7, 1.5, 500):
        widths = {
            g: min(graph.round_width(g, w), graph.round_width(g, 4 * base.width_of[g]))
            for g, w in laws.widths(float(tau)).items()
        }
        spec = base.with_widths(widths)
        if graph.cost(spec).params <= params * graph.cost(base).params:
            fits.append(spec)
    assert graph.cost(answer).params == pytest.approx(graph.cost(fits[-1]).params, rel=2e-3)
    # Groups that the pruning spares are widened least.
    ratio = {g: w / base.width_of[g] for g, w in answer.widths}
    assert all(
        laws.beta[g] == pytest.approx(EXPONENTS.get(g, 0.5) / total(laws.beta), rel=0.1)
        for g in ratio
    )


def total(beta: dict[str, float]) -> float:
    """How fast the parameters fall with the steps of the path."""
    return next(iter(EXPONENTS.values())) / beta["features.0"]


def test_tau_is_lowered_until_the_latency_holds() -> None:
    train = Trainer()
    wide = NeuralScale(iterations=1).propose(asked(train, 50.0, 1.5))
    limit = 0.8 * usage(wide).latency_ms / usage(question().base).latency_ms
    narrow = NeuralScale(iterations=1).propose(asked(train, limit, 1.5))
    assert all(n <= w for (_, n), (_, w) in zip(narrow.widths, wide.widths, strict=True))
    assert 0.78 < usage(narrow).latency_ms / usage(wide).latency_ms <= 0.8
    assert len(train.tasks) == 1


def test_architecture_descent_prunes_networks_of_the_base_networks_parameters() -> None:
    train = Trainer()
    NeuralScale(iterations=4).propose(asked(train))
    base = question().base
    count = usage(base).params
    specs = [task.spec for task in train.tasks]
    assert specs[0] == base
    assert len(set(specs)) == 4
    assert [usage(spec).params / count for spec in specs[1:]] == pytest.approx([1] * 3, abs=0.02)
    assert all(usage(spec).params <= count for spec in specs)
    assert all(task.shrink == Pruning() and task.training.swa_share == 0 for task in train.tasks)


def test_descent_ends_where_nothing_can_be_pruned() -> None:
    def two_only(tasks: Sequence[TrainingTask]) -> list[Row]:
        rows = trained(tasks)
        first = [replace(row, path=row.path if not train.known else row.path[:2]) for row in rows]
        return first

    train = Trainer(two_only)
    answer = NeuralScale().propose(asked(train))
    assert len(train.tasks) == 2
    assert answer == NeuralScale(iterations=1).propose(asked(Trainer()))


@pytest.mark.parametrize("method", SHRINKING, ids=lambda method: method.name)
def test_what_has_a_row_is_not_trained_again(method: Method) -> None:
    """Asked again, as after an interruption, and with a latency limit that was corrected."""
    train = Trainer()
    answer = method.propose(asked(train))
    count = len(train.tasks)
    assert method.propose(asked(train)) == answer
    method.propose(asked(train, 1.9))
    assert len(train.tasks) == count
    assert count == (method.iterations if isinstance(method, NeuralScale) else 3)


@pytest.mark.parametrize("method", SHRINKING, ids=lambda method: method.name)
def test_failed_trainings_are_one_line(method: Method) -> None:
    with pytest.raises(UserError, match=f"{method.name}: .*failed"):
        method.propose(asked(Trainer(lambda tasks: [])))


def test_a_path_that_is_too_short_is_one_line() -> None:
    def short(tasks: Sequence[TrainingTask]) -> list[Row]:
        return [replace(row, path=()) for row in trained(tasks)]

    with pytest.raises(UserError, match="needs 3 networks left by a pruning"):
        NeuralScale().propose(asked(Trainer(short)))


def test_networks_that_have_no_gates_are_refused_before_anything_is_trained() -> None:
    for method in (NeuralScale(), MorphNet()):
        train = Trainer()
        graph = load_graph(ModelRef(name="test_gates:without_scale", classes=3), 12)
        one = replace(asked(train), graph=graph, base=graph.spec(12))
        with pytest.raises(UserError, match="norm"):
            method.propose(one)
        assert train.tasks == []


# MorphNet ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ["macs", "params"])
def test_morphnet_widens_what_is_left_of_half_evenly(resource: str) -> None:
    train = Trainer()
    method = MorphNet(resource=resource, strengths=(0.25, 0.8, 4.0))
    answer = method.propose(asked(train))
    graph, base = question().graph, question().base

    def cost(spec: NetworkSpec) -> int:
        found = graph.cost(spec)
        return found.macs if resource == "macs" else found.params

    left = [base.with_widths(row.path[-1].widths) for row in train.known.values() if row.path]
    shares = [cost(spec) / cost(base) for spec in left]
    chosen = left[int(np.argmin([abs(share - 0.5) for share in shares]))]
    assert chosen != left[0]
    ratios = [w / chosen.width_of[g] for g, w in answer.widths]
    # Evenly, but for the rounding of a channel.
    least = min(w for _, w in chosen.widths)
    assert max(ratios) - min(ratios) <= 1 / least + 1e-9
    assert {task.shrink for task in train.tasks} == {
        Sparsifying(resource=resource, strength=strength) for strength in (0.25, 0.8, 4.0)
    }
    wider = {g: max(w + 1, round(w * 1.03)) for g, w in answer.widths}
    assert not asked(train).keeps(answer.with_widths(wider))


def test_morphnet_goes_on_from_what_it_found() -> None:
    train = Trainer()
    MorphNet(iterations=2, strengths=(1.0,)).propose(asked(train))
    first = MorphNet(strengths=(1.0,)).propose(asked(Trainer()))
    assert [task.spec for task in train.tasks] == [question().base, first]


def test_latency_is_asked_only_where_parameters_fit() -> None:
    """It may have to be measured."""
    seen: list[NetworkSpec] = []

    def measured(spec: NetworkSpec, _: float) -> Usage:
        seen.append(spec)
        return usage(spec)

    for method in (NeuralScale(iterations=1), MorphNet()):
        seen.clear()
        method.propose(replace(asked(Trainer(), 50.0, 1.33), usage=measured))
        assert len(seen) == 1
