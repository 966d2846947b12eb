"""Trains what a run asks for, unless its ledger has it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import ray

from cluster.dataset import DataSet
from cluster.final import run_final
from cluster.nodes import check_shared
from cluster.progress import Progress
from cluster.trials import TrialRunner
from engine.errors import UserError
from engine.recipe import Recipe
from engine.results import Trained
from engine.rows import Row, TrainingTask
from engine.store import RunStore


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The trainings of a run, as trials or over all workers.

    Attributes:
        start_ray: makes sure that Ray runs.
    """

    recipe: Recipe
    store: RunStore
    progress: Progress
    data: DataSet
    start_ray: Callable[[], None]

    @cached_property
    def trials(self) -> TrialRunner:
        """Starts Ray and sends the data to it, on first use.

        Raises:
            UserError: the data set is not the one that the run began with, or a machine of the
                cluster does not see the run.
        """
        data = self.data.read()
        self.start_ray()
        check_shared(self.store.location, self.recipe.cluster)
        return TrialRunner(
            store=self.store,
            data=ray.put(data),
            resources=self.recipe.cluster,
            progress=self.progress,
        )

    def train(self, stage: str, tasks: Sequence[TrainingTask]) -> list[Row]:
        """As `train_any`.

        Raises:
            UserError: more of them failed than the recipe allows.
        """
        rows = self.train_any(stage, tasks)
        self.check_failures(stage, rows)
        return rows

    def train_any(self, stage: str, tasks: Sequence[TrainingTask]) -> list[Row]:
        """Trains what has no row yet, and returns the rows of all, each once; any may have failed.

        Raises:
            KeyboardInterrupt: stopped in order.
        """
        self.trials.run_tasks(stage, tasks)
        return self.rows(tasks)

    def train_final(self, task: TrainingTask) -> Trained:
        """Trains the base network or the result over all workers (`cluster.final.run_final`)."""
        data = self.trials.data
        return run_final(task, self.store, data, self.recipe.cluster, self.progress)

    def rows(self, tasks: Iterable[TrainingTask]) -> list[Row]:
        """Returns what the ledger has of some trainings, each once."""
        unique = dict.fromkeys(task.id for task in tasks)
        # All at once: in an object store every look for one that is not there takes a request.
        there = self.store.ledger.ids() if unique else set[str]()
        found = (self.store.ledger.find(task_id) for task_id in unique if task_id in there)
        return [row for row in found if row is not None]

    def check_failures(self, stage: str, rows: Sequence[Row]) -> None:
        """Checks how many of the trainings of a stage failed.

        Raises:
            UserError: more than the recipe allows.
        """
        errors = [row.error for row in rows if row.status == "failed"]
        if len(errors) > self.recipe.cluster.max_failure_share * len(rows):
            raise UserError(
                f"{len(errors)} of {len(rows)} trainings of the {stage} stage failed, the first "
                f"with: {errors[0]}; mend the cause and repeat the command, with --retry-failed if "
                "the recipe stays the same"
            )
