"""A whole search in a second: the real driver, stages, store and searcher over made-up trainings.

Only what Ray does is replaced: trainings are done one after the other in this process, each epoch
an entry of the log and a checkpoint, and what comes of them is a formula of the task. The report,
whose drawing takes longer than the rest, is a word.
"""

import math
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from ray import tune
from ray.tune.search import Searcher
from rich.console import Console

import cluster.dataset
import cluster.device
import cluster.driver
import cluster.final
import cluster.trainer
import cluster.trials
from cluster.driver import run_search
from cluster.session import Session
from cluster.trials import TrialRunner
from engine.codec import canonical, decode, jsonable
from engine.ledger import Ledger
from engine.recipe import Recipe, override
from engine.recipes import RECIPES
from engine.rows import Epoch, Row, TrainingTask
from engine.spec import NetworkSpec
from engine.store import RunStore
from engine.trained_weights import has_weights, weights_name, write_weights
from trainables.checkpoint import checkpoint_name, load_checkpoint, save_checkpoint
from trainables.data import load_data

PART = 3
"""Rows that are worth a part of the ledger here."""


def quick_recipe() -> Recipe:
    """All stages, as small as they can be."""
    return override(
        RECIPES["digits-vgg11"](),
        [
            "device.runtime=synthetic", "width=0.0625", "data.train_images=200",
            "train.epochs=3", "alpha.training.epochs=2", "sample.training.epochs=2",
            "alpha.trials=4", "alpha.batch=2", "alpha.repeats=1",
            "sample.networks=4", "sample.block=4", "profile.networks=8", "profile.held_out=2",
            "choose.repeats=1",
        ],
    )  # fmt: skip


_LOADED = cache(load_data)
"""Every run that goes on would read and resize the digits again."""


def train(task: TrainingTask, store: RunStore) -> Row:
    """Trains nothing, as far as it is not done yet."""
    if task.start is not None:
        assert has_weights(store.weights, weights_name(task.start.row))
    state = load_checkpoint(store.checkpoints, task.id, torch.device("cpu"))
    for number in range(state["epochs"] if state else 0, task.training.epochs):
        store.epochs.note(task.id, number + 1)
        save_checkpoint(store.checkpoints, task.id, {"epochs": number + 1})
    # Any number in (0, 1) that only the task decides.
    accuracy = (int(task.id, 16) % 9973 + 1) / 10_000
    epoch = Epoch(train_loss=1.0, val_loss=2 - accuracy, val_accuracy=accuracy, seconds=1.0)

    def importance(spec: NetworkSpec) -> dict[str, float]:
        return {
            name: (1 + 0.01 * accuracy) * math.exp(-0.1 * index) * width**-1.2
            for index, (name, width) in enumerate(spec.width_of.items())
        }

    row = Row(
        task=task,
        status="done",
        history=(epoch,) * task.training.epochs,
        importance=importance(task.spec) if task.importance else None,
        sampled=tuple(map(importance, task.sampling.networks)) if task.sampling else None,
        test_accuracy=accuracy if task.test else None,
        filter_norms={
            name: tuple((index + k) / width for k in range(width))
            for index, (name, width) in enumerate(task.spec.width_of.items())
        }
        if task.filter_norms
        else None,
    )
    if task.test or task.keep_weights:
        write_weights(store.weights, weights_name(task.id), {"x": torch.full((4,), accuracy)})
    store.ledger.add(row)
    store.checkpoints.delete(checkpoint_name(task.id))
    return row


def _fit(self: TrialRunner, stage: str, config: tune.TuneConfig) -> list[TrainingTask]:
    searcher = config.search_alg
    assert isinstance(searcher, Searcher)
    for number in count():
        answer = searcher.suggest(f"t{number}")
        if answer == Searcher.FINISHED:
            return []
        assert isinstance(answer, dict)
        task = decode(TrainingTask, canonical(answer["task"]), "a task")
        train(task, self.store)
        searcher.on_trial_complete(f"t{number}")
        self.store.ledger.find(task.id)
        self.store.ledger.compact()
    raise AssertionError


@contextmanager
def without_ray() -> Generator[None]:
    """Replaces what Ray does."""
    worker = SimpleNamespace(remote=cluster.device._measure)
    with (
        mock.patch.object(TrialRunner, "_fit", _fit),
        mock.patch.object(cluster.trials.ray, "cluster_resources", lambda: {"CPU": 2.0}),
        mock.patch.object(Session, "start", lambda _: None),
        mock.patch.object(Session, "require", lambda *_, **__: None),
        mock.patch.object(cluster.final, "_train", lambda task, store, *_: train(task, store)),
        mock.patch.object(cluster.device, "_in_worker", lambda _: worker),
        mock.patch.object(cluster.device, "_tell_if_it_waits", lambda *_: None),
        mock.patch.object(cluster.device, "result_of", lambda value: value),
        mock.patch.object(cluster.trainer, "ray", SimpleNamespace(put=lambda value: value)),
        mock.patch.object(cluster.trainer, "check_shared", lambda *_: None),
        mock.patch.object(cluster.dataset, "load_data", _LOADED),
        mock.patch.object(cluster.driver, "render_report", lambda _: "report"),
        mock.patch.object(Ledger.compact, "__defaults__", (PART,)),
    ):
        yield


def drive(location: str | Path, recipe: Recipe) -> dict[str, Any]:
    """Runs the search, or the rest of it; returns what decides: α, widths, predictors, limits."""
    with without_ray():
        record = run_search(recipe, location, "quick", console=Console(quiet=True))
    return jsonable(record.result)


def epochs_trained(store: RunStore) -> Counter[tuple[str, int]]:
    """How often every epoch of every task was trained."""
    return Counter((epoch.task, epoch.number) for epoch in store.epochs.read())
