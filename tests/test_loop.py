"""The training loop against a naive one; resuming, failures, determinism, trials."""

import copy
import dataclasses
import gc
import json
import logging
import math
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tiny_training import (
    CLASSES,
    EVERYTHING,
    SIDE,
    facts,
    residual,
    tensors,
    tiny_data,
    tiny_task,
    train,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from engine.errors import TrainingFailed, UserError
from engine.graph import load_graph
from engine.rows import TrainingTask
from engine.store import RunStore
from trainables.augment import augment, to_batch
from trainables.data import batches
from trainables.loop import NetworkTraining
from trainables.objective import Objective
from trainables.schedule import learning_rate
from trainables.tensors import TensorData
from trainables.trial import TrainingTrial

pytestmark = pytest.mark.usefixtures("one_thread")


def equal_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


# A second implementation -------------------------------------------------------------------------


class Naive:
    """One training written down plainly: PyTorch's own optimizer, a loop for everything else."""

    def __init__(self, task: TrainingTask, data: TensorData) -> None:
        self.task, self.data = task, data
        graph = load_graph(task.spec.model, task.spec.resolution)
        self.net = graph.build(task.spec, task.seed)
        self.groups = {group.name: group.writers for group in graph.groups}
        self.importance = dict.fromkeys(self.groups, 0.0)
        self.losses: list[float] = []
        self.judged: list[tuple[float, float]] = []
        self.averages: list[dict[str, Tensor]] = []
        self.steps = 0

    def run(self) -> None:
        t = self.task.training
        images, labels = self.data.train
        optimizer = torch.optim.SGD(
            self.net.parameters(), lr=1.0, momentum=t.momentum, weight_decay=t.weight_decay
        )
        for epoch in range(t.epochs):
            self.net.train()
            order = np.random.default_rng((self.task.seed, epoch)).permutation(len(labels))
            steps = len(labels) // t.batch_size
            losses = []
            for step in range(steps):
                rows = torch.from_numpy(order[step * t.batch_size : (step + 1) * t.batch_size])
                optimizer.param_groups[0]["lr"] = learning_rate(t, epoch + (step + 0.5) / steps)
                loss = self.loss(self.net(self.seen(images[rows])), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                self.add_importance()
                optimizer.step()
                losses.append(loss.item())
            self.losses.append(sum(losses) / steps)
            self.judged.append(self.judge(self.data.validation))
            self.averages.append(copy.deepcopy(self.net.state_dict()))

    def seen(self, images: Tensor) -> Tensor:
        source = self.data.source
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (source.mean, source.std))
        return (images.float() / 255 - mean) / std

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy against (1 − s)·one-hot + s/K."""
        smoothing = self.task.training.label_smoothing
        target = torch.full_like(logits, smoothing / CLASSES)
        target[torch.arange(len(labels)), labels] += 1 - smoothing
        return -(target * logits.log_softmax(1)).sum() / len(labels)

    def add_importance(self) -> None:
        """Eq. 5 kernel by kernel."""
        for group, writers in self.groups.items():
            for name in writers:
                layer = self.net.get_submodule(name)
                kernels = zip(layer.weight.grad, layer.weight.detach(), strict=True)
                sums = [float((g.double() * m.double()).square().sum()) for g, m in kernels]
                self.importance[group] += sum(sums) / len(sums)
        self.steps += 1

    @torch.no_grad()
    def judge(self, split: tuple[Tensor, Tensor]) -> tuple[float, float]:
        """Mean cross-entropy and accuracy, image by image."""
        self.net.eval()
        losses, right = [], 0
        for image, label in zip(*split, strict=True):
            logits = self.net(self.seen(image[None]))[0].double()
            losses.append(float(logits.logsumexp(0) - logits[label]))
            right += int(logits.argmax()) == int(label)
        return sum(losses) / len(losses), right / len(losses)


def test_a_training_equals_the_naive_one(tmp_path: Path) -> None:
    task = tiny_task(importance=True, test=True, label_smoothing=0.2, warmup_epochs=1.0)
    naive = Naive(task, tensors())
    naive.run()
    training = train(task, tmp_path)
    row = training.result()
    close = {"rel": 1e-5, "abs": 1e-7}
    assert [e.train_loss for e in row.history] == pytest.approx(naive.losses, **close)
    assert [e.val_loss for e in row.history] == pytest.approx([v for v, _ in naive.judged], **close)
    assert [e.val_accuracy for e in row.history] == [accuracy for _, accuracy in naive.judged]
    assert row.test_accuracy == naive.judge(tensors().test)[1]
    expected = {group: total / naive.steps for group, total in naive.importance.items()}
    assert naive.steps == 3 * (101 // 24)
    assert row.importance == pytest.approx(expected, rel=1e-5)
    assert [len(writers) for writers in naive.groups.values()] == [2, 1, 1]
    for name, tensor in naive.net.state_dict().items():
        torch.testing.assert_close(training.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    assert not training.network.training


def test_averaged_weights_are_the_mean_of_the_last_epochs_with_statistics_of_their_own(
    tmp_path: Path,
) -> None:
    task = tiny_task(epochs=5, swa_share=0.5, test=True)
    naive = Naive(task, tensors())
    naive.run()
    training = train(task, tmp_path)
    state = training.state_dict()
    # Half of 5 epochs, rounded to even: 2.
    for name, _ in naive.net.named_parameters():
        mean = (naive.averages[-2][name] + naive.averages[-1][name]) / 2
        torch.testing.assert_close(state[name], mean, rtol=1e-4, atol=1e-6)
    # The statistics are those of a pass over all whole batches: the mean of the batches' own.
    net, batch = naive.net, task.training.batch_size
    net.load_state_dict(state)
    stem = {"mean": [], "var": []}
    with torch.no_grad():
        for rows in batches(101, batch, task.seed, 0):
            x = net.get_submodule("stem")(naive.seen(tensors().train[0][rows]))
            values = x.transpose(0, 1).flatten(1)
            stem["mean"].append(values.mean(1))
            stem["var"].append(values.var(1))
    for key, values in stem.items():
        torch.testing.assert_close(
            state[f"stem_norm.running_{key}"], torch.stack(values).mean(0), rtol=1e-5, atol=1e-6
        )
    # Only the last epoch is judged by them.
    assert training.history[-1].val_loss == pytest.approx(
        naive.judge(tensors().validation)[0], rel=1e-5
    )
    assert training.result().test_accuracy == naive.judge(tensors().test)[1]
    before = [e.val_loss for e in training.history[:-1]]
    assert before == pytest.approx([loss for loss, _ in naive.judged[:-1]], rel=1e-5)
    assert training.history[-1].val_loss != pytest.approx(naive.judged[-1][0], rel=1e-3)


@pytest.mark.parametrize(
    ("share", "epochs", "averaged"), [(0.05, 10, 1), (0.7, 10, 7), (0.3, 10, 3), (0.9, 2, 2)]
)
def test_the_share_of_averaged_epochs_is_rounded_and_never_none(
    share: float, epochs: int, averaged: int, tmp_path: Path
) -> None:
    training = train(tiny_task(swa_share=share, epochs=epochs), tmp_path)
    average = training._average
    assert isinstance(average, AveragedModel)
    assert int(average.n_averaged) == averaged


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weight_decay_and_momentum_have_no_part_in_a_steps_importance(
    precision: str, tmp_path: Path
) -> None:
    """One step: the gradient is that of the mean cross-entropy, whatever the optimizer adds."""
    found = []
    for number, options in enumerate([{}, {"weight_decay": 0.3, "momentum": 0.0, "lr": 1e-6}]):
        task = tiny_task(epochs=1, batch_size=101, precision=precision, importance=True, **options)
        training = NetworkTraining(task, tensors(), RunStore(tmp_path / str(number)))
        training.run_epoch()
        found.append(training._meter.means())
    assert found[0] == found[1]


def test_importance_in_half_precision_is_near_that_in_single(tmp_path: Path) -> None:
    rows = [
        train(tiny_task(precision=precision, importance=True), tmp_path / precision).result()
        for precision in ("float32", "bfloat16")
    ]
    assert rows[1].importance == pytest.approx(rows[0].importance, rel=0.1)
    assert rows[1].importance != rows[0].importance


def test_mixup_augmentation_and_dropout_change_the_training(tmp_path: Path) -> None:
    plain = train(tiny_task(), tmp_path).history
    for options in ({"mixup": 0.5}, {"augment": "shift"}, {"model": "tiny_training:with_dropout"}):
        assert train(tiny_task(**options), tmp_path).history[0].train_loss != plain[0].train_loss


def test_mixup_and_augmentation_reach_the_network_as_they_were_drawn(tmp_path: Path) -> None:
    """What the network is trained on in two epochs, from the raw images."""
    task = tiny_task(mixup=0.7, augment="crop-flip", resolution=SIDE + 2)
    data = tensors()
    training = NetworkTraining(task, data, RunStore(tmp_path))
    seen: list[Tensor] = []
    training.network.register_forward_pre_hook(
        lambda net, args: seen.append(args[0]) if net.training else None
    )
    images, mean, std = data.train[0], data.source.mean, data.source.std
    for epoch in range(2):
        seen.clear()
        training.run_epoch()
        state = np.random.SeedSequence((task.seed, epoch)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state) >> 1)
        for rows, batch in zip(batches(101, 24, task.seed, epoch), seen, strict=True):
            changed = to_batch(augment(images[rows], "crop-flip", generator), SIDE + 2, mean, std)
            share_seed = int(torch.randint(2**63 - 1, (), generator=generator))
            share = np.random.default_rng(share_seed).beta(0.7, 0.7)
            partners = [*range(1, 24), 0]
            expected = share * changed + (1 - share) * changed[partners]
            torch.testing.assert_close(batch, expected)


# Splits ------------------------------------------------------------------------------------------


class Guarded:
    """A split that counts who looks at it."""

    def __init__(self, split: tuple[Tensor, Tensor]) -> None:
        self.split, self.looks = split, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.looks += 1
        return iter(self.split)

    def __getitem__(self, i: int) -> Tensor:
        self.looks += 1
        return self.split[i]

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize("asked", [False, True])
def test_the_test_split_is_looked_at_only_if_asked_for_and_only_at_the_end(
    asked: bool, tmp_path: Path
) -> None:
    data = tensors()
    guarded = Guarded(data.test)
    data = dataclasses.replace(data, test=guarded)
    training = train(tiny_task(test=asked, swa_share=0.5), tmp_path, data)
    training.state_dict()
    assert guarded.looks == 0
    row = training.result()
    assert (guarded.looks > 0) == asked
    assert (row.test_accuracy is not None) == asked


def test_no_image_is_judged_twice_or_left_out(tmp_path: Path) -> None:
    """39 images in batches of 24: the last batch is not whole."""
    training = NetworkTraining(tiny_task(), tensors(), RunStore(tmp_path))
    seen: list[int] = []
    training.network.register_forward_pre_hook(
        lambda net, args: None if net.training else seen.append(len(args[0]))
    )
    training.run_epoch()
    assert seen == [24, 15]


def test_tensors_share_the_memory_of_the_arrays_and_leave_it_alone(tmp_path: Path) -> None:
    source = tiny_data()
    for part in (source.train, source.validation, source.test):
        part.images.flags.writeable = False
        part.labels.flags.writeable = False
    data = TensorData.on(source, torch.device("cpu"))
    assert data.train[0].data_ptr() == source.train.images.ctypes.data
    before = [tensor.clone() for tensor in data.train]
    train(tiny_task(mixup=0.3, augment="crop-flip"), tmp_path, data)
    assert all(torch.equal(a, b) for a, b in zip(before, data.train, strict=True))


# Resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"importance": True}, EVERYTHING], ids=["plain", "everything"])
def test_a_training_interrupted_after_every_epoch_is_the_same_bit_by_bit(
    options: dict[str, Any], tmp_path: Path
) -> None:
    task = tiny_task(**options)
    whole = train(task, tmp_path / "whole")
    data, store = tensors(), RunStore(tmp_path / "parts")
    for epoch in range(task.training.epochs):
        torch.manual_seed(epoch)  # another process has another state
        training = NetworkTraining(task, data, store)
        assert len(training.history) == epoch
        training.run_epoch()
    training = NetworkTraining(task, data, store)
    assert training.finished
    assert facts(training.result()) == facts(whole.result())
    assert equal_states(training.state_dict(), whole.state_dict())
    assert equal_states(training.network.state_dict(), whole.network.state_dict())


def test_an_epoch_that_was_cut_off_is_repeated(tmp_path: Path) -> None:
    task = tiny_task(**EVERYTHING)
    whole = train(task, tmp_path / "whole")
    store = RunStore(tmp_path / "cut")
    NetworkTraining(task, tensors(), store).run_epoch()
    training = NetworkTraining(task, tensors(), store)
    steps = 0

    def stop(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt

    training.network.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        training.run_epoch()
    again = NetworkTraining(task, tensors(), store)
    assert len(again.history) == 1
    while not again.finished:
        again.run_epoch()
    assert facts(again.result()) == facts(whole.result())
    assert equal_states(again.state_dict(), whole.state_dict())


def test_checkpoints_that_take_long_follow_no_more_epochs_than_they_are_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still but for epochs of 1 s and checkpoints of ``cost`` s."""
    now, saved = 0.0, list[int]()

    def save(cost: float) -> Callable[..., None]:
        def saving(folder: object, task_id: str, state: dict[str, Any]) -> None:
            nonlocal now
            now += cost
            saved.append(len(json.loads(state["history"])))

        return saving

    task = tiny_task()
    task = replace(task, training=task.training.for_epochs(24))
    monkeypatch.setattr("trainables.loop.time.monotonic", lambda: now)
    for cost, expected in ((0.0625, list(range(1, 25))), (0.5, [1, 11, 21, 24])):
        saved.clear()
        monkeypatch.setattr("trainables.loop.save_checkpoint", save(cost))
        training = NetworkTraining(task, tensors(), RunStore(tmp_path / str(cost)))
        while not training.finished:
            now += 1.0
            training.run_epoch()
        assert saved == expected


@pytest.mark.parametrize("options", [{"importance": True}, EVERYTHING], ids=["plain", "everything"])
def test_a_training_cut_off_within_an_epoch_is_the_same_bit_by_bit(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 steps an epoch; the checkpoint after the first 3 of the second is the last."""
    monkeypatch.setattr("trainables.loop._STEPS_PER_LOOK", 1)
    task = tiny_task(**options)
    whole = train(task, tmp_path / "whole")
    store = RunStore(tmp_path / "cut")
    training = NetworkTraining(task, tensors(), store, checkpoint_seconds=0.0)
    training.run_epoch()
    training.rehearse(3)
    again = NetworkTraining(task, tensors(), store)
    steps = 0

    def count(net: nn.Module, *_: object) -> None:
        nonlocal steps
        steps += net.training

    assert len(again.history) == 1
    hook = again.network.register_forward_pre_hook(count)
    again.run_epoch()
    hook.remove()
    assert steps == 1
    while not again.finished:
        again.run_epoch()
    assert facts(again.result()) == facts(whole.result())
    assert equal_states(again.state_dict(), whole.state_dict())


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:32],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: bytes(len(content)),
        flip_a_bit,
        lambda content: b"not a checkpoint at all",
    ],
    ids=["empty", "cut 20", "seal", "cut end", "half", "longer", "zeros", "bit", "text"],
)
def test_a_damaged_checkpoint_is_named_and_the_training_begins_anew(
    damage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = tiny_task(importance=True)
    whole = train(task, tmp_path / "whole")
    store = RunStore(tmp_path / "damaged")
    NetworkTraining(task, tensors(), store).run_epoch()
    file = Path(store.checkpoints.path(f"{task.id}.pt"))
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING, "hacscale"):
        training = NetworkTraining(task, tensors(), store)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{task.id}.pt is damaged" in caplog.text
    assert training.history == ()
    again = train(task, Path(store.location))
    assert facts(again.result()) == facts(whole.result())
    assert equal_states(again.state_dict(), whole.state_dict())


def test_a_checkpoint_of_another_task_is_never_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = RunStore(tmp_path)
    one, other = tiny_task(seed=1), tiny_task(seed=2)
    NetworkTraining(one, tensors(), store).run_epoch()
    assert NetworkTraining(other, tensors(), store).history == ()
    assert not caplog.records
    store.checkpoints.rename(f"{one.id}.pt", f"{other.id}.pt")
    assert NetworkTraining(other, tensors(), store).history == ()
    assert "of another training" in caplog.text


# Determinism -------------------------------------------------------------------------------------


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    rows = []
    for number, seed in enumerate([5, 5, 6]):
        task = tiny_task(**EVERYTHING, seed=seed)
        rows.append(facts(train(task, tmp_path / str(number)).result()))
        assert torch.equal(torch.get_rng_state(), state[0])
        assert np.array_equal(np.random.get_state()[1], state[1])
        torch.rand(3)
        state = torch.get_rng_state(), state[1]
    assert rows[0] == rows[1]
    assert rows[2].history[0].train_loss != rows[0].history[0].train_loss


# Failures ----------------------------------------------------------------------------------------


def poisoned() -> TensorData:
    """Pixels that normalise to infinity: the first loss is NaN."""
    source = dataclasses.replace(tiny_data(), mean=(float("inf"),) * 3)
    return TensorData.on(source, torch.device("cpu"))


@pytest.mark.parametrize(("lr", "data"), [(1e6, tensors), (1e30, tensors), (0.05, poisoned)])
def test_a_loss_that_is_not_finite_ends_the_training(lr: float, data: Any, tmp_path: Path) -> None:
    task = tiny_task(lr=lr, epochs=6, momentum=0.99, weight_decay=0.1)
    training = NetworkTraining(task, data(), RunStore(tmp_path))
    with pytest.raises(TrainingFailed, match=r"^the loss is not finite in epoch \d$"):
        while not training.finished:
            training.run_epoch()
    # The bad epoch is nowhere: neither in the history nor in a checkpoint.
    assert all(math.isfinite(epoch.train_loss + epoch.val_loss) for epoch in training.history)
    assert NetworkTraining(task, data(), RunStore(tmp_path)).history == training.history


def test_a_network_that_only_names_the_most_frequent_class_has_failed(tmp_path: Path) -> None:
    data = tensors()
    labels = torch.full_like(data.validation[1], 1)
    labels[:10] = 0
    # Lr is next to nothing, and the head always names one class.
    training = NetworkTraining(
        tiny_task(lr=1e-12),
        dataclasses.replace(data, validation=(data.validation[0], labels)),
        RunStore(tmp_path),
    )
    head = training.network.get_submodule("head")
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, 100.0, 0.0]))
    while not training.finished:
        training.run_epoch()
    assert training.history[-1].val_accuracy == 29 / 39
    with pytest.raises(TrainingFailed, match=r"most frequent class \(74\.4%\):"):
        training.result()


def test_data_of_another_run_and_too_few_images_are_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(tiny_data(), digest="0" * 16)
    with pytest.raises(UserError, match="not the one that the run began with"):
        NetworkTraining(tiny_task(), TensorData.on(other, torch.device("cpu")), RunStore(tmp_path))
    training = NetworkTraining(tiny_task(batch_size=102), tensors(), RunStore(tmp_path))
    with pytest.raises(UserError, match="lower batch_size to at most 101"):
        training.run_epoch()


# Weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("swa_share", [0.0, 0.5])
def test_kept_weights_give_the_accuracy_of_the_row(swa_share: float, tmp_path: Path) -> None:
    task = tiny_task(swa_share=swa_share, test=True, epochs=4)
    training = train(task, tmp_path)
    row = training.result()
    kept = load(save(training.state_dict()))
    graph = load_graph(task.spec.model, SIDE)
    net = graph.build(task.spec, seed=99)
    net.load_state_dict(kept)
    net.eval()
    source = tiny_data()
    for split, accuracy in (("validation", row.last.val_accuracy), ("test", row.test_accuracy)):
        part = getattr(source, split)
        x = to_batch(torch.from_numpy(part.images), SIDE, source.mean, source.std)
        right = net(x).argmax(1) == torch.from_numpy(part.labels)
        assert float(right.double().mean()) == accuracy
    assert set(kept) == set(residual(CLASSES).state_dict())


def test_kept_weights_are_a_copy(tmp_path: Path) -> None:
    training = NetworkTraining(tiny_task(), tensors(), RunStore(tmp_path))
    training.run_epoch()
    kept = training.state_dict()
    before = {name: tensor.clone() for name, tensor in kept.items()}
    training.run_epoch()
    assert equal_states(kept, before)
    assert not any(tensor.requires_grad for tensor in kept.values())


# Trials ------------------------------------------------------------------------------------------


def trial_on(directory: Path, data: Any = None) -> type[TrainingTrial]:
    """The trainable with its parameters filled in, as ``tune.with_parameters`` does it."""

    class Filled(TrainingTrial):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(
                config,
                data=data or tiny_data(),
                store=RunStore(directory),
                cpus=1,
                gpus=0.0,
                checkpoint_seconds=600.0,
            )

    return Filled


def config_of(task: TrainingTask) -> dict[str, Any]:
    return {"task": dataclasses.asdict(task)}


def test_a_trial_reports_every_epoch_and_writes_its_row(tmp_path: Path) -> None:
    task = tiny_task(importance=True)
    torch.set_num_threads(2)
    trial = trial_on(tmp_path / "trial")(config_of(task))
    assert torch.get_num_threads() == 1
    reports = [trial.step() for _ in range(3)]
    assert [report["done"] for report in reports] == [False, False, True]
    assert [report["status"] for report in reports] == ["running", "running", "done"]
    assert [report["epoch"] for report in reports] == [1, 2, 3]
    row = RunStore(tmp_path / "trial").ledger.find(task.id)
    assert row is not None
    assert (row.cpus, row.gpus) == (1, 0.0)
    alone = train(task, tmp_path / "alone").result()
    assert facts(row) == facts(dataclasses.replace(alone, cpus=1, gpus=0.0))
    for report, epoch in zip(reports, row.history, strict=True):
        for field in dataclasses.fields(epoch):
            assert report[field.name] == getattr(epoch, field.name)


def test_a_trial_that_is_killed_before_its_row_is_known_trains_nothing_again(
    tmp_path: Path,
) -> None:
    task, trial = tiny_task(), trial_on(tmp_path)
    killed = trial(config_of(task))
    *_, last = (killed.step() for _ in range(task.training.epochs))
    assert last["done"]
    again = trial(config_of(task)).step()
    assert len(again.pop("earlier")) == task.training.epochs - 1
    assert again == {name: value for name, value in last.items() if name != "earlier"}
    assert len(RunStore(tmp_path).epochs.read()) == task.training.epochs


def test_a_trial_goes_on_where_another_was_killed(tmp_path: Path) -> None:
    task = tiny_task(**EVERYTHING)
    trial = trial_on(tmp_path / "killed")
    for _ in range(task.training.epochs - 1):
        assert trial(config_of(task)).step()["status"] == "running"
    # Killed between the last checkpoint and the row.
    NetworkTraining(task, tensors(), RunStore(tmp_path / "killed")).run_epoch()
    report = trial(config_of(task)).step()
    assert (report["done"], report["epoch"]) == (True, 4)
    row = RunStore(tmp_path / "killed").ledger.find(task.id)
    assert row is not None
    whole = train(task, tmp_path / "whole").result()
    assert facts(row) == facts(dataclasses.replace(whole, cpus=1, gpus=0.0))


def test_a_broken_gpu_does_not_take_the_next_training_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for error, seconds in (
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), [60.0]),
        (RuntimeError("a shape of the user's"), []),
    ):
        slept.clear()

        def fail(_: NetworkTraining, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(NetworkTraining, "run_epoch", fail)
        with pytest.raises(type(error)):
            trial_on(tmp_path)(config_of(tiny_task())).step()
        assert slept == seconds


@pytest.mark.parametrize("lr", [1e30, 1e-12])
def test_failed_trainings_leave_failed_rows(lr: float, tmp_path: Path) -> None:
    """Diverged, or no better than naming the one class that the validation split has."""
    data = tiny_data()
    data.validation.labels[:] = 1
    task = tiny_task(lr=lr, epochs=1)
    report = trial_on(tmp_path, data)(config_of(task)).step()
    assert (report["done"], report["status"]) == (True, "failed")
    row = RunStore(tmp_path).ledger.find(task.id)
    assert row is not None
    assert row.status == "failed"
    assert row.error is not None
    assert "\n" not in row.error
    expected = "loss is not finite" if lr > 1 else "most frequent class (100.0%)"
    assert expected in row.error
    assert len(row.history) == (0 if lr > 1 else 1)
    assert report["epoch"] == len(row.history)


def test_one_actor_serves_many_trials_and_keeps_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[torch.device] = []
    on = TensorData.on
    monkeypatch.setattr(
        "trainables.trial.TensorData.on",
        lambda source, device: moves.append(device) or on(source, device),
    )
    tasks = [tiny_task(seed=seed, epochs=1) for seed in range(3)]
    trial = trial_on(tmp_path / "one")(config_of(tasks[0]))
    trial.step()
    for task in tasks[1:]:
        assert trial.reset_config(config_of(task))
        trial.step()
    assert len(moves) == 1
    for task in tasks:
        row = RunStore(tmp_path / "one").ledger.find(task.id)
        trial_on(tmp_path / "fresh")(config_of(task)).step()
        alone = RunStore(tmp_path / "fresh").ledger.find(task.id)
        assert row is not None
        assert alone is not None
        assert facts(row) == facts(alone)


def test_targets_that_a_function_writes_to_are_copies() -> None:
    """Those of a validation batch would be the data themselves, of all later epochs and trials."""
    data = tensors()
    before = data.validation[1].clone()
    _, targets = data.take(data.validation, slice(0, 4, 1))
    targets.fill_(77)
    assert torch.equal(data.validation[1], before)
    objective = Objective(
        loss=F.cross_entropy,
        plain_loss=lambda outputs, targets: targets.fill_(77).sum(),
        metric=lambda outputs, targets: targets,
    )
    assert objective.judge(torch.zeros(4, 2), before[:4])[1].equal(before[:4])


def test_the_next_trial_of_an_actor_finds_nothing_of_the_last(tmp_path: Path) -> None:
    """Not even until the collector comes by: how many share a GPU is measured without leftovers."""
    gc.collect()
    gc.disable()
    try:
        trial = trial_on(tmp_path)(config_of(tiny_task(epochs=1)))
        trial.step()
        assert trial._training is not None
        network = weakref.ref(trial._training.network)
        assert network() is not None
        trial.reset_config(config_of(tiny_task(seed=1, epochs=1)))
        assert network() is None
    finally:
        gc.enable()


# GPU ---------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_trains_as_the_cpu_does(precision: str, tmp_path: Path) -> None:
    task = tiny_task(**{**EVERYTHING, "model": "tiny_training:residual"}, precision=precision)
    data = TensorData.on(tiny_data(), torch.device("cuda"))
    assert data.train[0].device.type == "cuda"
    assert data.train[0].dtype == torch.uint8
    training = train(task, tmp_path / "gpu", data)
    weight = training.network.get_submodule("stem").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.dtype == torch.float32
    alone = train(dataclasses.replace(task), tmp_path / "cpu")
    tolerance = 0.02 if precision == "float32" else 0.1  # TF32 keeps ten bits
    for ours, theirs in zip(training.history, alone.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=tolerance)
        assert ours.val_loss == pytest.approx(theirs.val_loss, rel=tolerance)
    state = training.state_dict()
    assert all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in state.values())
    net = load_graph(task.spec.model, SIDE).build(task.spec, 0)
    assert isinstance(net, nn.Module)
    net.load_state_dict(state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_training_moves_between_gpu_and_cpu(tmp_path: Path) -> None:
    task = tiny_task(importance=True, swa_share=0.5, epochs=2)
    data = TensorData.on(tiny_data(), torch.device("cuda"))
    NetworkTraining(task, data, RunStore(tmp_path)).run_epoch()
    moved = NetworkTraining(task, tensors(), RunStore(tmp_path))
    assert len(moved.history) == 1
    moved.run_epoch()
    assert math.isfinite(moved.result().last.val_loss)
