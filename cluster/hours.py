"""A ceiling on what a run may use, in GPU-hours or CPU-hours."""

import signal
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from cluster.progress import Progress
from engine.errors import StorageError, UserError
from engine.recipe import Cluster
from engine.rows import Row
from engine.store import RunStore

_POLL_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxHours:
    """So many hours of one kind of resource.

    Attributes:
        kind: what is counted, ``gpu`` or ``cpu``.
    """

    kind: Literal["gpu", "cpu"]
    hours: float

    def check(self, resources: Cluster) -> None:
        """Checks that the recipe's trainings use the resource at all.

        Raises:
            UserError: they do not, or the number of hours is not above zero.
        """
        if not 0 < self.hours < float("inf"):
            raise UserError(f"{self.option} must be above zero, not {self.hours:g}")
        if self.kind == "gpu" and not resources.uses_gpus:
            raise UserError(
                "--max-gpu-hours limits nothing, as cluster.gpus_per_trial is 0; give "
                "--max-cpu-hours, or set cluster.gpus_per_trial"
            )

    @property
    def option(self) -> str:
        """How the command line calls it."""
        return f"--max-{self.kind}-hours"


def used_hours(rows: Iterable[Row], resources: Cluster, kind: Literal["gpu", "cpu"]) -> float:
    """Returns the hours that finished trainings held a resource, counted over their epochs."""

    def held_by(row: Row) -> float:
        noted = row.gpus if kind == "gpu" else row.cpus
        return held(resources, kind, final=row.task.sync_workers) if noted is None else noted

    return sum(sum(epoch.seconds for epoch in row.history) * held_by(row) for row in rows) / 3600


def held(
    resources: Cluster, kind: Literal["gpu", "cpu"], final: bool, share: float | None = None
) -> float:
    """Returns how many GPUs or CPU cores one training holds.

    Args:
        final: whether it is the data-parallel training of the base network or of the result.
        share: of a GPU for other trainings, where it has been measured; else the most they hold.
    """
    workers = resources.final_workers if final else 1
    if kind == "cpu":
        return workers * resources.cpus_per_trial
    if final:
        return workers * float(resources.uses_gpus)
    return resources.gpu_share if share is None else share


@contextmanager
def stopped_after(
    limit: MaxHours | None, store: RunStore, resources: Cluster, progress: Progress
) -> Generator[None]:
    """Interrupts the main thread, as Ctrl-C does, once finished trainings have used the limit.

    A training counts when it ends, so the ones that are under way then come on top.

    Raises:
        UserError: the limit is used up already, or limits nothing.
    """
    if limit is None:
        yield
        return
    limit.check(resources)
    used = used_hours(store.ledger.rows(), resources, limit.kind)
    if used >= limit.hours:
        raise UserError(
            f"the run has used {used:.3g} {limit.kind.upper()}-hours of {limit.hours:g}; raise "
            f"{limit.option} to go on"
        )
    over = threading.Event()
    ledger = RunStore(store.location, read_only=True).ledger  # not that of another thread

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            try:
                used = used_hours(ledger.rows(), resources, limit.kind)
            except StorageError:
                continue  # the next look finds what this one would have
            if used >= limit.hours:
                progress.say(
                    f"! {used:.3g} {limit.kind.upper()}-hours are used, {limit.option} is "
                    f"{limit.hours:g}: stopping in order",
                    style="yellow",
                )
                if not over.is_set():
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    thread = threading.Thread(target=watch, name="hours", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
