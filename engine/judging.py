"""What repeated short trainings can tell apart."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

from engine.results import Judged

LEVEL = 0.95
"""How often networks that are equal are all taken for equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How much repeats of one network differ, pooled over networks.

    Attributes:
        deviation: the square root of Σ(x − mean)² over all networks by ``freedom``.
        freedom: repeats less networks.
    """

    deviation: float
    freedom: int


def pooled_spread(repeats: Iterable[Sequence[float]]) -> Spread | None:
    """Returns the spread within networks; None where no network has two repeats."""
    squares, freedom = 0.0, 0
    for accuracies in repeats:
        if accuracies:
            mean = fmean(accuracies)
            squares += sum((accuracy - mean) ** 2 for accuracy in accuracies)
            freedom += len(accuracies) - 1
    return Spread(deviation=math.sqrt(squares / freedom), freedom=freedom) if freedom else None


def tied(winner: Sequence[float], others: Iterable[Sequence[float]], spread: Spread) -> int:
    """Returns how many networks cannot be told from the best one, by their repeats.

    Source: Tukey and Kramer. The best of several equal networks is ahead of the others by luck, the
    farther the more there are, and the fewer repeats tell the spread: networks count as different
    beyond q·deviation·√((1/n + 1/m)/2), with q of the studentized range at `LEVEL`. Two standard
    errors of a difference, which hold for a pair that was named before and a spread that is known,
    would tell some network of six that are equal from the best in 44 of 100 searches.

    Only the chance of the seeds is counted: all networks are judged on the same images.

    Args:
        winner, others: accuracies by repeat; networks without any are left out.
    """
    judged = [other for other in others if other]
    if not judged:
        return 0
    most = _studentized_range(1 + len(judged), spread.freedom) * spread.deviation
    return sum(
        fmean(winner) - fmean(other) <= most * math.sqrt((1 / len(winner) + 1 / len(other)) / 2)
        for other in judged
    )


@cache
def _studentized_range(networks: int, freedom: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(LEVEL, networks, freedom))


def most_repeats(judged: Iterable[Judged]) -> int:
    """Returns how many repeats a network has that has as many as any.

    A repeat that failed is missing, and the mean of the others says too much for a network that
    is as likely to fail when it is the answer.
    """
    return max(len(one.accuracies) for one in judged)
