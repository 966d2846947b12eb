"""Whether short trainings order networks as longer ones do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy.stats import kendalltau

from engine.display import percent
from engine.results import FidelityLadder, Rung

FILE = "fidelity.json"
"""Where a run keeps its ladder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How alike two rungs order the networks.

    Attributes:
        tau: Kendall's τ-b: pairs in the same order minus pairs in the other, over pairs that are
            not tied; NaN where one rung ties all networks, or fewer than two are trained.
        p_value: of a τ so far from zero, either way, if the orders had nothing to do with each
            other; exact where nothing is tied.
        networks: trained on both rungs.
    """

    shorter: int
    longer: int
    tau: float
    p_value: float
    networks: int


def default_rungs(short: int, full: int) -> tuple[int, ...]:
    """Returns the epochs of the search's short trainings, of the final one, and between them."""
    return tuple(sorted({short, round(math.sqrt(short * full)), full}))


def agreements(ladder: FidelityLadder) -> tuple[Agreement, ...]:
    """Returns the agreement of every two rungs."""
    return tuple(_agreement(a, b) for a, b in combinations(ladder.rungs, 2))


def _agreement(first: Rung, second: Rung) -> Agreement:
    pairs = [
        (a, b)
        for a, b in zip(first.accuracies, second.accuracies, strict=True)
        if a is not None and b is not None
    ]
    tau = p_value = math.nan
    if len(pairs) > 1:
        found = kendalltau([a for a, _ in pairs], [b for _, b in pairs])
        tau, p_value = float(found[0]), float(found[1])  # pyright: ignore[reportArgumentType]
    return Agreement(
        shorter=first.epochs,
        longer=second.epochs,
        tau=tau,
        p_value=p_value,
        networks=len(pairs),
    )


def sentences(ladder: FidelityLadder) -> Sequence[str]:
    """Returns a sentence for every two rungs."""
    return [_sentence(one) for one in agreements(ladder)]


def _sentence(one: Agreement) -> str:
    if math.isnan(one.tau):
        return (
            f"the orders of {one.shorter} and {one.longer} epochs cannot be compared: fewer than "
            "two networks were trained for both, or all are equally accurate"
        )
    chance = "" if one.p_value <= 0.05 else ", which chance could also come to"
    return (
        f"{one.shorter} epochs order the networks as {one.longer} do with Kendall's τ = "
        f"{one.tau:.2f} (p = {one.p_value:.2g}, {one.networks} networks){chance}"
    )


def accuracies_of(ladder: FidelityLadder, network: int) -> list[str]:
    """Returns the accuracies of one network, by rung, for people."""
    found = [rung.accuracies[network] for rung in ladder.rungs]
    return ["failed" if value is None else percent(value) for value in found]
