"""The network that a recipe scales, as its data makes it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from engine.errors import UserError
from engine.graph import NetworkGraph, load_graph
from engine.recipe import Recipe, Task
from engine.results import DataFacts
from engine.scaling import feasible_resolutions, reaching
from engine.spec import ModelRef, NetworkSpec


@dataclass(frozen=True, kw_only=True)
class BaseNetwork:
    """The network before scaling.

    Attributes:
        facts: of the data, which decides the classes and channels.
    """

    recipe: Recipe
    facts: DataFacts

    @property
    def ref(self) -> ModelRef:
        """Its model.

        Raises:
            UserError: other outputs are asked for than there are classes.
        """
        classes, outputs = self.facts.classes, self.recipe.task.outputs
        if classes and outputs not in (Task().outputs, classes):
            raise UserError(
                f"task.outputs is {outputs}, but the targets are {classes} classes; leave it out, "
                "or give targets that are no classes as float32"
            )
        return ModelRef(
            name=self.recipe.model,
            classes=classes or outputs,
            channels=self.facts.channels,
        )

    @cached_property
    def graph(self) -> NetworkGraph:
        """Its operations and width groups.

        Raises:
            UserError: no such network, it cannot be followed, or cannot take the resolution; or
                it does not return what the loss needs.
        """
        resolution = self.recipe.data.resolution
        graph = load_graph(self.ref, resolution)
        if self.recipe.task.loss == Task().loss:
            graph.check_outputs(resolution)
        return graph

    @cached_property
    def spec(self) -> NetworkSpec:
        """Its resolution and widths."""
        return self.graph.spec(self.recipe.data.resolution, self.recipe.width)

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """All that the α search can come to.

        Raises:
            UserError: the network cannot take one of them.
        """
        alpha = self.recipe.alpha
        return feasible_resolutions(
            self.graph, self.spec, alpha.low, alpha.high, alpha.budget, alpha.round_to
        )

    def affordable(self, fits: Callable[[NetworkSpec], bool]) -> int:
        """Returns the largest resolution at which the base widths keep the limits.

        The paper lets α choose any resolution; one that leaves no room for any width would end
        the search without a network.
        """
        kept = [resolution for resolution in self.resolutions if fits(self.spec.at(resolution))]
        return max(kept, default=self.spec.resolution)

    def budget(self, most: int) -> float:
        """Returns the s that α splits where no resolution is larger than ``most``.

        Of candidates that use up the limits an s that reaches further is lowered: many α would come
        to that one resolution, and few to those below it.
        """
        alpha = self.recipe.alpha
        if alpha.candidates == "compute" or most == max(self.resolutions):
            return alpha.budget
        return min(alpha.budget, reaching(self.spec.resolution, most, alpha.high))
