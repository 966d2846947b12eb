"""Trainings that start from other weights: which filters stay, and where the weights are kept."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from test_carry import graph_of, other_widths
from test_carry import trained as with_values
from tiny_training import tensors, tiny_data, tiny_task, train
from torch import Tensor

from cluster.parents import lost_parents, release, release_all
from engine.carry import carry_weights
from engine.errors import UserError
from engine.filter_norms import filter_norms
from engine.graph import load_graph
from engine.recipe import Data
from engine.rows import Row, Start, TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from engine.trained_weights import has_weights, parse_weights, weights_name, write_weights
from engine.training import Training
from trainables.augment import to_batch
from trainables.data import load_data
from trainables.loop import NetworkTraining
from trainables.start import initial_network
from trainables.tensors import TensorData
from trainables.trial import TrainingTrial

pytestmark = pytest.mark.usefixtures("one_thread")


# Which filters stay ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v2",
        *(f"example_networks:{f}" for f in ("Grouped", "SharedConv")),
        "tiny_training:residual",
    ],
)
@torch.no_grad()
def test_norms_are_those_of_all_kernels_that_write_a_channel(name: str) -> None:
    """Kernel by kernel, over the writers that the group names."""
    graph = graph_of(name)
    spec = graph.spec(32, 0.25 if ":" not in name else 1.0)
    module = with_values(graph, spec)
    norms = filter_norms(module.state_dict(), graph, spec)
    assert list(norms) == [group for group, _ in spec.widths]
    for group in graph.groups:
        for channel in range(0, spec.width_of[group.name], 11):
            naive = sum(
                float(w) ** 2
                for writer in dict.fromkeys(group.writers)
                for w in module.get_parameter(f"{writer}.weight")[channel].flatten()
            )
            assert float(norms[group.name][channel]) == pytest.approx(naive, rel=1e-6)


@torch.no_grad()
def test_norms_of_transposed_convolutions_run_over_their_second_axis() -> None:
    graph = graph_of("example_networks:UNet")
    spec = graph.spec(32)
    module = with_values(graph, spec)
    norms = filter_norms(module.state_dict(), graph, spec)
    (group,) = [g for g in graph.groups if g.writers == ("up.0",)]
    weight = module.get_parameter("up.0.weight")
    for channel in range(16):
        assert float(norms[group.name][channel]) == pytest.approx(
            sum(float(w) ** 2 for w in weight[:, channel].flatten()), rel=1e-6
        )


@torch.no_grad()
def test_the_filters_kept_are_the_largest_in_every_layer_of_a_residual_group() -> None:
    graph = graph_of("resnet18")
    spec = graph.spec(32, 0.25)
    narrow = spec.with_widths({"conv1": 11, "layer2.0.conv1": 20})
    source, target = with_values(graph, spec), graph.build(narrow, 1)
    old = source.state_dict()
    carry_weights(old, graph, spec, narrow, target, filter_norms(old, graph, spec))
    new = target.state_dict()

    def largest(count: int, *writers: str) -> list[int]:
        """A sort of (norm, channel) pairs, one pair after another."""
        sums = [
            (sum(float((old[f"{w}.weight"][c].double() ** 2).sum()) for w in writers), c)
            for c in range(old[f"{writers[0]}.weight"].shape[0])
        ]
        return sorted(c for _, c in sorted(sums, reverse=True)[:count])

    stem = largest(11, "conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert stem != list(range(11))
    for writer, norm in (("conv1", "bn1"), ("layer1.1.conv2", "layer1.1.bn2")):
        assert torch.equal(new[f"{norm}.running_var"], old[f"{norm}.running_var"][stem])
        assert torch.equal(new[f"{norm}.bias"], old[f"{norm}.bias"][stem])
        assert torch.equal(new[f"{writer}.weight"], old[f"{writer}.weight"][stem])
    assert torch.equal(new["layer1.0.conv1.weight"], old["layer1.0.conv1.weight"][:, stem])
    inner = largest(20, "layer2.0.conv1")
    expected = old["layer2.0.conv1.weight"][inner][:, stem]
    assert torch.equal(new["layer2.0.conv1.weight"], expected)
    assert torch.equal(new["layer2.0.conv2.weight"], old["layer2.0.conv2.weight"][:, inner])


@torch.no_grad()
def test_groups_of_a_convolution_keep_their_own_largest() -> None:
    graph = graph_of("example_networks:Grouped")
    spec = graph.spec(32)
    narrow = spec.with_widths({"grouped": 8})
    source, target = with_values(graph, spec), graph.build(narrow, 1)
    old = source.state_dict()
    carry_weights(old, graph, spec, narrow, target, filter_norms(old, graph, spec))
    for part in range(4):  # 2 of 3 kernels in each
        kernels = old["grouped.weight"][3 * part : 3 * part + 3]
        smallest = int(kernels.double().square().sum((1, 2, 3)).argmin())
        kept = kernels[[k for k in range(3) if k != smallest]]
        assert torch.equal(target.get_parameter("grouped.weight")[2 * part : 2 * part + 2], kept)


@torch.no_grad()
def test_worth_changes_nothing_where_a_network_only_grows() -> None:
    graph = graph_of("resnet18")
    spec = graph.spec(32, 0.25)
    wider = other_widths(graph, spec, 4, 0, 3)
    old = with_values(graph, spec).state_dict()
    states: list[dict[str, Tensor]] = []
    for worth in (None, filter_norms(old, graph, spec)):
        target = graph.build(wider, 1)
        assert carry_weights(old, graph, spec, wider, target, worth) == ()
        states.append(target.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


# A training on digits --------------------------------------------------------------------------


@torch.no_grad()
def accuracy(training: NetworkTraining, data: TensorData) -> float:
    images, labels = data.validation
    batch = to_batch(images, training.task.spec.resolution, data.source.mean, data.source.std)
    logits = training.network.eval()(batch)
    return float((logits.argmax(1) == labels).float().mean())


def test_a_narrowed_network_begins_far_above_chance(tmp_path: Path) -> None:
    source = load_data(Data(source="digits", resolution=12, train_images=600))
    data = TensorData.on(source, torch.device("cpu"))
    ref = ModelRef(name="tiny_training:residual", classes=10, channels=source.channels)
    graph = load_graph(ref, 12)
    recipe = Training(epochs=3, batch_size=32, lr=0.1, augment="none", warmup_epochs=0.5)
    task = TrainingTask(
        spec=graph.spec(12, 2.0),
        training=recipe,
        data=source.digest,
        seed=0,
        keep_weights=True,
        filter_norms=True,
    )
    parent = train(task, tmp_path, data)
    store = RunStore(tmp_path)
    write_weights(store.weights, weights_name(task.id), parent.state_dict())
    row = parent.result()
    assert row.filter_norms is not None
    assert {g: len(n) for g, n in row.filter_norms.items()} == task.spec.width_of

    narrow = task.spec.with_widths({"inner": 9, "hidden": 14})
    child = replace(
        task,
        spec=narrow,
        training=replace(recipe.for_epochs(1), lr=0.01),
        start=Start(row=task.id, spec=task.spec),
    )
    began = NetworkTraining(child, data, store)
    before = accuracy(began, data)
    fresh = accuracy(NetworkTraining(replace(child, start=None), data, store), data)
    assert before > 0.3 > 0.2 > fresh  # of ten classes
    began.run_epoch()
    assert began.result().last.val_accuracy > before


# Where weights are kept ------------------------------------------------------------------------


def trial(task: TrainingTask, directory: Path) -> Row:
    """The row of a training as a Tune trial, which writes the weights that are to be kept."""

    class Filled(TrainingTrial):
        def setup(self, config: dict[str, object]) -> None:
            super().setup(
                config,
                data=tiny_data(),
                store=RunStore(directory),
                cpus=1,
                gpus=0.0,
                checkpoint_seconds=600.0,
            )

    running = Filled({"task": asdict(task)})
    report = running.step()
    while not report["done"]:
        report = running.step()
    row = RunStore(directory).ledger.find(task.id)
    assert row is not None, report
    return row


def child_of(row: Row) -> TrainingTask:
    spec = row.task.spec
    narrow = spec.with_widths({g: w - (g == "hidden") for g, w in spec.widths})
    return replace(
        row.task,
        spec=narrow,
        start=Start(row=row.task.id, spec=spec),
        keep_weights=None,
        filter_norms=None,
    )


def test_weights_of_a_trial_are_kept_if_it_is_asked_to(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    kept = replace(tiny_task(), keep_weights=True, filter_norms=True)
    row, plain = trial(kept, tmp_path), trial(tiny_task(), tmp_path)
    assert store.weights.files(".safetensors") == [kept.id] and plain.task.id != kept.id
    data = store.weights.read(weights_name(kept.id))
    assert data is not None
    alone = train(tiny_task(), tmp_path / "alone")
    expected = alone.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in parse_weights(data).items())
    assert plain.filter_norms is None and row.filter_norms is not None
    norms = filter_norms(expected, load_graph(kept.spec.model, 10), kept.spec)
    assert row.filter_norms == {g: tuple(n.tolist()) for g, n in norms.items()}
    assert trial(child_of(row), tmp_path).status == "done"
    release(store, [row, plain])
    assert store.weights.files(".safetensors") == []


@pytest.mark.parametrize("harm", ["lost", "damaged"])
def test_weights_that_are_gone_are_made_again(harm: str, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    parent = replace(tiny_task(), keep_weights=True)
    row = trial(parent, tmp_path)
    child = child_of(row)
    name = weights_name(parent.id)
    whole = store.weights.read(name)
    assert whole is not None
    assert lost_parents(store, [child, parent]) == []
    if harm == "lost":
        store.weights.delete(name)
    else:
        store.weights.write(name, whole[:-8] + bytes(8))
    graph = load_graph(child.spec.model, 10)
    with pytest.raises(UserError, match="repeat the command: it is made again"):
        initial_network(child, graph, store)
    assert lost_parents(store, [child]) == [parent]
    assert RunStore(tmp_path).ledger.find(parent.id) is None
    again = trial(parent, tmp_path)
    assert store.weights.read(name) == whole and has_weights(store.weights, name)
    assert again.last.val_loss == row.last.val_loss


def test_a_parent_that_was_never_trained_is_a_mistake_of_the_method(tmp_path: Path) -> None:
    task = tiny_task()
    child = replace(task, start=Start(row=task.id, spec=task.spec))
    with pytest.raises(ValueError, match="was not trained for others to start from"):
        lost_parents(RunStore(tmp_path), [child])


def test_only_weights_that_were_kept_to_start_from_are_swept(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    kept, final = replace(tiny_task(), keep_weights=True), tiny_task(test=True)
    for task in (kept, final):
        store.ledger.add(Row(task=task, status="done"))
        write_weights(store.weights, weights_name(task.id), {"x": torch.zeros(2)})
    release_all(store)
    assert store.weights.files(".safetensors") == [final.id]


def test_the_child_of_bad_weights_is_judged_and_not_failed(tmp_path: Path) -> None:
    """No better than the most frequent class: a finding where one starts from trained weights."""
    task = tiny_task(epochs=1, lr=1e-12)
    network = load_graph(task.spec.model, 10).build(task.spec, 1)
    state = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
    store = RunStore(tmp_path)
    write_weights(store.weights, weights_name("0" * 16), state)
    child = replace(task, start=Start(row="0" * 16, spec=task.spec))
    training = NetworkTraining(child, tensors(), store)
    training.run_epoch()
    assert training.result().status == "done"
