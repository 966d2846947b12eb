"""Importance without a training of every network, against naive computations of the same."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import SIDE, tensors, tiny_data, tiny_task, train
from torch import Tensor, nn

from engine.errors import UserError
from engine.graph import NetworkGraph, load_graph
from engine.rows import Cheap, Row, TrainingTask
from engine.sampling import samples_of, sampling_task
from engine.spec import ModelRef, NetworkSpec
from engine.store import RunStore
from trainables.augment import to_batch
from trainables.data import batches
from trainables.loop import NetworkTraining
from trainables.schedule import learning_rate
from trainables.slimmable import SharedNetworks

IMAGES = len(tiny_data().train)
MULTIPLIERS = (0.5, 1.0, 1.5)


def networks(graph: NetworkGraph, resolution: int) -> list[NetworkSpec]:
    """The k-th group of the n-th network has the multiplier number n + k."""
    base = graph.spec(resolution)
    return [
        base.with_widths(
            {
                group: graph.round_width(group, width * MULTIPLIERS[(n + k) % 3])
                for k, (group, width) in enumerate(base.widths)
            }
        )
        for n in range(3)
    ]


def shared_task(source: Cheap, **options) -> TrainingTask:
    short = tiny_task(**options)
    graph = load_graph(short.spec.model, SIDE)
    return sampling_task(short, networks(graph, SIDE), source, IMAGES)


def loss_of(network: nn.Module, rows: Tensor) -> Tensor:
    data = tensors()
    images, labels = data.train
    batch = to_batch(images[rows], SIDE, data.source.mean, data.source.std)
    return nn.functional.cross_entropy(network(batch), labels[rows])


def eq5(graph: NetworkGraph, gradients: dict[str, Tensor], weights: dict[str, Tensor]):
    """Eq. 5 kernel by kernel, a mean over kernels and a sum over writers."""
    found = {}
    for group in graph.groups:
        found[group.name] = 0.0
        for writer in group.writers:
            name = f"{writer}.weight"
            products = (gradients[name] * weights[name]).detach()
            found[group.name] += sum(float(m.square().sum()) for m in products) / len(products)
    return found


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_a_slice_computes_what_a_network_with_copied_slices_does(name: str) -> None:
    """Every weight of a narrow network is the block of first channels of the wide one's."""
    graph = load_graph(ModelRef(name=name, classes=3), 32)
    base = graph.spec(32, 0.25)
    specs = [base.with_widths({g: w + n for n, (g, w) in enumerate(base.widths)}), base]
    specs.append(base.with_widths({g: w - 1 for g, w in base.widths}))
    task = sampling_task(
        dataclasses.replace(tiny_task(batch_size=2), spec=base), specs, "slimmable", IMAGES
    )
    assert task.spec == specs[0]
    wide = graph.build(task.spec, seed=1)
    shared = SharedNetworks(task, task.sampling, graph, wide).train()
    batch = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for spec in specs:
        alone = graph.build(spec, seed=2).to(memory_format=torch.channels_last).train()
        with torch.no_grad():
            for key, parameter in alone.named_parameters():
                block = tuple(slice(n) for n in parameter.shape)
                parameter.copy_(wide.get_parameter(key)[block])
        outputs = shared(batch)
        assert torch.equal(outputs, alone(batch))
        outputs.sum().backward()
        shared.update()


def test_importance_at_initialisation_is_that_of_fresh_networks(tmp_path: Path) -> None:
    """Every network sees every third batch, and no weight changes."""
    task = shared_task("initial")
    graph = load_graph(task.spec.model, SIDE)
    sampling, size = task.sampling, task.training.batch_size
    assert sampling is not None
    steps = IMAGES // size
    assert task.training.epochs == -(-8 * 3 // steps)
    row = train(task, tmp_path).result()
    order = [
        chosen
        for epoch in range(task.training.epochs)
        for chosen in batches(IMAGES, size, task.seed, epoch)
    ]
    for number, (spec, found) in enumerate(zip(sampling.networks, row.sampled, strict=True)):
        network = graph.build(spec, task.seed).train()
        weights = dict(network.named_parameters())
        sums = []
        for chosen in order[number::3]:
            gradients = torch.autograd.grad(loss_of(network, chosen), list(weights.values()))
            sums.append(eq5(graph, dict(zip(weights, gradients, strict=True)), weights))
        means = {group: np.mean([one[group] for one in sums]) for group in found}
        assert found == pytest.approx(means, rel=1e-4)


def test_a_slimmable_training_is_sgd_on_the_sliced_weights(tmp_path: Path) -> None:
    """The same by autograd through slices of the wide weights, of a network without groups."""
    short = tiny_task(model="tiny_training:plain", nesterov=True, epochs=5, lr=0.2)
    graph = load_graph(short.spec.model, SIDE)
    task = sampling_task(short, networks(graph, SIDE), "slimmable", IMAGES)
    training, t = train(task, tmp_path), task.training
    wide = graph.build(task.spec, task.seed)
    optimizer = torch.optim.SGD(
        wide.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=t.weight_decay
    )
    seen: list[list[dict[str, float]]] = [[], [], []]
    steps, turn = IMAGES // t.batch_size, 0
    for epoch in range(t.epochs):
        for step, chosen in enumerate(batches(IMAGES, t.batch_size, task.seed, epoch)):
            optimizer.param_groups[0]["lr"] = learning_rate(t, epoch + (step + 0.5) / steps)
            network = graph.build(task.sampling.networks[turn % 3], 0).train()
            sliced = {
                name: wide.get_parameter(name)[tuple(slice(n) for n in parameter.shape)]
                for name, parameter in network.named_parameters()
            }
            for part in sliced.values():
                part.retain_grad()

            def call(batch, network=network, sliced=sliced):
                return torch.func.functional_call(network, sliced, batch)

            optimizer.zero_grad()
            loss_of(call, chosen).backward()
            gradients = {name: part.grad for name, part in sliced.items()}
            seen[turn % 3].append(eq5(graph, gradients, sliced))
            optimizer.step()
            turn += 1
    for name, weight in wide.named_parameters():
        trained = training.network.get_parameter(name)
        assert torch.allclose(trained, weight, rtol=1e-4, atol=1e-6), name
    for found, all_steps in zip(training.result().sampled, seen, strict=True):
        means = {group: np.mean([one[group] for one in all_steps]) for group in found}
        assert found == pytest.approx(means, rel=1e-3)


@pytest.mark.parametrize("source", ["slimmable", "initial"])
def test_interrupted_anywhere_it_ends_alike(source: Cheap, tmp_path: Path) -> None:
    task = shared_task(source, epochs=2, batch_size=4, augment="crop-flip")
    whole = train(task, tmp_path / "whole")
    store = RunStore(tmp_path / "broken")

    class Killed(Exception):
        pass

    rounds = 0
    while True:
        training = NetworkTraining(task, tensors(), store, checkpoint_seconds=0.0)
        save = training._save_checkpoint

        def kill(begun, save=save):
            save(begun)
            raise Killed

        training._save_checkpoint = kill  # type: ignore[method-assign]
        try:
            if training.finished:
                break
            training.run_epoch()
        except Killed:
            rounds += 1
    assert rounds > task.training.epochs  # within epochs too
    assert without_seconds(training.result()) == without_seconds(whole.result())
    for key, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, training.network.state_dict()[key])


def without_seconds(row: Row) -> Row:
    return dataclasses.replace(
        row, history=tuple(dataclasses.replace(epoch, seconds=0.0) for epoch in row.history)
    )


def test_samples_have_the_widths_and_importance_of_the_row(tmp_path: Path) -> None:
    task = shared_task("slimmable", epochs=6, lr=0.1)
    row = train(task, tmp_path).result()
    found = samples_of(row)
    assert [one.widths for one in found] == [spec.width_of for spec in task.sampling.networks]
    assert tuple(one.importance for one in found) == row.sampled
    assert row.importance is None
    assert task.id != dataclasses.replace(task, sampling=None).id


def test_a_row_and_its_task_survive_the_ledger(tmp_path: Path) -> None:
    row = train(shared_task("initial"), tmp_path).result()
    store = RunStore(tmp_path / "other")
    store.ledger.add(row)
    assert RunStore(tmp_path / "other").ledger.find(row.task.id) == row


def test_more_networks_than_steps_is_one_line() -> None:
    with pytest.raises(UserError, match=r"3 networks take turns .* has only 1"):
        shared_task("slimmable", epochs=1, batch_size=101)
