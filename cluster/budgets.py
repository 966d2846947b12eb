"""What a search leaves for other limits."""

from dataclasses import replace

from cluster.search import Search
from cluster.stages.allocate import budgets_of
from cluster.stages.groundwork import Groundwork
from cluster.stages.propose import Proposing
from engine.answers import METHODS
from engine.budgets import Budgets, budgets_key
from engine.results import ChooseResult


def budgets_left(search: Search, known: Groundwork, choice: ChooseResult) -> Budgets:
    """Returns what answers other limits as the search answered its own.

    By the method that was chosen, at the resolution of its network, and with the latency model as
    that network corrects it; where the method needs trainings, all this is of Algorithm 1.
    """
    answer = choice.winner if choice.winner.method in METHODS else choice.candidates[0]
    surface = Proposing(search, known).surface()
    budgets = budgets_of(search, known, answer.spec.resolution)
    key = budgets_key(search.recipe)
    left = replace(budgets, method=answer.method, surface=surface, key=key)
    return left.corrected(answer.spec, answer.latency)
