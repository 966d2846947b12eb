"""What repeated short trainings can tell apart."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean


def pooled_deviation(repeats: Iterable[Sequence[float]]) -> float | None:
    """Returns the standard deviation within networks, pooled over all of them.

    That is the square root of Σ(x − mean)² over all networks by the degrees of freedom left; None
    where no network has two repeats.
    """
    squares, freedom = 0.0, 0
    for accuracies in repeats:
        if accuracies:
            mean = fmean(accuracies)
            squares += sum((accuracy - mean) ** 2 for accuracy in accuracies)
            freedom += len(accuracies) - 1
    return math.sqrt(squares / freedom) if freedom else None


def tied(winner: Sequence[float], others: Iterable[Sequence[float]], deviation: float) -> int:
    """Returns how many networks' means lie within two standard errors of the difference.

    Args:
        winner, others: accuracies by repeat; at equal repeats two standard errors of the difference
            are 2·√2·deviation/√repeats.
        deviation: see `pooled_deviation`.
    """
    return sum(
        fmean(winner) - fmean(other) <= 2 * deviation * math.sqrt(1 / len(winner) + 1 / len(other))
        for other in others
        if other
    )
