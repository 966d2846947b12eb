"""From the trainings of the α search to its winner (Eq. 4)."""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from engine.errors import UserError
from engine.graph import NetworkGraph
from engine.judging import most_repeats, pooled_spread, tied
from engine.results import AlphaCandidate, AlphaResult
from engine.rows import Row
from engine.spec import NetworkSpec


def usable(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that have an accuracy: not failed, at least one epoch."""
    return [row for row in rows if row.status != "failed" and row.history]


def mean_accuracy(rows: Sequence[Row]) -> float | None:
    """Returns the mean of the last validation accuracies, None if no row is usable."""
    accuracies = [row.last.val_accuracy for row in usable(rows)]
    return fmean(accuracies) if accuracies else None


def rank_candidates(
    graph: NetworkGraph,
    base: NetworkSpec,
    alphas: Iterable[float],
    candidate: Callable[[float], NetworkSpec],
    rows: Sequence[Row],
) -> AlphaResult:
    """Chooses α: the highest mean of the last validation accuracies over repeats (Eq. 4).

    Equal means are decided by the lower mean validation loss, then by which was asked first.
    A repeat that was stopped early counts with its last epoch. A candidate of which a repeat failed
    comes after all that have more, and one all of whose repeats failed is left out.

    Deviation: the paper takes the best α as it comes. Short trainings differ more between seeds
    than between α, so the winner carries a standard error: the standard deviation within
    candidates, pooled over all of them (seeds of one network differ about as much as those of
    the next), over √repeats of the winner. Repeats that were stopped early are no part of the
    spread, since they differ by their epochs as well. With one repeat there is no spread, and no
    number is made up for it.

    Args:
        graph: of the network.
        base: the network before scaling.
        alphas: in the order they were asked.
        candidate: α to its network.
        rows: the trainings of those networks, each once.

    Raises:
        UserError: every training failed.
    """
    alphas_of: dict[NetworkSpec, list[float]] = {}
    for alpha in alphas:
        alphas_of.setdefault(candidate(alpha), []).append(alpha)
    rows_of = {spec: usable([row for row in rows if row.task.spec == spec]) for spec in alphas_of}
    candidates = [
        AlphaCandidate(
            alphas=tuple(alphas_of[spec]),
            spec=spec,
            macs_ratio=graph.cost(spec).macs / graph.cost(base).macs,
            accuracies=tuple(row.last.val_accuracy for row in repeats),
            losses=tuple(row.last.val_loss for row in repeats),
        )
        for spec, repeats in rows_of.items()
        if repeats
    ]
    if not candidates:
        error = next((row.error for row in rows if row.error), "no error was recorded")
        raise UserError(
            f"all {len(rows)} trainings of the α search failed, the first with: {error}; "
            "check the data and alpha.training"
        )
    most = most_repeats(candidates)
    winner = max(candidates, key=lambda c: (len(c.accuracies) == most, *c.merit))
    spread = pooled_spread(
        [row.last.val_accuracy for row in repeats if row.status == "done"]
        for repeats in rows_of.values()
    )
    others = [one.accuracies for one in candidates if one is not winner]
    return AlphaResult(
        alpha=winner.alphas[0],
        resolution=winner.spec.resolution,
        standard_error=spread and spread.deviation / math.sqrt(len(winner.accuracies)),
        tied=None if spread is None else tied(winner.accuracies, others, spread),
        candidates=tuple(candidates),
        failed=len(rows) - len(usable(rows)),
    )
