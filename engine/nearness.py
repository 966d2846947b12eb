"""How near importance from a cheaper source comes to that of trained networks."""

import math

from scipy.stats import spearmanr

from engine.comparison import BASE, Comparison
from engine.rows import Cheap

TRAINED = "hacscale-per-limit"
"""From it nothing but the importance of a cheaper source differs: same resolution, same rule."""
RESOLUTION = "uniform-alpha"
"""It rests on the trainings that found the resolution, and on no others."""
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
    """Returns a sentence for every cheaper source that was compared beside `TRAINED`.

    Costs are told where `RESOLUTION` was compared too: of the importance alone, without the search
    for the resolution. There is no sentence where `TRAINED` is known to rest on one training as
    well: the run itself has a cheaper source.
    """
    proposals = {entry.proposal.method: entry.proposal for entry in comparison.entries}
    full, resolution = proposals.get(TRAINED), proposals.get(RESOLUTION)
    if full is None or (resolution and full.search_trials - resolution.search_trials <= 1):
        return []
    said: list[str] = []
    for name in (f"hacscale-{source}" for source in _SOURCES):
        if name in proposals:
            rho = rank_correlation(comparison, TRAINED, name)
            ranks = "have no ranks" if math.isnan(rho) else f"correlate by rank with ρ = {rho:.2f}"
            cost = ""
            if resolution:
                spent, whole = (
                    one.search_seconds - resolution.search_seconds
                    for one in (proposals[name], full)
                )
                cost = f"; {spent:.0f} s of training in place of {whole:.0f} s"
            said.append(
                f"Importance with sample.source {name.removeprefix('hacscale-')}: its width "
                f"multipliers and those of {TRAINED} {ranks}{cost}."
            )
    return said
