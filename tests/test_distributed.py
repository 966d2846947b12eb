"""Two workers that share every batch compute what one computes: gloo on this machine, no Ray."""

import copy
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tiny_training import SIDE, images_of, tensors, tiny_task, train
from torch import Tensor, nn

from engine.errors import TrainingFailed, UserError
from engine.rows import TrainingTask
from engine.store import RunStore
from trainables.augment import augment
from trainables.loop import NetworkTraining
from trainables.sync_norm import SyncBatchNorm, synchronise_norms

WORLD = 2
CPU = torch.device("cpu")
WEIGHT, BIAS = (0.5, -1.0, 2.0), (0.1, 0.2, -0.3)

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "uneven": {"batch_size": 25, "mixup": 0.4, "augment": "crop-flip", "importance": True},
    "smooth": {"label_smoothing": 0.2, "augment": "crop-flip", "importance": True},
    "averaged": {"swa_share": 0.7, "epochs": 4, "test": True},
    "everything": {
        "mixup": 0.4,
        "augment": "autoaugment",
        "swa_share": 0.5,
        "label_smoothing": 0.1,
        "nesterov": True,
        "importance": True,
        "test": True,
        "resolution": 12,
    },
}
BFLOAT16 = {"precision": "bfloat16", "augment": "shift"}


def task_of(case: str) -> TrainingTask:
    return tiny_task(**CASES[case])


def outcome(training: NetworkTraining) -> dict[str, Any]:
    while not training.finished:
        training.run_epoch()
    row = training.result()
    return {
        "history": torch.tensor(
            [[e.train_loss, e.val_loss, e.val_accuracy] for e in row.history], dtype=torch.float64
        ),
        "test": torch.tensor(row.test_accuracy or 0.0),
        "importance": row.importance or {},
        "weights": training.state_dict(),
    }


def frequent_looks():
    """Every step may end with a checkpoint."""
    return patch("trainables.loop._STEPS_PER_LOOK", 1)


def cut_off(training: NetworkTraining) -> None:
    """Trains 3 of the 4 steps of the second epoch."""
    training.run_epoch()
    training.rehearse(3)


# What the two workers do -------------------------------------------------------------------------


def norm_input(rank: int | None, ndim: int = 4) -> Tensor:
    """Parts of different sizes for the two workers; of both together for None."""
    shape = (7, 3, 4, 5)[:ndim]
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = whole * 3 + 2
    return whole if rank is None else (whole[:4], whole[4:])[rank]


def norm_loss(y: Tensor, x: Tensor) -> Tensor:
    return (y.sin() * (1 + x.detach())).sum()


NORMS: dict[str, dict[str, Any]] = {
    "usual": {},
    "cumulative": {"momentum": None},
    "not affine": {"affine": False},
    "untracked": {"track_running_stats": False},
    "eps": {"eps": 0.3, "momentum": 0.7},
}


def run_norm(norm: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Two steps; what is seen outside: output, gradients and running statistics."""
    norm.double()
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor(WEIGHT, dtype=torch.float64))
            norm.bias.copy_(torch.tensor(BIAS, dtype=torch.float64))
    found = {}
    for step in range(2):
        part = (x + step).requires_grad_()
        y = norm(part)
        norm.zero_grad()
        norm_loss(y, x).backward()
        found |= {f"output {step}": y.detach(), f"input gradient {step}": part.grad}
    found |= {f"gradient of {k}": p.grad for k, p in norm.named_parameters()}
    found |= dict(norm.named_buffers())
    norm.eval()
    return found | {"judged": norm(x).detach()}


def work(rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{directory}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=60),  # workers that wait for nothing
    )
    data = tensors()
    found: dict[str, Any] = {}

    for name, options in NORMS.items():
        found[f"norm {name}"] = run_norm(SyncBatchNorm(3, **options), norm_input(rank))
    found["norm flat"] = run_norm(SyncBatchNorm(3), norm_input(rank, ndim=2))
    half = SyncBatchNorm(3)(norm_input(rank).bfloat16())
    found["norm half"] = half.detach()

    def begin(task: TrainingTask, folder: str) -> NetworkTraining:
        return NetworkTraining(task, data, RunStore(directory / folder), rank, WORLD)

    for case in CASES:
        found[case] = outcome(begin(task_of(case), case))
    found["half"] = outcome(begin(tiny_task(**BFLOAT16), "half"))

    begin(task_of("everything"), "handed-over").run_epoch()
    torch.distributed.barrier()
    found["taken-over"] = outcome(begin(task_of("everything"), "begun-alone"))

    finished = begin(task_of("averaged"), "averaged")
    if rank == 0:
        found["kept"] = finished.state_dict()

    try:
        outcome(begin(tiny_task(lr=1e30), "diverged"))
    except TrainingFailed as error:
        found["diverged"] = str(error)
    try:
        begin(task_of("plain"), f"disk-of-{rank}")
    except UserError as error:
        found["not shared"] = str(error)
    found["cut off by one"] = outcome(begin(task_of("uneven"), "cut-off"))
    store = RunStore(directory / "both")
    with frequent_looks():
        cut_off(NetworkTraining(task_of("uneven"), data, store, rank, WORLD, 0.0))
    torch.distributed.barrier()
    found["cut off by both"] = outcome(begin(task_of("uneven"), "both"))
    torch.save(found, directory / f"found-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory where two workers have left what they found."""
    directory = tmp_path_factory.mktemp("workers")
    NetworkTraining(
        task_of("everything"), tensors(), RunStore(directory / "begun-alone")
    ).run_epoch()
    NetworkTraining(task_of("plain"), tensors(), RunStore(directory / "disk-of-0")).run_epoch()
    with frequent_looks():
        store = RunStore(directory / "cut-off")
        cut_off(
            NetworkTraining(task_of("uneven"), tensors(), store, checkpoint_seconds=0.0),
        )
    torch.multiprocessing.spawn(work, (directory,), nprocs=WORLD)
    return directory


@pytest.fixture(scope="module")
def found(shared: Path) -> list[dict[str, Any]]:
    return [torch.load(shared / f"found-{rank}.pt") for rank in range(WORLD)]


# Training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_two_workers_train_as_one(case: str, found: list, tmp_path: Path) -> None:
    alone = outcome(train(task_of(case), tmp_path))
    for worker in found:
        assert_same(worker[case], alone)
    # Data parallel: what the workers have is not only close but the same, bit by bit.
    for name, tensor in found[0][case]["weights"].items():
        assert torch.equal(tensor, found[1][case]["weights"][name]), name
    assert torch.equal(found[0][case]["history"], found[1][case]["history"])


def assert_same(a: dict[str, Any], b: dict[str, Any], rtol: float = 1e-4) -> None:
    torch.testing.assert_close(a["history"], b["history"], rtol=rtol, atol=1e-6)
    torch.testing.assert_close(a["test"], b["test"], rtol=0, atol=0)
    assert a["importance"] == pytest.approx(b["importance"], rel=10 * rtol)
    assert list(a["weights"]) == list(b["weights"])
    for name, tensor in a["weights"].items():
        torch.testing.assert_close(tensor, b["weights"][name], rtol=rtol, atol=rtol, msg=name)


def test_the_comparison_sees_statistics_that_are_not_shared(tmp_path: Path) -> None:
    """Its power: one worker with norms over half batches is far outside of the tolerance."""

    class Halved(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return torch.cat([super(Halved, self).forward(x) for x in input.chunk(2)])

    def run(folder: str, kind: type[nn.BatchNorm2d]) -> Tensor:
        training = NetworkTraining(task_of("plain"), tensors(), RunStore(tmp_path / folder))
        for name in ("stem_norm", "inner_norm"):
            training.network.set_submodule(name, kind(6))
        return outcome(training)["history"]

    whole, halves = run("whole", nn.BatchNorm2d), run("halves", Halved)
    assert (whole / halves - 1).abs()[:, 0].max() > 100 * 1e-4


def test_two_workers_train_as_one_in_half_precision(found: list, tmp_path: Path) -> None:
    alone = outcome(train(tiny_task(**BFLOAT16), tmp_path))
    # bfloat16 keeps three digits, and rounds where the parts of a sum are another.
    torch.testing.assert_close(found[0]["half"]["history"], alone["history"], rtol=0.02, atol=0.03)


def test_a_training_goes_on_with_more_or_fewer_workers(
    shared: Path, found: list, tmp_path: Path
) -> None:
    task = task_of("everything")
    alone = outcome(train(task, tmp_path))
    assert_same(found[0]["taken-over"], alone)
    handed_over = NetworkTraining(task, tensors(), RunStore(shared / "handed-over"))
    assert len(handed_over.history) == 1
    assert_same(outcome(handed_over), alone)


def test_worker_0_can_keep_the_averaged_weights_without_the_others(found: list) -> None:
    for name, tensor in found[0]["averaged"]["weights"].items():
        assert torch.equal(tensor, found[0]["kept"][name]), name


@pytest.mark.parametrize("how", ["cut off by one", "cut off by both"])
def test_two_workers_go_on_within_an_epoch(how: str, found: list, tmp_path: Path) -> None:
    alone = outcome(train(task_of("uneven"), tmp_path))
    for worker in found:
        assert_same(worker[how], alone)


def test_a_loss_that_is_not_finite_ends_the_training_on_all_workers(found: list) -> None:
    assert {worker["diverged"] for worker in found} == {"the loss is not finite in epoch 1"}


def test_workers_that_do_not_see_the_same_checkpoint_are_refused(found: list) -> None:
    for worker in found:
        assert "checkpoints of 0 and of 1 epochs" in worker["not shared"]
        assert "--runs-dir that all machines share" in worker["not shared"]


def test_only_worker_0_writes(shared: Path) -> None:
    epochs = RunStore(shared / "plain", read_only=True).epochs.read()
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert len({epoch.process for epoch in epochs}) == 1


# Augmentation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "shift", "crop-flip", "autoaugment"])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_parts_of_a_batch_change_as_the_whole_does(kind, world: int) -> None:
    whole = torch.from_numpy(images_of(24, seed=4).images)
    expected = augment(whole, kind, torch.Generator().manual_seed(3))
    part = 24 // world
    for rank in range(world):
        # One row more than its own, as for mixup: the next worker's first.
        rows = torch.arange(rank * part, (rank + 1) * part + 1) % 24
        generator = torch.Generator().manual_seed(3)
        changed = augment(whole[rows], kind, generator, rows, 24)
        assert torch.equal(changed, expected[rows])


# Batch norm --------------------------------------------------------------------------------------


def by_hand(x: np.ndarray) -> np.ndarray:
    """Batch norm channel by channel over N×C×H×W."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        y[:, c] = (values - values.mean()) / np.sqrt(values.var() + 1e-5) * WEIGHT[c] + BIAS[c]
    return y


def test_statistics_are_those_of_the_whole_batch(found: list) -> None:
    x = norm_input(None).numpy()
    output = torch.cat([worker["norm usual"]["output 0"] for worker in found]).numpy()
    np.testing.assert_allclose(output, by_hand(x), atol=1e-12)
    running = np.zeros(3), np.ones(3)
    for step in range(2):
        values = (x + step).swapaxes(0, 1).reshape(3, -1)
        running = (
            0.9 * running[0] + 0.1 * values.mean(1),
            0.9 * running[1] + 0.1 * values.var(1, ddof=1),
        )
    for worker in found:
        np.testing.assert_allclose(worker["norm usual"]["running_mean"], running[0], atol=1e-12)
        np.testing.assert_allclose(worker["norm usual"]["running_var"], running[1], atol=1e-12)
        assert int(worker["norm usual"]["num_batches_tracked"]) == 2


@pytest.mark.parametrize("name", [*NORMS, "flat"])
def test_two_workers_normalise_as_pytorch_does_the_whole_batch(name: str, found: list) -> None:
    workers = [worker[f"norm {name}"] for worker in found]
    if name == "flat":
        alone = run_norm(nn.BatchNorm1d(3), norm_input(None, ndim=2))
    else:
        alone = run_norm(nn.BatchNorm2d(3, **NORMS[name]), norm_input(None))
    assert list(workers[0]) == list(alone)
    for key, expected in alone.items():
        parts = [worker[key] for worker in workers]
        if key == "judged" and name == "untracked":
            continue  # without running statistics every worker judges by its own batch
        if key.startswith("gradient of"):
            joined = parts[0] + parts[1]  # what data parallel adds up
        elif key.startswith(("output", "input", "judged")):
            joined = torch.cat(parts)
        else:
            joined = parts[0]
            assert torch.equal(parts[0], parts[1])
        torch.testing.assert_close(joined, expected, msg=lambda m, key=key: f"{key}: {m}")


def test_half_precision_is_normalised_by_statistics_in_single_precision(found: list) -> None:
    output = torch.cat([worker["norm half"] for worker in found])
    expected = nn.BatchNorm2d(3)(norm_input(None).bfloat16().float())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=2**-8, atol=1e-6)


@pytest.fixture
def alone(tmp_path: Path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", NORMS)
def test_one_worker_normalises_as_pytorch_does(name: str, alone: None) -> None:
    ours = run_norm(SyncBatchNorm(3, **NORMS[name]), norm_input(None))
    torchs = run_norm(nn.BatchNorm2d(3, **NORMS[name]), norm_input(None))
    assert list(ours) == list(torchs)
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, torchs[key])


def test_gradients_are_those_of_differences(alone: None) -> None:
    norm = SyncBatchNorm(3).double()
    x = norm_input(0).requires_grad_()
    assert torch.autograd.gradcheck(norm, (x,))


def test_every_norm_is_synchronised_with_its_settings_and_state() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, eps=0.1, momentum=0.3),
        nn.Sequential(nn.SyncBatchNorm(4, affine=False, momentum=None), nn.Flatten()),
        nn.BatchNorm1d(4 * (SIDE - 2) ** 2, track_running_stats=False),
    )
    net(torch.rand(5, 3, SIDE, SIDE))
    net[2].eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    synchronise_norms(net, CPU)
    norms = [net[1], net[2][0], net[3]]
    assert all(type(norm) is SyncBatchNorm for norm in norms)
    assert [norm.eps for norm in norms] == [0.1, 1e-5, 1e-5]
    assert [norm.momentum for norm in norms] == [0.3, None, 0.1]
    assert [norm.affine for norm in norms] == [True, False, True]
    assert [norm.track_running_stats for norm in norms] == [True, True, False]
    assert [norm.training for norm in norms] == [True, False, True]
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


class NormThenReLU(nn.BatchNorm2d):
    """A norm with an activation and a buffer of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("gain", torch.tensor(2.0))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().forward(input)) * self.get_buffer("gain")


def test_a_norm_of_a_class_of_its_own_keeps_its_forward_and_is_synchronised(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = norm_input(None)
    alike = NormThenReLU(3).to(x.dtype)
    expected, state = alike(x), alike.state_dict()
    net = nn.Sequential(NormThenReLU(3).to(x.dtype))
    synchronise_norms(net, CPU)
    assert isinstance(net[0], NormThenReLU)
    assert isinstance(net[0], SyncBatchNorm)
    summed: list[torch.Size] = []
    real = torch.distributed.all_reduce

    def all_reduce(value: torch.Tensor) -> None:
        summed.append(value.shape)
        real(value)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    torch.testing.assert_close(net(x), expected)
    assert len(summed) == 2  # the means, then the variances
    for name, tensor in net[0].state_dict().items():
        torch.testing.assert_close(tensor, state[name])
    assert copy.deepcopy(net)[0].get_buffer("gain") == 2.0


def test_norms_of_a_gpu_keep_their_class_and_their_frozen_tensors() -> None:
    """What becomes of them is decided by the device that they are for."""
    net = nn.Sequential(nn.BatchNorm2d(4), NormThenReLU(4), nn.SyncBatchNorm(4), OwnSync(4))
    net[0].weight.requires_grad_(False)
    before = {name: tensor.data_ptr() for name, tensor in net.state_dict().items()}
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    synchronise_norms(net, torch.device("cuda"))
    assert [type(norm) for norm in (net[0], net[2], net[3])] == [
        nn.SyncBatchNorm,
        nn.SyncBatchNorm,
        OwnSync,
    ]
    assert isinstance(net[1], NormThenReLU) and isinstance(net[1], nn.SyncBatchNorm)
    x = torch.randn(2, 4, 3, 3)
    # Without a process group PyTorch's forward is that of a plain norm.
    torch.testing.assert_close(net[1].eval()(x), NormThenReLU(4).eval()(x))
    assert {name: tensor.data_ptr() for name, tensor in net.state_dict().items()} == before
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == frozen != []


class OwnSync(nn.SyncBatchNorm):
    """PyTorch's forward of this one asks for a GPU."""


def test_a_class_of_pytorchs_sync_norm_trains_on_cpus(alone: None) -> None:
    x = norm_input(None).float()
    net = nn.Sequential(OwnSync(3))
    synchronise_norms(net, CPU)
    torch.testing.assert_close(net(x), nn.BatchNorm2d(3)(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_norms_on_a_gpu_are_pytorchs_own() -> None:
    device = torch.device("cuda")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).to(device)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    synchronise_norms(net, device)
    assert type(net[1]) is nn.SyncBatchNorm
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
