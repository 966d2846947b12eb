"""Short trainings that compare resolutions."""

from collections.abc import Sequence
from dataclasses import replace

from engine.errors import UserError
from engine.peers.contract import Question
from engine.peers.inherited import only
from engine.rows import Row
from engine.spec import NetworkSpec

REPEATS = 2
"""Trainings of each network where nothing else is said."""


def by_resolution(
    question: Question, candidates: Sequence[NetworkSpec], repeats: int
) -> dict[int, list[Row]]:
    """Trains one network of every resolution for a short time, and returns the rows of each.

    A resolution of which a training failed is left out where others have more.

    Args:
        candidates: of different resolutions.
        repeats: trainings of each.

    Raises:
        UserError: there is no candidate, or all trainings failed.
    """
    if not candidates:
        raise UserError("the base widths keep the limits at no resolution")
    tasks = [
        replace(task, seed=task.seed + repeat)
        for task in map(question.short, candidates)
        for repeat in range(repeats)
    ]
    rows: dict[int, list[Row]] = {}
    for row in only(question.train(tasks)):
        rows.setdefault(row.task.spec.resolution, []).append(row)
    most = max(map(len, rows.values()))
    return {resolution: of_one for resolution, of_one in rows.items() if len(of_one) == most}
