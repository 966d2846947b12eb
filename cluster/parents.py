"""Weights that trainings start from: there when they are needed, and not longer."""

from collections.abc import Iterable

from engine.rows import Row, TrainingTask
from engine.store import RunStore
from engine.trained_weights import has_weights, weights_name


def lost_parents(store: RunStore, children: Iterable[TrainingTask]) -> list[TrainingTask]:
    """Returns the trainings that ``children`` start from whose weights are not there, or damaged.

    Their rows are taken out of the ledger: to be trained again, which gives the same rows. Of
    ``children`` one may start from another, which is lost then.

    Raises:
        ValueError: a task starts from one that has never been trained.
    """
    tasks = {task.id: task for task in children}
    parents = dict.fromkeys(task.start.row for task in tasks.values() if task.start is not None)
    lost: list[TrainingTask] = []
    for row_id in parents:
        if has_weights(store.weights, weights_name(row_id)):
            continue
        row = store.ledger.find(row_id)
        task = tasks.get(row_id) if row is None else row.task
        if task is None or not task.keep_weights:
            raise ValueError(f"{row_id} was not trained for others to start from")
        lost.append(task)
    if lost:
        store.ledger.discard([task.id for task in lost])
    return lost


def release(store: RunStore, rows: Iterable[Row]) -> None:
    """Removes weights that were kept for trainings to start from, and that none will."""
    kept = [weights_name(row.task.id) for row in rows if row.task.keep_weights]
    if kept:
        store.weights.delete(*kept)


def release_all(store: RunStore) -> None:
    """Removes all weights that were kept for trainings to start from."""
    kept = (store.ledger.find(task_id) for task_id in store.weights.files(".safetensors"))
    release(store, [row for row in kept if row is not None])
