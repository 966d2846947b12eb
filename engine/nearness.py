"""How near importance from a cheaper source comes to that of trained networks."""

import math

from scipy.stats import spearmanr

from engine.comparison import BASE, Comparison
from engine.rows import Cheap

TRAINED = "hacscale-per-limit"
"""From it nothing but the importance of a cheaper source differs: same resolution, same rule."""
_SOURCES: tuple[Cheap, ...] = ("slimmable", "initial")


def rank_correlation(comparison: Comparison, first: str, second: str) -> float:
    """Returns Spearman's ρ of two methods' width multipliers over the groups.

    NaN where all groups of one have the same multiplier.
    """
    base = comparison.entry(BASE).proposal.spec.width_of
    multipliers = [
        [comparison.entry(name).proposal.spec.width_of[g] / w for g, w in base.items()]
        for name in (first, second)
    ]
    if any(max(m) == min(m) for m in multipliers):
        return math.nan
    return float(spearmanr(*multipliers)[0])  # pyright: ignore[reportArgumentType]


def nearness(comparison: Comparison) -> list[str]:
    """Returns a sentence for every cheaper source that was compared beside `TRAINED`."""
    there = {entry.proposal.method for entry in comparison.entries}
    if TRAINED not in there:
        return []
    said: list[str] = []
    for source in _SOURCES:
        name = f"hacscale-{source}"
        if name in there:
            rho = rank_correlation(comparison, TRAINED, name)
            spent, full = (comparison.entry(n).proposal.search_seconds for n in (name, TRAINED))
            ranks = "have no ranks" if math.isnan(rho) else f"correlate by rank with ρ = {rho:.2f}"
            said.append(
                f"Importance with sample.source {source}: its width multipliers and those of "
                f"{TRAINED} {ranks}; {spent:.0f} s of training in place of {full:.0f} s."
            )
    return said
