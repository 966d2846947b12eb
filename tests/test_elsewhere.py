"""Trainings and networks on a device that is not the CPU, on machines without one."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import example_networks as examples
import pytest
import torch
from pretend_accelerator import THERE, Accelerator, accelerator
from tiny_training import EVERYTHING, SIDE, facts, tiny_data, tiny_task
from torch import Tensor
from torch.utils._pytree import tree_map

from engine.folder import Folder
from engine.graph import load_graph
from engine.rows import TrainingTask
from engine.sampling import sampling_task
from engine.shrinking import Pruning, Sparsifying
from engine.spec import ModelRef
from engine.store import RunStore
from trainables import loop
from trainables.loop import NetworkTraining
from trainables.tensors import TensorData

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    """The device. Files are written and read on the CPU: PyTorch knows no values on ``meta``."""
    load, save = loop.load_checkpoint, loop.save_checkpoint

    def loaded(folder: Folder, task_id: str, device: torch.device) -> dict[str, Any] | None:
        return _moved(load(folder, task_id, torch.device("cpu")), device)

    def saved(folder: Folder, task_id: str, state: dict[str, Any]) -> None:
        save(folder, task_id, _moved(state, torch.device("cpu")))

    monkeypatch.setattr(loop, "load_checkpoint", loaded)
    monkeypatch.setattr(loop, "save_checkpoint", saved)
    monkeypatch.setattr(NetworkTraining, "_autocast", lambda _: contextlib.nullcontext())
    with accelerator() as device:
        yield device


def _moved(state: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, state)


def _shared(source: Any) -> TrainingTask:
    task = tiny_task(model="tiny_training:plain")
    graph = load_graph(task.spec.model, SIDE)
    networks = [graph.spec(SIDE, width) for width in (0.5, 1.0, 1.5)]
    return sampling_task(task, networks, source, len(tiny_data().train))


TASKS = {
    "importance": tiny_task(importance=True, augment="shift"),
    "everything": tiny_task(**EVERYTHING, resolution=16),
    "pruning": dataclasses.replace(tiny_task(lr=0.2), shrink=Pruning(times=5, warmup=0.2)),
    "macs": dataclasses.replace(tiny_task(lr=0.2), shrink=Sparsifying(resource="macs", strength=6)),
    "slimmable": _shared("slimmable"),
    "initial": _shared("initial"),
    "filter norms": dataclasses.replace(tiny_task(), filter_norms=True),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_a_training_elsewhere_is_the_same_bit_by_bit(
    task: TrainingTask, there: Accelerator, tmp_path: Path
) -> None:
    data = TensorData.on(tiny_data(), THERE)
    assert data.train[0].device == THERE
    training = _trained(task, data, tmp_path / "there")
    here = _trained(task, TensorData.on(tiny_data(), torch.device("cpu")), tmp_path / "here")
    assert facts(training.result()) == facts(here.result())
    weights = here.state_dict()
    for name, tensor in training.state_dict().items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, weights[name]), name


def _trained(task: TrainingTask, data: TensorData, directory: Path) -> NetworkTraining:
    training = NetworkTraining(task, data, RunStore(directory))
    while not training.finished:
        training.run_epoch()
        training = NetworkTraining(task, data, RunStore(directory))
    return training


QUICK = tiny_task(
    model="tiny_training:plain",
    augment="crop-flip",
    mixup=0.3,
    label_smoothing=0.1,
    importance=True,
)
STEPS = [
    ("everything", QUICK, THERE, 0),
    # Steps are given to the device while it does those before, also where each moves its images.
    ("images here", QUICK, torch.device("cpu"), 0),
    (
        "pruning",
        dataclasses.replace(tiny_task(model="tiny_training:plain", epochs=99), shrink=Pruning()),
        THERE,
        0,
    ),
    # The widths that are left, once.
    (
        "macs",
        dataclasses.replace(
            tiny_task(model="tiny_training:plain"), shrink=Sparsifying(resource="macs", strength=6)
        ),
        THERE,
        1,
    ),
]


@pytest.mark.parametrize(
    ("task", "place", "each"), [s[1:] for s in STEPS], ids=[s[0] for s in STEPS]
)
def test_steps_do_not_wait_for_the_device(
    task: TrainingTask, place: torch.device, each: int, there: Accelerator, tmp_path: Path
) -> None:
    data = dataclasses.replace(TensorData.on(tiny_data(), place), device=THERE)
    training = NetworkTraining(task, data, RunStore(tmp_path), checkpoint_seconds=600)

    def waits_of(steps: int) -> int:
        before = len(there.waits)
        training.rehearse(steps)
        return len(there.waits) - before

    few, more = waits_of(1), waits_of(2)
    assert more == few + each
    assert few > 0  # the loss of an epoch is read at its end


@pytest.mark.parametrize("factory", examples.FOLLOWED, ids=lambda f: f.__name__)
def test_a_network_leaves_nothing_behind(factory: Any, there: Accelerator) -> None:
    """Constants, frozen values and tables of a user's network go where the network goes."""
    graph = load_graph(ModelRef(name=f"example_networks:{factory.__name__}", classes=4), 32)
    spec, images = graph.spec(32), torch.randn(2, 3, 32, 32)
    here = graph.build(spec, 0).eval()
    network = graph.build(spec, 0).eval().to(THERE)
    found = network(images.to(THERE))
    assert found.device == THERE
    assert torch.equal(found.detach().cpu(), here(images).detach())


# The device --------------------------------------------------------------------------------------


def test_tensors_of_the_cpu_are_refused(there: Accelerator) -> None:
    away = torch.arange(6.0).view(2, 3).to(THERE)
    for mixed in (
        lambda: away + torch.ones(3),
        lambda: torch.cat([away, torch.ones(2, 3)]),
        lambda: torch.ones(3)[torch.tensor([0, 2]).to(THERE)],
        lambda: torch.nn.functional.linear(away, torch.ones(4, 3)),
    ):
        with pytest.raises(RuntimeError, match="meet tensors of the CPU"):
            mixed()
    assert (away * torch.tensor(2.0)).cpu().sum() == 30
    assert away[torch.tensor([1])].cpu().tolist() == [[3.0, 4.0, 5.0]]


def test_what_waits_is_counted(there: Accelerator) -> None:
    away = torch.ones(3).to(THERE, non_blocking=True)
    away.add_(torch.ones(3).to(THERE, non_blocking=True)).mul_(2).sum()
    away.copy_(torch.zeros(3), non_blocking=True)
    assert there.waits == []
    torch.ones(3).to(THERE)
    away.copy_(torch.ones(3))
    away.cpu()
    float(away.sum())
    assert away.tolist() == [1.0, 1.0, 1.0]
    assert there.waits == ["_to_copy", "copy_", "_to_copy", "_local_scalar_dense", "_to_copy"]
