"""A ranking of all filters of a network, learned once and cut off at any limit."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from engine.codec import digest
from engine.errors import UserError
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.peers.inherited import FineTuning, oversized, trained_to_start_from
from engine.rows import Row
from engine.spec import NetworkSpec

_FALL = 1.25
"""Times the evaluations after which σ would have fallen to nothing."""

Norms = Mapping[str, tuple[float, ...]]
"""‖Θ‖² of every filter by width group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What makes the norms of filters comparable between groups.

    Attributes:
        scale, shift: α > 0 and κ by group.
    """

    scale: dict[str, float]
    shift: dict[str, float]

    def order(self, norms: Norms) -> list[str]:
        """Returns the group of every filter, in falling order of α_l‖Θ‖² + κ_l."""
        scored = [
            (self.scale[group] * norm + self.shift[group], group)
            for group, of_group in norms.items()
            for norm in of_group
        ]
        return [group for _, group in sorted(scored, key=lambda one: -one[0])]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeGR:
    """LeGR: filters of all groups in one order, of which the limits say how many stay.

    A filter has the score α_l‖Θ‖² + κ_l, with α and κ of its width group. They are learned by
    regularised evolution: a tournament of the population finds a parent, some of its groups are
    mutated (α by a factor exp(N(0, σ_t²)), κ by N(0, s_l²) with s_l the standard deviation of the
    norms in the group; σ_t falls evenly from σ to σ/5 over the evaluations), the network is cut
    down to the limits in that order and trained for a short time, its accuracy is the fitness, and
    the oldest of the population goes.

    The order is learned at the limits as they were stated, and cut off at those of the question:
    a corrected limit, or any other, takes no further training.

    Source: Chin et al., CVPR 2020, with 400 evaluations, a population of 64, tournaments of 16 and
    one evaluation at a time: `PUBLISHED`, whose fall of σ is that of its code. Deviations:

    - What is pruned is widened beyond the limits first (`engine.peers.inherited.OVERSIZE`), and
      trained like the sampled networks and not to its end.
    - The fast defaults are 32 evaluations, 8, 3, and four evaluations at a time.
    - The filter of a channel that several layers write is all their kernels together. A group
      keeps `profile.min_width` of its base width.
    - The first evaluation is α = 1, κ = 0, and in those that fill the population all groups mutate.
    - The answer is trained from new weights, like those of all methods.

    Attributes:
        evaluations: short trainings.
        population: of them that are kept, the latest.
        tournament: of the population, drawn for each parent.
        parallel: evaluations that are trained together, whose parents are drawn before any ends.
        mutated: share of the groups that mutate, at least one.
        spread: σ, at the beginning.
    """

    name: str = "legr"
    evaluations: int = 32
    population: int = 8
    tournament: int = 3
    parallel: int = 4
    mutated: float = 0.1
    spread: float = 1.0
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.tournament <= self.population <= self.evaluations:
            raise ValueError("1 <= tournament <= population <= evaluations must hold")
        if self.parallel < 1:
            raise ValueError("parallel must be at least 1")

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        whole = trained_to_start_from(question, oversized(question))
        return cut(question, self.learned(question, whole), whole)

    def learned(self, question: Question, whole: Row) -> Ranking:
        """Returns the best ranking that evolution finds for the filters of a trained network.

        Raises:
            UserError: every training failed.
        """
        rng = np.random.default_rng(int(digest(("filter ranking", question.seed)), 16))
        stated = replace(question, limit=question.stated_limit)
        norms = _norms(whole)
        tried: list[tuple[float, Ranking]] = []
        while len(tried) < self.evaluations:
            if not tried:
                neutral = Ranking(scale=dict.fromkeys(norms, 1.0), shift=dict.fromkeys(norms, 0.0))
                others = [
                    mutant(rng, neutral, norms, len(norms), self.spread)
                    for _ in range(self.population - 1)
                ]
                rankings = [neutral, *others]
            else:
                rankings = [
                    self._child(rng, tried[-self.population :], norms, self._spread(len(tried)))
                    for _ in range(min(self.parallel, self.evaluations - len(tried)))
                ]
            tried += zip(self._fitness(stated, whole, rankings), rankings, strict=True)
        fitness, ranking = max(tried, key=_fitness_of)
        if fitness < 0:
            raise UserError("every training of the evolution failed; repeat with --retry-failed")
        return ranking

    def _child(
        self,
        rng: np.random.Generator,
        pool: Sequence[tuple[float, Ranking]],
        norms: Norms,
        spread: float,
    ) -> Ranking:
        """A mutant of the fittest of a tournament."""
        drawn = rng.choice(len(pool), size=self.tournament, replace=False)
        _, parent = max((pool[i] for i in sorted(drawn.tolist())), key=_fitness_of)
        count = max(1, round(self.mutated * len(norms)))
        return mutant(rng, parent, norms, count, spread)

    def _spread(self, done: int) -> float:
        """σ_t after so many evaluations."""
        return self.spread * (1 - done / (_FALL * self.evaluations))

    def _fitness(self, question: Question, whole: Row, rankings: Sequence[Ranking]) -> list[float]:
        """The accuracy of each after a short training; below all others if that failed."""
        specs = [cut(question, ranking, whole) for ranking in rankings]
        # Rankings that keep the same filters are one training.
        tasks = [self.fine_tuning.task(question, spec, whole) for spec in dict.fromkeys(specs)]
        rows = question.train(tasks)
        accuracy = {row.task.spec: row.last.val_accuracy for row in rows}
        return [accuracy.get(spec, -1.0) for spec in specs]


PUBLISHED = LeGR(name="legr-published", evaluations=400, population=64, tournament=16, parallel=1)


def _fitness_of(tried: tuple[float, Ranking]) -> float:
    return tried[0]


def mutant(
    rng: np.random.Generator, parent: Ranking, norms: Norms, count: int, spread: float
) -> Ranking:
    """Returns a ranking that differs from ``parent`` in ``count`` groups."""
    scale, shift = dict(parent.scale), dict(parent.shift)
    groups = list(norms)
    for i in sorted(rng.choice(len(groups), size=count, replace=False).tolist()):
        group = groups[i]
        scale[group] *= math.exp(rng.normal(0.0, spread))
        shift[group] += rng.normal(0.0, float(np.std(norms[group])))
    return Ranking(scale=scale, shift=shift)


def cut(question: Question, ranking: Ranking, whole: Row) -> NetworkSpec:
    """Returns what is left of a network when so many filters stay as the limits allow.

    Raises:
        UserError: the limits are broken by the fewest channels that all groups keep.
    """
    order = ranking.order(_norms(whole))

    def make(kept: float) -> NetworkSpec:
        count = Counter(order[: int(kept)])
        return whole.task.spec.with_widths(
            {
                group: min(
                    max(question.graph.round_width(group, count[group]), question.widths(group)[0]),
                    width,
                )
                for group, width in whole.task.spec.widths
            }
        )

    return question.largest(make, 0.0, float(len(order)))


def _norms(row: Row) -> Norms:
    if row.filter_norms is None:
        raise ValueError("the row was trained without filter_norms")
    return row.filter_norms
