"""A training as a Ray Tune trial whose actor serves one trial after another."""

import gc
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from ray import tune

from engine.bench import is_out_of_memory
from engine.codec import canonical, decode
from engine.errors import TrainingFailed, UserError, first_line
from engine.rows import NO_MEMORY, Epoch, Row, TrainingTask
from engine.store import RunStore
from engine.trained_weights import weights_name, write_weights
from trainables.data import ImageData
from trainables.device import device_for, use_cpus
from trainables.loop import NetworkTraining
from trainables.tensors import TensorData

_FAULT_SECONDS = 60.0
"""A broken GPU waits so long: it would be free at once, and take one training after another."""


class TrainingTrial(tune.Trainable):
    """Trains ``config["task"]``, one epoch per step, and writes the row itself when it is over.

    The run store holds checkpoints and rows, so Tune's own checkpoints are not used: a trial that
    starts again, in this run or a later one, finds its last epoch there. The driver removes the
    checkpoint once it knows of the row: a worker that dies in between trains nothing again.
    """

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride] - tune.with_parameters fills in
        self,
        config: dict[str, Any],
        *,
        data: ImageData,
        store: RunStore,
        cpus: int,
        gpus: float,
        checkpoint_seconds: float,
    ) -> None:
        """Takes up the training of ``config["task"]``, where it was left if it was begun."""
        use_cpus(cpus)
        self._data, self._store = data, store
        self._cpus, self._gpus = cpus, gpus
        self._checkpoint_seconds = checkpoint_seconds
        self._task = decode(TrainingTask, canonical(config["task"]), "the task of a trial")
        self._training: NetworkTraining | None = None
        self._reported = 0

    def step(self) -> dict[str, Any]:
        """Trains one epoch; reports it, and whether the training is over.

        A training that runs out of GPU memory is over without a row: with `NO_MEMORY` as its
        status it is the driver's to give it more room. What only the user can mend is reported as
        well, since Tune would try again what is raised.
        """
        try:
            return self._step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                if isinstance(error, torch.AcceleratorError):
                    time.sleep(_FAULT_SECONDS)
                raise
            said = first_line(error)
        except UserError as error:
            return {"done": True, "status": "refused", "epoch": 0, "user_error": str(error)}
        # Not before the error is gone, whose traceback holds all that the training had.
        self._leave_training()
        return {"done": True, "status": NO_MEMORY, "epoch": 0, "said": said}

    def _step(self) -> dict[str, Any]:
        if not hasattr(self, "_tensors"):
            self._tensors = TensorData.on(self._data, self.device())
        if self._training is None:
            self._training = NetworkTraining(
                self._task,
                self._tensors,
                self._store,
                checkpoint_seconds=self._checkpoint_seconds,
            )
        training = self._training
        try:
            if not training.finished:
                training.run_epoch()
            if not training.finished:
                return self._report(training.history, "running")
            row = training.result()
        except TrainingFailed as error:
            row = Row(
                task=self._task,
                status="failed",
                history=training.history,
                error=str(error),
            )
        if row.status == "done" and self._task.keep_weights:
            write_weights(self._store.weights, weights_name(self._task.id), training.state_dict())
        self._store.ledger.add(replace(row, cpus=self._cpus, gpus=self._gpus))
        if not row.history:
            return {"done": True, "status": row.status, "epoch": 0}
        return self._report(row.history, row.status)

    def _report(self, history: Sequence[Epoch], status: str) -> dict[str, Any]:
        """The last epoch, and those before it that an earlier run trained."""
        earlier = [asdict(epoch) for epoch in history[self._reported : -1]]
        self._reported = len(history)
        return {
            "done": status != "running",
            "status": status,
            "epoch": len(history),
            "earlier": earlier,
            **asdict(history[-1]),
        }

    def _leave_training(self) -> None:
        """Frees the memory of a training: its network refers to itself (`torch.fx`)."""
        self._training = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def device(self) -> torch.device:
        """Where it trains; see `trainables.device.device_for`."""
        return device_for(self._gpus)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes up another trial's training on the same worker, whose data stays."""
        self._leave_training()
        self.setup(new_config)  # pyright: ignore[reportCallIssue]
        return True
