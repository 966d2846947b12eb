"""The sample stage stops once every exponent is known, decided by the rows alone."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cluster.progress import Progress
from cluster.search import Search
from cluster.session import Session
from cluster.stages.sample import sample_stage
from engine.limits import Limits
from engine.predictors import are_narrow, b_intervals, fit_predictors
from engine.recipe import Recipe, Sample
from engine.results import DataFacts, SampleResult
from engine.rows import Cheap, Epoch, Row, TrainingTask
from engine.spec import NetworkSpec
from engine.store import RunStore
from engine.training import FAST

FACTS = DataFacts(
    name="none",
    digest="0" * 16,
    classes=10,
    channels=1,
    train_images=1000,
    validation_images=100,
    test_images=100,
    mean=(0.5,),
    std=(0.5,),
)


class Trainer:
    """In place of trials: rows with b = −1.3 and noise that belongs to the task."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self.trained: list[str] = []

    def run_tasks(self, stage: str, tasks: Sequence[TrainingTask]) -> None:
        for task in tasks:
            if self._store.ledger.find(task.id) is None:
                self.trained.append(task.id)
                self._store.ledger.add(row_of(task))


def row_of(task: TrainingTask) -> Row:
    rng = random.Random(task.id)
    epoch = Epoch(train_loss=1.0, val_loss=1.0, val_accuracy=0.5, seconds=1.0)

    def importance(spec: NetworkSpec) -> dict[str, float]:
        return {g: 1e-5 * w**-1.3 * math.exp(rng.gauss(0, 0.2)) for g, w in spec.widths}

    return Row(
        task=task,
        status="done",
        history=(epoch,),
        importance=importance(task.spec) if task.importance else None,
        sampled=tuple(map(importance, task.sampling.networks)) if task.sampling else None,
    )


def sample(directory: Path, settings: Sample) -> tuple[SampleResult, Trainer]:
    store = RunStore(directory)
    search = Search(
        recipe=Recipe(limits=Limits(latency="1.1x", params="1.5x"), sample=settings),
        store=store,
        session=Session(None, store.logs),
        progress=Progress(Console(quiet=True)),
    )
    trainer = Trainer(store)
    search.data.__dict__["facts"] = FACTS
    search.trainer.__dict__["trials"] = trainer
    return sample_stage(search, 32), trainer


@pytest.mark.parametrize("half_width", [0.4, 0.2])
def test_sampling_stops_at_the_first_block_that_suffices(half_width: float, tmp_path: Path) -> None:
    settings = Sample(networks=64, block=8, stop_at_b_ci=half_width)
    found, trainer = sample(tmp_path / "stopping", settings)
    everything, _ = sample(tmp_path / "all", Sample(networks=64, block=8))
    assert everything.networks == 64
    groups = list(everything.samples[0].widths)
    sufficient = [
        end
        for end in range(8, 65, 8)
        if are_narrow(b_intervals(everything.samples[:end], groups), half_width)
    ]
    assert found.networks == sufficient[0] < 64
    assert len(trainer.trained) == found.networks
    assert found.samples == everything.samples[: found.networks]


def test_a_stage_that_never_suffices_trains_all(tmp_path: Path) -> None:
    settings = Sample(networks=20, block=8, stop_at_b_ci=1e-6)
    found, trainer = sample(tmp_path, settings)
    assert found.networks == len(trainer.trained) == 20


@pytest.mark.parametrize("source", ["slimmable", "initial"])
def test_another_source_is_one_task_for_the_same_networks(source: Cheap, tmp_path: Path) -> None:
    settings = Sample(networks=12, block=4, source=source, training=FAST.for_epochs(8))
    found, trainer = sample(tmp_path / source, settings)
    trained, _ = sample(tmp_path / "trained", replace(settings, source="trained"))
    assert len(trainer.trained) == 1
    assert [one.widths for one in found.samples] == [one.widths for one in trained.samples]
    groups = list(found.samples[0].widths)
    slopes = [p.b for p in fit_predictors(found.samples, groups).predictors.values()]
    assert slopes == pytest.approx([-1.3] * len(groups), abs=0.6)


def test_blocks_are_for_trained_networks_alone() -> None:
    with pytest.raises(ValueError, match="stop_at_b_ci must be null unless source is trained"):
        Sample(source="initial", stop_at_b_ci=0.3)
