"""Trainings that take channels away: what goes, what is recorded, and going on after a stop."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import facts, tensors, tiny_data, tiny_task, train
from torch import Tensor

from engine.codec import canonical, decode
from engine.errors import UserError
from engine.gates import ChannelGates
from engine.graph import NetworkGraph, load_graph
from engine.peers.neuralscale import fit_laws
from engine.recipe import Data
from engine.rows import Row, TrainingTask
from engine.shrinking import Pruning, Sparsifying
from engine.spec import ModelRef, NetworkSpec
from engine.store import RunStore
from engine.training import Training
from trainables.data import load_data
from trainables.loop import NetworkTraining
from trainables.pruning import Pruner, goals, prune
from trainables.sparsifying import Sparsifier
from trainables.tensors import TensorData

KINDS = [
    Pruning(share=0.6, times=5, warmup=0.2),
    Sparsifying(resource="macs", strength=6.0, threshold=0.2),
    Sparsifying(resource="params", strength=6.0),
]


pytestmark = pytest.mark.usefixtures("one_thread")


# Pruning -----------------------------------------------------------------------------------------


def test_the_published_training_prunes_ten_filters_every_fifty_batches_after_ten_epochs() -> None:
    """VGG-11 has 2,752 filters; CIFAR-10 has 195 whole batches of 256 an epoch."""
    when = goals(Pruning(), 2752, steps=195, epochs=77)
    steps, gone = list(when), list(when.values())
    begins = steps[0] - 50
    assert begins == pytest.approx(10 * 195, rel=0.01)
    assert (steps[-1] - begins) / len(steps) == pytest.approx(50, rel=0.03)
    assert gone[-1] / len(gone) == pytest.approx(10, rel=0.03)
    assert (steps[-1], gone[-1]) == (77 * 195, int(0.95 * 2752))


@given(
    channels=st.integers(2, 5000),
    steps=st.integers(1, 300),
    epochs=st.integers(1, 40),
    share=st.floats(0.5, 0.99),
)
def test_every_training_comes_as_far(channels: int, steps: int, epochs: int, share: float) -> None:
    when = goals(Pruning(share=share), channels, steps, epochs)
    gone = list(when.values())
    assert list(when)[-1] == steps * epochs
    assert gone[-1] == int(channels * share)
    assert all(a < b for a, b in itertools.pairwise(gone))
    assert len(gone) >= min(16, int(channels * share), round(0.87 * steps * epochs) - 1)


def naive(
    scores: list[float], opened: list[bool], counts: list[int], sizes: list[int], goal: int
) -> list[bool] | None:
    """One gate at a time: always the least of those that are open."""
    opened = list(opened)
    group = [g for g, count in enumerate(counts) for _ in range(count)]
    while sum(sizes[g] for g, keep in zip(group, opened, strict=True) if not keep) < goal:
        left = [i for i in range(len(scores)) if opened[i]]
        least = min(left, key=lambda i: (scores[i], i))
        if sum(group[i] == group[least] for i in left) == 1:
            return None
        opened[least] = False
    return opened


@given(st.data())
def test_the_least_important_of_all_groups_go_first(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=len(counts), max_size=len(counts)))
    total = sum(counts)
    scores = data.draw(
        st.lists(st.sampled_from([0.0, 1.0, 2.5, 4.0]), min_size=total, max_size=total)
    )
    opened = data.draw(st.lists(st.booleans(), min_size=total, max_size=total))
    for count in range(len(counts)):  # every group has a gate that is open
        opened[sum(counts[:count])] = True
    goal = data.draw(st.integers(0, sum(n * m for n, m in zip(counts, sizes, strict=True))))
    found = prune(torch.tensor(scores), torch.tensor(opened), counts, sizes, goal)
    assert (None if found is None else found.tolist()) == naive(scores, opened, counts, sizes, goal)


class Scripted(ChannelGates):
    """Gates whose gradients are given."""

    script: list[list[float]]

    def gradients(self) -> Tensor:
        return torch.tensor(self.script.pop(0), dtype=torch.float64)


def test_a_score_is_the_mean_of_squares_since_the_last_pruning() -> None:
    """4 steps, the first a warm-up; of (6, 6, 8) channels 1 goes after two more and 1 at the end.

    Groups of 6 channels have 2 gates of 3. Squares are averaged, not gradients: 3 and −3 are more
    than 2 and 2. What came before the last pruning does not count.
    """
    task = tiny_task()
    graph = load_graph(task.spec.model, task.spec.resolution)
    gates = Scripted(graph, task.spec, graph.build(task.spec, 0))
    high = [9.0] * 10
    gates.script = [[3.0, 2.0, *high], [-3.0, 2.0, *high], [*[9.0] * 4, 0.1, *[9.0] * 7]]
    pruner = Pruner(Pruning(share=0.2, times=2, warmup=0.25), graph, task.spec, gates, 4, 1)
    left = []
    for _ in range(4):
        pruner.before_step()
        pruner.after_step()
        left.append(gates.widths(pruner.state()["opened"]))
    assert gates.script == []
    full = {"stem": 6, "inner": 6, "hidden": 8}
    assert left == [
        full,
        {**full, "stem": 3},
        {**full, "stem": 3},
        {**full, "stem": 3, "hidden": 7},
    ]


def test_digits_are_pruned_to_a_twentieth_in_a_short_training(tmp_path: Path) -> None:
    source = load_data(Data(source="digits", resolution=32, train_images=160), any_targets=False)
    ref = ModelRef(name="vgg11", classes=source.classes, channels=source.channels)
    graph = load_graph(ref, 32)
    spec = graph.spec(32, 0.25)
    training = Training(epochs=4, batch_size=16, lr=0.05, augment="none")
    task = TrainingTask(spec=spec, training=training, data=source.digest, seed=0, shrink=Pruning())
    pruned = train(task, tmp_path, TensorData.on(source, torch.device("cpu")))
    row = pruned.result()
    assert decode(Row, canonical(row), "the row") == row
    path = row.path or ()
    channels = sum(width for _, width in spec.widths)
    assert sum(path[-1].widths.values()) == channels - int(0.95 * channels)
    assert len(path) >= 6
    for before, after in itertools.pairwise(path):
        assert after.params < before.params
        assert all(after.widths[group] <= width for group, width in before.widths.items())
    assert all(path[0].widths[group] < width for group, width in spec.widths)
    # What is recorded is what is left of the network: batch norms that pass anything on.
    modules = [module for module in pruned.network.modules() if hasattr(module, "running_var")]
    alive = [int(((norm.weight != 0) | (norm.bias != 0)).sum()) for norm in modules]
    assert alive == list(path[-1].widths.values())
    assert path[-1].params == sum(
        9 * cin * cout + 2 * cout for cin, cout in zip([3, *alive], alive, strict=False)
    ) + 10 * (alive[-1] + 1)
    assert min(fit_laws(path).beta.values()) >= 0


# Going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=["pruning", "macs", "params"])
def test_a_shrinking_training_cut_off_within_an_epoch_is_the_same_bit_by_bit(
    kind: Pruning | Sparsifying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 steps an epoch: taken up after the first epoch and 3 steps, and after each epoch."""
    monkeypatch.setattr("trainables.loop._STEPS_PER_LOOK", 1)
    options: dict[str, Any] = {"epochs": 4, "mixup": 0.3, "augment": "crop-flip", "lr": 0.2}
    task = dataclasses.replace(tiny_task(**options), shrink=kind)
    whole = train(task, tmp_path / "whole")
    expected = whole.result()
    assert expected.path
    assert expected.path[-1].widths != task.spec.width_of
    data, store = tensors(), RunStore(tmp_path / "cut")
    training = NetworkTraining(task, data, store, checkpoint_seconds=0.0)
    training.run_epoch()
    training.rehearse(3)
    again = NetworkTraining(task, data, store)
    while not again.finished:
        again.run_epoch()
        again = NetworkTraining(task, data, store)
    assert facts(again.result()) == facts(expected)
    states = again.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.parametrize("kind", KINDS[:2], ids=["pruning", "macs"])
def test_fewer_images_than_a_batch_are_one_line(
    kind: Pruning | Sparsifying, tmp_path: Path
) -> None:
    task = dataclasses.replace(tiny_task(batch_size=102), shrink=kind)
    with pytest.raises(UserError, match="batch"):
        NetworkTraining(task, tensors(), RunStore(tmp_path)).run_epoch()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("kind", KINDS, ids=["pruning", "macs", "params"])
def test_channels_are_taken_away_on_a_gpu(kind: Pruning | Sparsifying, tmp_path: Path) -> None:
    task = dataclasses.replace(tiny_task(lr=0.2), shrink=kind)
    data = TensorData.on(tiny_data(), torch.device("cuda"))
    training = NetworkTraining(task, data, RunStore(tmp_path))
    while not training.finished:
        training.run_epoch()
        training = NetworkTraining(task, data, RunStore(tmp_path))
    path = training.result().path
    assert path
    assert path[-1].widths != task.spec.width_of


def test_a_plain_training_is_what_it_was(tmp_path: Path) -> None:
    """The field is no part of the identity of a training without it, nor is it in its row."""
    task = tiny_task()
    assert task.shrink is None
    assert train(task, tmp_path).result().path is None
    assert dataclasses.replace(task, shrink=KINDS[0]).id != task.id


# The regulariser ---------------------------------------------------------------------------------


def sparsifier(
    graph: NetworkGraph, spec: NetworkSpec, resource: Any, strength: float = 1.0
) -> tuple[Sparsifier, list[torch.nn.Parameter]]:
    network = graph.build(spec, 0)
    kind = Sparsifying(resource=resource, strength=strength)
    training = Training(epochs=2, lr=0.1, momentum=0.5, schedule="step")
    gates = ChannelGates(graph, spec, network)
    return Sparsifier(kind, graph, spec, gates, 10, training), gates.scale_parameters()


VGG = load_graph(ModelRef(name="vgg11", classes=10), 32)


@pytest.mark.parametrize("resource", ["macs", "params"])
def test_the_regulariser_is_the_papers_sum_over_layers(resource: str) -> None:
    """G = Σ_layers C·(Σ|γ_in|·B + A·Σ|γ_out|): kernel area × positions × scales × channels left.

    The images and the classes have no scales. Parameters count those of the batch norms as well.
    """
    spec = VGG.spec(32, 0.0625)
    found, gammas = sparsifier(VGG, spec, resource)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gamma in gammas:
            gamma.copy_(torch.randn(len(gamma), generator=generator))
            gamma[0] = 0.009  # below the threshold
            gamma[1] = -0.5
    scale = [float(gamma.detach().abs().sum()) for gamma in gammas]
    left = [int((gamma.abs() > 0.01).sum()) for gamma in gammas]
    side = [32, 16, 8, 8, 4, 4, 2, 2]  # where each convolution writes
    by_macs = resource == "macs"
    cost = [9 * (s * s if by_macs else 1) for s in side]
    total = cost[0] * 3 * scale[0] + 10 * scale[-1]
    total += sum(
        cost[i] * (scale[i - 1] * left[i] + left[i - 1] * scale[i]) for i in range(1, len(scale))
    )
    total += 0 if by_macs else sum(2 * s for s in scale)
    plain, _ = sparsifier(VGG, spec, resource)
    ones = [float(width) for _, width in spec.widths]
    ratio = float(found.penalty().detach()) / float(plain.penalty().detach())
    base = cost[0] * 3 * ones[0] + 10 * ones[-1]
    base += sum(2 * cost[i] * ones[i - 1] * ones[i] for i in range(1, len(ones)))
    base += 0 if by_macs else sum(2 * one for one in ones)
    assert ratio == pytest.approx(total / base, rel=1e-5)


def test_the_added_gradient_is_that_of_finite_differences() -> None:
    """In a residual group the largest scale of a channel counts, so the others get nothing."""
    task = tiny_task()
    graph = load_graph(task.spec.model, task.spec.resolution)
    found, gammas = sparsifier(graph, task.spec, "macs", strength=50.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gamma in gammas:
            gamma.copy_(torch.randn(len(gamma), generator=generator))
    for gamma in gammas:
        gamma.grad = torch.full_like(gamma, 0.25)
    found.before_step()
    step = 1e-2
    for gamma in gammas:
        assert gamma.grad is not None
        for k in range(len(gamma)):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    gamma[k] += sign * step
                    values.append(float(found.penalty()))
                    gamma[k] -= sign * step
            slope = (values[0] - values[1]) / (2 * step)
            assert float(gamma.grad[k]) - 0.25 == pytest.approx(slope, rel=1e-2, abs=1e-3)


def test_the_push_alone_moves_a_scale_of_mean_cost_by_the_strength() -> None:
    """By PyTorch's own optimizer, over as many steps as the training has."""
    spec = VGG.spec(32, 0.0625)
    found, gammas = sparsifier(VGG, spec, "macs", strength=0.2)
    before = torch.cat([gamma.detach().clone() for gamma in gammas])
    optimizer = torch.optim.SGD(gammas, lr=0.1, momentum=0.5)
    for _ in range(20):
        for gamma in gammas:
            gamma.grad = torch.zeros_like(gamma)
        found.before_step()
        optimizer.step()
        found.after_step()
    moved = before - torch.cat([gamma.detach() for gamma in gammas])
    assert float(moved.mean()) == pytest.approx(0.2, rel=0.1)
    assert len(found.path) == 2


def test_the_last_channel_of_a_group_is_left() -> None:
    spec = VGG.spec(32, 0.0625)
    found, gammas = sparsifier(VGG, spec, "params")
    with torch.no_grad():
        for gamma in gammas:
            gamma.fill_(1e-3)
    for _ in range(10):
        found.after_step()
    (left,) = found.path
    assert set(left.widths.values()) == {1}
    assert left.params == VGG.cost(spec.with_widths(left.widths)).params


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Pruning, {"share": 1.0}, "share must lie in"),
        (Pruning, {"per_epoch": 0}, "per_epoch must be at least 1"),
        (Pruning, {"times": 0}, "times must be at least 1"),
        (Pruning, {"warmup": 1.0}, "warmup must lie in"),
        (Sparsifying, {"resource": "macs", "strength": 0.0}, "strength must be above zero"),
        (Sparsifying, {"resource": "macs", "strength": 1.0, "threshold": 0.0}, "threshold must"),
    ],
)
def test_what_makes_no_sense_cannot_be_asked_for(kind: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)
