"""What a search leaves for other limits."""

from dataclasses import replace

from cluster.search import Search
from cluster.stages.allocate import budgets_of
from cluster.stages.groundwork import Groundwork
from cluster.stages.propose import Proposing
from engine.answers import METHODS
from engine.budgets import Budgets
from engine.response_fit import FEWEST, fit_response
from engine.results import ChooseResult


def budgets_left(search: Search, known: Groundwork, choice: ChooseResult) -> Budgets:
    """Returns what answers other limits as the search answered its own.

    By the method that was chosen, at the resolution of its network, and with the latency model as
    that network corrects it; where the method needs trainings, all this is of Algorithm 1.
    """
    algorithm_1, base = choice.candidates[0], search.base.spec
    answer = choice.winner if choice.winner.method in METHODS else algorithm_1
    seen = Proposing(search, known).observations()
    surface = None
    if len(seen) >= FEWEST:
        surface = fit_response(seen, base.width_of, base.resolution, known.fit.predictors)
    budgets = budgets_of(search, known, answer.spec.resolution)
    return replace(budgets, method=answer.method, surface=surface).corrected(
        answer.spec, answer.latency.ms
    )
