"""A list of trainings as a search algorithm of Ray Tune, which takes them one by one."""

from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from engine.codec import jsonable
from engine.rows import TrainingTask


class TaskSearcher(Searcher):
    """Suggests every task once, in order.

    In place of a grid: a grid gives Tune all its trials at the start, and Tune walks through all
    of them at every step.

    Args:
        tasks: what is to be trained.
    """

    def __init__(self, tasks: Sequence[TrainingTask]) -> None:
        super().__init__()
        self._left = list(reversed(tasks))
        self._suggested: dict[str, TrainingTask] = {}

    def suggest(  # pyright: ignore[reportIncompatibleMethodOverride] - Tune's hint forgets FINISHED
        self, trial_id: str
    ) -> dict[str, Any] | str:
        """Returns ``{"task": JSON of a TrainingTask}``, ``Searcher.FINISHED`` at the end."""
        if trial_id not in self._suggested:
            if not self._left:
                return Searcher.FINISHED
            self._suggested[trial_id] = self._left.pop()
        return {"task": jsonable(self._suggested[trial_id])}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Forgets the trial; what came of it is in the ledger."""
        self._suggested.pop(trial_id, None)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Tells Tune's limiter that it need not limit.

        Trials then wait beside those that run, no more of them than the limit, so that a node that
        joins in the middle of a stage trains at once.
        """
        return True

    def save(self, checkpoint_path: str) -> None:
        """Writes nothing: the ledger holds what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing."""

    def __getstate__(self) -> dict[str, Any]:
        # Tuner pickles its whole configuration on disk; nothing of it is ever read back.
        return {}
