"""Algorithm 1 over different ideas of what a channel is worth."""

from collections.abc import Mapping
from dataclasses import dataclass

from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.recipe import Choice, Mode
from engine.response_fit import fit_response
from engine.results import ImportancePredictor
from engine.rivals import inverse_width, least_loss
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceWidths:
    """The resolution of the α search and the widths of Algorithm 1 over Eq. 6.

    Source: HACScale (Kong et al. 2022); what differs is in `engine.allocation.allocate`.

    Attributes:
        choice: as in `engine.recipe.Allocate`; without it all settings are the recipe's.
    """

    name: str
    choice: Choice | None = None
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ("alpha", "samples")

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        return allocated(question, question.resolution, choice=self.choice)


@dataclass(frozen=True, slots=True, kw_only=True)
class InverseWidth:
    """Algorithm 1 with importance 1/C in every group: what is left without sampled networks.

    A control: a mean over C kernels has 1/C in it. The resolution is that of the α search.
    """

    name: str = "inverse-width"
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ("alpha",)

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        blind = inverse_width(question.base.width_of)
        return allocated(question, question.resolution, predictors=blind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSurfaceWidths:
    """The least loss that the sampled networks predict, over widths and resolution.

    `engine.response_fit` fits a surface of their validation loss with importance as the prior.
    Of the networks of least predicted loss (`engine.rivals.least_loss`) at every resolution that
    they were trained at and that leaves room (that of the α search alone if the surface gains
    nothing by resolution), the one that is best by the surface is the answer.
    """

    name: str = "response"
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ("alpha", "samples")

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        base = question.base
        prior = question.budgets(question.resolution).predictors
        surface = fit_response(question.observations, base.width_of, base.resolution, prior)
        seen = {observation.resolution for observation in question.observations}
        resolutions = sorted(seen) if surface.resolution_gain > 0 else [question.resolution]
        room = [r for r in resolutions if question.keeps(base.at(r))] or [base.resolution]
        proposals = [
            base.at(r).with_widths(least_loss(question.budgets(r), surface, question.limit).widths)
            for r in room
        ]
        return min(proposals, key=lambda spec: surface(spec.width_of, spec.resolution))


def allocated(
    question: Question,
    resolution: int,
    *,
    mode: Mode = "greedy",
    choice: Choice | None = None,
    predictors: Mapping[str, ImportancePredictor] | None = None,
) -> NetworkSpec:
    """Returns what Algorithm 1 makes of the base network at a resolution.

    Args:
        question: its limits are kept.
        resolution: of the network.
        mode, choice: as in `engine.recipe.Allocate`; without a choice all settings are the
            recipe's.
        predictors: worth of a channel by group; None for Eq. 6.

    Raises:
        UserError: the base widths break a limit at that resolution.
    """
    budgets = question.budgets(resolution)
    settings = None if choice is None else budgets.settings.choosing(mode, choice)
    allocation = budgets.allocate(question.limit, predictors=predictors, settings=settings)
    return question.base.at(resolution).with_widths(allocation.widths)
