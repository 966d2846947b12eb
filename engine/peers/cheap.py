"""Algorithm 1 over importance that took no training of every sampled network."""

from dataclasses import dataclass

from engine.errors import UserError
from engine.peers.algorithm1 import allocated
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.predictors import fit_predictors
from engine.recipe import Choice
from engine.rows import Cheap
from engine.sampling import samples_of
from engine.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CheapImportance:
    """Algorithm 1, step-aware, over Eq. 6 of another ``sample.source``, for the same networks.

    With the resolution of the α search, so that nothing but the importance differs from the
    `engine.peers.algorithm1.ImportanceWidths` of the same choice.
    """

    source: Cheap
    choice: Choice = "per-limit"
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ("alpha",)

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"hacscale-{self.source}"

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        rows = question.train([question.sampling(self.source)])
        if not rows:
            raise UserError(f"the task of sample.source {self.source} failed; --retry-failed")
        groups = [group for group, _ in question.base.widths]
        fit = fit_predictors(samples_of(rows[0]), groups)
        return allocated(
            question, question.resolution, choice=self.choice, predictors=fit.predictors
        )
