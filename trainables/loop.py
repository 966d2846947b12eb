"""The training of one network, epoch by epoch, resumable after each."""

import io
import json
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from engine.errors import TrainingFailed, UserError
from engine.graph import NetworkGraph, load_graph
from engine.importance import ImportanceMeter
from engine.rows import Epoch, Row, TrainingTask
from engine.store import RunStore, write_atomic
from trainables.augment import augment, mixup, to_batch
from trainables.data import batches
from trainables.schedule import learning_rate
from trainables.sync_norm import synchronise_norms
from trainables.tensors import TensorData

log = logging.getLogger("hacscale")

_EVALUATION_BATCH = 512


class NetworkTraining:
    """One `TrainingTask` under way. After every epoch it can be dropped and taken up again.

    Everything random is drawn from generators seeded with (seed, epoch), so an epoch that is
    repeated after an interruption repeats itself.

    Args:
        task: what to train.
        data: the images, on the device to train on.
        store: of the run; its checkpoints are read and written.
        rank, world: this worker and the number of workers that share every batch; with several,
            torch.distributed must have been initialised.

    Raises:
        UserError: the data set is not the task's, or smaller than a batch.
    """

    def __init__(
        self,
        task: TrainingTask,
        data: TensorData,
        store: RunStore,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if data.source.digest != task.data:
            raise UserError("the data set is not the one that the run began with; start a new run")
        self.task = task
        self._data = data
        self._store = store
        self._rank, self._world = rank, world
        self._device = data.device
        graph = load_graph(task.spec.model, task.spec.resolution)
        self.network: nn.Module = graph.build(task.spec, task.seed).to(self._device)
        if self._device.type == "cuda":
            self.network = self.network.to(memory_format=torch.channels_last)
        self._forward = self.network
        if world > 1:
            synchronise_norms(self.network, self._device)
            self._forward = DistributedDataParallel(self.network)
        training = task.training
        self._optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=training.lr,
            momentum=training.momentum,
            nesterov=training.nesterov,
            weight_decay=training.weight_decay,
        )
        self._average = AveragedModel(self.network) if training.swa_share > 0 else None
        self._meter = _meter(graph, self.network) if task.importance else None
        self.history: tuple[Epoch, ...] = ()
        self._load_checkpoint()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.history) >= self.task.training.epochs

    def run_epoch(self) -> Epoch:
        """Trains one epoch, validates, writes the checkpoint and returns the epoch's record.

        Raises:
            TrainingFailed: the loss is not finite.
        """
        began = time.perf_counter()
        number = len(self.history)
        train_loss = self._train(number)
        if self._average is not None and self._averages(number):
            self._average.update_parameters(self.network)
        judged = self._judged_network(number + 1)
        val_loss, val_accuracy = self._evaluate(judged, self._data.validation)
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise TrainingFailed(f"the loss is not finite in epoch {number + 1}")
        epoch = Epoch(
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=time.perf_counter() - began,
        )
        self.history = (*self.history, epoch)
        if self._rank == 0:
            self._save_checkpoint()
        return epoch

    def result(self) -> Row:
        """Returns the row of a finished training, and judges it on the test split if asked to.

        Raises:
            TrainingFailed: no epoch was better than always naming the most frequent class.
        """
        labels = self._data.validation[1]
        majority = float(labels.bincount().max()) / len(labels)
        if max(epoch.val_accuracy for epoch in self.history) <= majority:
            raise TrainingFailed(
                f"no epoch was better than naming the most frequent class ({majority:.1%})"
            )
        test_accuracy = None
        if self.task.test:
            judged = self._judged_network(len(self.history))
            test_accuracy = self._evaluate(judged, self._data.test)[1]
        return Row(
            task=self.task,
            status="done",
            history=self.history,
            importance=self._meter.means() if self._meter else None,
            test_accuracy=test_accuracy,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the weights that are judged and kept, on the CPU, under their original names."""
        state = self._judged_network(len(self.history)).state_dict()
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def discard_checkpoint(self) -> None:
        """Removes the checkpoint of a training whose row is written."""
        self._checkpoint.unlink(missing_ok=True)

    # One epoch -------------------------------------------------------------------------------

    def _train(self, number: int) -> float:
        training = self.task.training
        images, labels = self._data.train
        self._forward.train()
        generator = _generator(self.task.seed, number, self._rank)
        steps = len(labels) // training.batch_size
        total = torch.zeros((), device=self._device)
        rows = batches(
            len(labels),
            training.batch_size,
            self.task.seed,
            number,
            rank=self._rank,
            world=self._world,
        )
        for step, chosen in enumerate(rows):
            for parameters in self._optimizer.param_groups:
                parameters["lr"] = learning_rate(training, number + (step + 0.5) / steps)
            index = chosen.to(self._device)
            batch = augment(images[index], training.augment, generator)
            batch = self._to_input(batch)
            target = labels[index]
            if training.mixup > 0:
                batch, target = mixup(
                    batch, target, self._data.source.classes, training.mixup, generator
                )
            with self._autocast():
                logits = self._forward(batch)
                loss = F.cross_entropy(logits, target, label_smoothing=training.label_smoothing)
            # Data parallel averages over workers; their parts of a batch may differ by an image.
            part = len(index) * self._world / training.batch_size
            self._optimizer.zero_grad(set_to_none=True)
            (loss * part).backward()
            if self._meter is not None:
                self._meter.update()
            self._optimizer.step()
            total += loss.detach() * part
        return float(self._summed(total) / (steps * self._world))

    @torch.no_grad()
    def _evaluate(self, network: nn.Module, split: tuple[Tensor, Tensor]) -> tuple[float, float]:
        """Returns mean cross-entropy and accuracy; the workers share the images."""
        network.eval()
        images, labels = (tensor[self._rank :: self._world] for tensor in split)
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        for first in range(0, len(labels), _EVALUATION_BATCH):
            target = labels[first : first + _EVALUATION_BATCH]
            with self._autocast():
                logits = network(self._to_input(images[first : first + _EVALUATION_BATCH]))
            sums[0] += F.cross_entropy(logits.float(), target, reduction="sum")
            sums[1] += (logits.argmax(1) == target).sum()
        loss, correct = (self._summed(sums) / len(split[1])).tolist()
        return loss, correct

    def _to_input(self, images: Tensor) -> Tensor:
        source = self._data.source
        batch = to_batch(images, self.task.spec.resolution, source.mean, source.std)
        if self._device.type == "cuda":
            return batch.contiguous(memory_format=torch.channels_last)
        return batch

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

    def _averages(self, number: int) -> bool:
        training = self.task.training
        return number >= training.epochs * (1.0 - training.swa_share)

    def _judged_network(self, epochs: int) -> nn.Module:
        """The averaged weights once training is over and there are any, else the present ones."""
        if self._average is None or epochs < self.task.training.epochs:
            return self.network
        averaged = self._average.module
        self._refresh_norms(averaged)
        return averaged

    @torch.no_grad()
    def _refresh_norms(self, network: nn.Module) -> None:
        """Batch statistics belong to weights: those of averaged weights are gathered anew."""
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        network.train()
        images, labels = self._data.train
        size = self.task.training.batch_size
        for index in batches(
            len(labels), size, self.task.seed, 0, rank=self._rank, world=self._world
        ):
            with self._autocast():
                network(self._to_input(images[index.to(self._device)]))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    # Checkpoints -----------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self._store.checkpoints / f"{self.task.id}.pt"

    def _save_checkpoint(self) -> None:
        state: dict[str, Any] = {
            "history": json.dumps([asdict(epoch) for epoch in self.history]),
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "meter": self._meter.state() if self._meter else None,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self._checkpoint, buffer.getvalue())
        self._store.record_epoch(self.task.id, len(self.history))

    def _load_checkpoint(self) -> None:
        state = self._read_checkpoint()
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._meter is not None:
            self._meter.load_state(state["meter"])
        self.history = tuple(Epoch(**epoch) for epoch in json.loads(state["history"]))

    def _read_checkpoint(self) -> dict[str, Any] | None:
        if not self._checkpoint.exists():
            return None
        try:
            return torch.load(self._checkpoint, map_location=self._device, weights_only=True)
        except Exception as error:  # a damaged file makes torch.load raise nearly anything
            log.warning("%s is damaged (%s); training from the start", self._checkpoint, error)
            return None


def _meter(graph: NetworkGraph, network: nn.Module) -> ImportanceMeter:
    return ImportanceMeter(network, {group.name: group.writers for group in graph.groups})


def _generator(seed: int, epoch: int, rank: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
