"""Runs a stage if the run store does not know its output yet, and tells the progress."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cluster.progress import Progress
from engine.store import RunStore

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRunner:
    """Where outputs of stages are kept, and where their progress is shown."""

    store: RunStore
    progress: Progress

    def __call__(
        self,
        name: str,
        kind: type[T],
        uses: object,
        run: Callable[[], T],
        summary: Callable[[T], str],
    ) -> T:
        """Returns what a stage came to.

        Args:
            name, kind, uses, run: as for `engine.store.RunStore.stage`.
            summary: of its output, for the progress.

        Raises:
            Unfinished: the store is read-only and the stage not complete.
            UserError: the output cannot be written.
        """
        self.progress.begin(name)
        if not self.store.is_committed(name, uses) and name in self.store.committed_stages():
            self.progress.say(f"  {name}: what it depends on has changed, so it is done again")
        output = self.store.stage(name, kind, uses, run)
        self.progress.end(summary(output))
        return output
