"""The training of one network, epoch by epoch, resumable after each and within long ones.

Epochs that end faster than a checkpoint is worth share one.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from engine.errors import TrainingFailed, UserError
from engine.filter_norms import filter_norms
from engine.graph import NetworkGraph, load_graph
from engine.importance import ImportanceMeter
from engine.rows import Epoch, Row, TrainingTask
from engine.store import RunStore
from trainables.augment import augment, mixup, to_batch
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.data import batches, part_of
from trainables.device import check_precision
from trainables.objective import make_objective
from trainables.schedule import learning_rate
from trainables.shrinking import make_shrinking
from trainables.slimmable import SharedNetworks
from trainables.start import initial_network
from trainables.sync_norm import synchronise_norms
from trainables.tensors import TensorData

_SAVING_SHARE = 0.05
"""Of the time of a training, at the most, for checkpoints after epochs."""
_QUICK_S = 0.1
"""A checkpoint that is written in so many seconds follows every epoch all the same."""
_STEPS_PER_LOOK = 16
"""Workers agree only so often on whether a checkpoint is due: that waits for the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """How far an epoch has come.

    Attributes:
        steps: that are done.
        loss: sum of their losses, each the mean over the batch.
        seconds: that they took.
        generator: state of what draws the augmentation; None at the start.
    """

    steps: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    generator: Tensor | None = None


class NetworkTraining:
    """One `TrainingTask` under way. It can be dropped at any time and taken up again.

    Everything random is drawn from generators seeded with (seed, epoch), so an epoch that is
    repeated after an interruption repeats itself. A checkpoint within an epoch holds the state of
    the one that goes through it, and dropout has a seed for every step: what follows is what would
    have followed.

    The number of workers changes nothing but the order in which floats are summed: order and
    augmentation are those of the whole batch, and so are the statistics of batch norm. Only
    dropout, in networks that have it, drops other activations.

    Args:
        task: what to train.
        data: the images, on the device to train on.
        store: of the run; its checkpoints are read and written.
        rank, world: this worker and the number of workers that share every batch; with several,
            torch.distributed must have been initialised.
        checkpoint_seconds: an epoch writes a checkpoint within itself when the last one is older.

    Raises:
        UserError: the data set is not the task's, the device cannot train in its precision, or the
            workers do not see the same checkpoint.
    """

    def __init__(
        self,
        task: TrainingTask,
        data: TensorData,
        store: RunStore,
        rank: int = 0,
        world: int = 1,
        checkpoint_seconds: float = math.inf,
    ) -> None:
        if data.source.digest != task.data:
            raise UserError("the data set is not the one that the run began with; start a new run")
        check_precision(task.training.precision, data.device)
        self.task = task
        self._data = data
        self._store = store
        self._rank, self._world = rank, world
        self._part = part_of(task.training.batch_size, rank, world)
        self._checkpoint_seconds = checkpoint_seconds
        self._saved_at, self._save_seconds = time.monotonic(), 0.0
        self._device = data.device
        graph = load_graph(task.spec.model, task.spec.resolution)
        network = initial_network(task, graph, store).to(self._device)
        # The faster layout for training, on GPUs and on CPUs.
        self.network = network.to(memory_format=torch.channels_last)
        self._forward = self.network
        if world > 1:
            synchronise_norms(self.network, self._device)
            self._forward = DistributedDataParallel(self.network)
        training = task.training
        self._objective = make_objective(task)
        self._optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=training.lr,
            momentum=training.momentum,
            nesterov=training.nesterov,
            weight_decay=training.weight_decay,
        )
        self._average = AveragedModel(self.network) if training.swa_share > 0 else None
        self._meter = _meter(graph, self.network) if task.importance else None
        self._shared: SharedNetworks | None = None
        if task.sampling is not None:
            self._shared = SharedNetworks(task, task.sampling, graph, self.network)
            self._forward = self._meter = self._shared
        steps = len(data.train[1]) // training.batch_size
        self._shrinking = make_shrinking(task, graph, self.network, steps)
        self.history: tuple[Epoch, ...] = ()
        self._begun = _Begun()
        self._load_checkpoint()
        if world > 1:
            self._check_workers()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.history) >= self.task.training.epochs

    def run_epoch(self) -> Epoch:
        """Trains one epoch, validates, writes a checkpoint and returns the epoch's record.

        A checkpoint that takes long to write does not follow every epoch (`_SAVING_SHARE`).

        Raises:
            TrainingFailed: the loss is not finite.
            UserError: there are fewer images than a batch.
        """
        began = time.perf_counter() - self._begun.seconds
        number = len(self.history)
        # Dropout draws from the global generators: they are lent a state, then get their own back.
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            train_loss = self._train(number)
        self._begun = _Begun()
        if not math.isfinite(train_loss):
            raise TrainingFailed(f"the loss is not finite in epoch {number + 1}")
        if self._average is not None:
            self._update_average(self._average, number)
        judged = self._judged(number + 1)
        val_loss, val_accuracy = self._evaluate(judged, self._data.validation)
        if not math.isfinite(val_loss):
            raise TrainingFailed(f"the validation loss is not finite in epoch {number + 1}")
        epoch = Epoch(
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=time.perf_counter() - began,
        )
        self.history = (*self.history, epoch)
        if self.finished or self._is_worth_a_checkpoint():
            self._save_checkpoint(_Begun())
        if self._rank == 0:
            self._store.epochs.note(self.task.id, len(self.history))
        return epoch

    def rehearse(self, steps: int) -> None:
        """Trains the first steps of an epoch to see what they take; the training is spoilt."""
        self._train(len(self.history), steps)

    def result(self) -> Row:
        """Returns the row of a finished training, and judges it on the test split if asked to.

        Raises:
            TrainingFailed: no epoch was better than always naming the most frequent class.
        """
        # What is cut down from a trained network is judged by whoever asked, however bad it is now.
        cut_down = self.task.start is not None or self.task.shrink is not None
        untrained = self._shared is not None and not self._shared.learns
        if self.task.metric == "accuracy" and not (cut_down or untrained):
            self._check_learning()
        test_accuracy = None
        if self.task.test:
            judged = self._judged(len(self.history))
            test_accuracy = self._evaluate(judged, self._data.test)[1]
        return Row(
            task=self.task,
            status="done",
            history=self.history,
            importance=self._meter.means() if isinstance(self._meter, ImportanceMeter) else None,
            test_accuracy=test_accuracy,
            sampled=self._shared.means() if self._shared is not None else None,
            path=self._shrinking.path if self._shrinking else None,
            filter_norms=self._filter_norms(),
        )

    def _check_learning(self) -> None:
        labels = self._data.validation[1]
        majority = float(labels.bincount().max()) / len(labels)
        if max(epoch.val_accuracy for epoch in self.history) <= majority:
            raise TrainingFailed(
                f"no epoch was better than naming the most frequent class ({majority:.1%}): "
                "give such trainings more epochs, or a task.metric for classes of unequal size"
            )

    def _filter_norms(self) -> dict[str, tuple[float, ...]] | None:
        if not self.task.filter_norms:
            return None
        graph = load_graph(self.task.spec.model, self.task.spec.resolution)
        norms = filter_norms(self.state_dict(), graph, self.task.spec)
        return {group: tuple(norm.tolist()) for group, norm in norms.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Returns a copy of the weights that are judged, on the CPU, under their original names."""
        state = self._judged(len(self.history)).state_dict()
        return {
            name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in state.items()
        }

    # One epoch -------------------------------------------------------------------------------

    def _train(self, number: int, limit: int | None = None) -> float:
        training, begun = self.task.training, self._begun
        self._forward.train()
        generator = torch.Generator().manual_seed(_seed(self.task.seed, number))
        if begun.generator is not None:
            generator.set_state(begun.generator)
        steps = len(self._data.train[1]) // training.batch_size
        # The mean over the workers' gradients is that over the batch although parts differ in size.
        weight = len(self._part) * self._world / training.batch_size
        began = time.perf_counter() - begun.seconds
        before = begun.loss * self._world if self._rank == 0 else 0.0
        total = torch.tensor(before, device=self._device)
        parts = islice(enumerate(self._parts(number)), begun.steps, limit)
        for step, chosen in parts:
            torch.manual_seed(_seed(self.task.seed, number, 1 + self._rank, step))
            for parameters in self._optimizer.param_groups:
                parameters["lr"] = learning_rate(training, number + (step + 0.5) / steps)
            batch, target = self._make_input(*self._data.take(self._data.train, chosen), generator)
            with self._autocast():
                logits = self._forward(batch)
            loss = self._objective.loss(logits.float(), target) * weight
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self._meter is not None:
                self._meter.update()
            if self._shrinking is not None:
                self._shrinking.before_step()
            self._optimizer.step()
            if self._shrinking is not None:
                self._shrinking.after_step()
            total += loss.detach()
            if self._is_due(step):
                loss_so_far = float(self._summed(total.clone())) / self._world
                self._save_checkpoint(
                    _Begun(
                        steps=step + 1,
                        loss=loss_so_far,
                        seconds=time.perf_counter() - began,
                        generator=generator.get_state(),
                    )
                )
        return float(self._summed(total) / (steps * self._world))

    def _parts(self, epoch: int) -> Iterator[Tensor]:
        """Rows of each batch: the part of this worker, and with mixup the one row after it."""
        parts = self._batches(epoch, self._rank)
        if not self.task.training.mixup:
            return parts
        following = self._batches(epoch, (self._rank + 1) % self._world)
        return (torch.cat([x, y[:1]]) for x, y in zip(parts, following, strict=True))

    def _batches(self, epoch: int, rank: int) -> Iterator[Tensor]:
        size = self.task.training.batch_size
        count = len(self._data.train[1])
        return batches(count, size, self.task.seed, epoch, rank=rank, world=self._world)

    def _make_input(
        self, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """What the network sees of `_parts`: augmented, at its resolution, mixed."""
        training = self.task.training
        part = len(self._part)
        rows = torch.arange(self._part.start, self._part.start + len(labels))
        rows %= training.batch_size
        changed = augment(images, training.augment, generator, rows, training.batch_size)
        batch = self._to_input(changed)
        if not training.mixup:
            return batch, labels
        classes = self._data.source.classes
        mixed, shares = mixup(batch, labels, classes, training.mixup, generator)
        return mixed[:part], shares[:part]

    @torch.no_grad()
    def _evaluate(self, network: nn.Module, split: tuple[Tensor, Tensor]) -> tuple[float, float]:
        """Returns mean loss and score (accuracy); the workers share the images."""
        network.eval()
        mine = range(self._rank, len(split[1]), self._world)
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        # What fits while training fits here.
        size = self.task.training.batch_size // self._world
        for first in range(0, len(mine), size):
            part = mine[first : first + size]
            images, target = self._data.take(split, slice(part.start, part.stop, part.step))
            with self._autocast():
                logits = network(self._to_input(images))
            loss, scores = self._objective.judge(logits.float(), target)
            sums[0] += loss * len(target)
            sums[1] += scores.sum()
        loss, correct = (self._summed(sums) / len(split[1])).tolist()
        return loss, correct

    def _to_input(self, images: Tensor) -> Tensor:
        source = self._data.source
        batch = to_batch(images, self.task.spec.resolution, source.mean, source.std)
        return batch.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type,
            dtype=torch.bfloat16,
            enabled=self.task.training.precision == "bfloat16",
        )

    def _summed(self, value: Tensor) -> Tensor:
        if self._world > 1:
            torch.distributed.all_reduce(value)
        return value

    # Weight averaging ------------------------------------------------------------------------

    def _update_average(self, average: AveragedModel, number: int) -> None:
        training = self.task.training
        averaged = max(1, round(training.epochs * training.swa_share))
        if number >= training.epochs - averaged:
            average.update_parameters(self.network)
        if number == training.epochs - 1:
            self._refresh_norms(average.module)

    def _judged(self, epochs: int) -> nn.Module:
        """The network with averaged weights once training is over, else with the present ones."""
        if self._shared is not None:
            return self._shared
        if self._average is None or epochs < self.task.training.epochs:
            return self.network
        return self._average.module

    @torch.no_grad()
    def _refresh_norms(self, network: nn.Module) -> None:
        """Batch statistics belong to weights: those of averaged weights are gathered anew."""
        norms = [
            module
            for module in network.modules()
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm)
        ]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        network.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        for chosen in self._batches(0, self._rank):
            with self._autocast():
                network(self._to_input(self._data.take(self._data.train, chosen)[0]))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    # Checkpoints -----------------------------------------------------------------------------

    def _is_due(self, step: int) -> bool:
        """Whether this step ends with a checkpoint; all workers say the same."""
        if math.isinf(self._checkpoint_seconds) or (step + 1) % _STEPS_PER_LOOK:
            return False
        late = time.monotonic() - self._saved_at >= self._checkpoint_seconds
        if self._world == 1:
            return late
        first_says = torch.tensor(float(late and self._rank == 0), device=self._device)
        return bool(self._summed(first_says))

    def _is_worth_a_checkpoint(self) -> bool:
        """Whether the last one is old enough, for what it took to write."""
        if self._save_seconds <= _QUICK_S:
            return True
        worth = min(self._save_seconds / _SAVING_SHARE, self._checkpoint_seconds)
        return time.monotonic() - self._saved_at >= worth

    def _save_checkpoint(self, begun: _Begun) -> None:
        began = self._saved_at = time.monotonic()
        if self._rank != 0:
            return
        state = {
            "begun": asdict(begun),
            "history": json.dumps([asdict(epoch) for epoch in self.history]),
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "meter": self._meter.state() if self._meter else None,
            "shrinking": self._shrinking.state() if self._shrinking else None,
        }
        save_checkpoint(self._store.checkpoints, self.task.id, state)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began

    def _load_checkpoint(self) -> None:
        state = load_checkpoint(self._store.checkpoints, self.task.id, self._device)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._meter is not None:
            self._meter.load_state(state["meter"])
        if self._shrinking is not None:
            self._shrinking.load_state(state["shrinking"])
        self.history = tuple(Epoch(**epoch) for epoch in json.loads(state["history"]))
        begun = _Begun(**state["begun"])
        # The state of a generator stays on the CPU, whatever device the rest goes to.
        if begun.generator is not None:
            begun = replace(begun, generator=begun.generator.cpu())
        self._begun = begun

    def _check_workers(self) -> None:
        """Workers that begin at different steps would wait for one another for ever."""
        done = len(self.history) << 32 | self._begun.steps
        extremes = torch.tensor([done, -done], device=self._device)
        torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
        most, least = int(extremes[0]), -int(extremes[1])
        if most != least:
            raise UserError(
                f"the workers find checkpoints of {least >> 32} and of {most >> 32} epochs in "
                f"{self._store.checkpoints}; give a --runs-dir that all machines share"
            )


def _meter(graph: NetworkGraph, network: nn.Module) -> ImportanceMeter:
    return ImportanceMeter(network, {group.name: group.writers for group in graph.groups})


def _seed(*entropy: int) -> int:
    # Zeros at the end are no entropy: (s, e) and (s, e, 0) give the same seed.
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1
