"""Which trainings a recipe asks for: the tasks of every stage that trains."""

from dataclasses import dataclass, replace

from cluster.network import BaseNetwork
from engine.codec import digest
from engine.peers.resolutions import REPEATS
from engine.recipe import Recipe
from engine.results import DataFacts
from engine.rows import Cheap, TrainingTask
from engine.sampling import sampling_task
from engine.spec import NetworkSpec
from searchers.widths import sampled_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainings:
    """The trainings of a recipe; nothing is trained here.

    Attributes:
        base: what is scaled.
        facts: of the data.
    """

    recipe: Recipe
    base: BaseNetwork
    facts: DataFacts

    def final_task(self, spec: NetworkSpec) -> TrainingTask:
        """The training of the base network, of the result and of what they are compared with."""
        return TrainingTask(
            spec=spec,
            training=self.recipe.train,
            data=self.facts.digest,
            seed=self.recipe.seed,
            loss=self.recipe.task.loss,
            metric=self.recipe.task.metric,
            sync_workers=True,
            test=True,
        )

    def short_task(self, spec: NetworkSpec) -> TrainingTask:
        """The training that the search spends on one network."""
        return replace(
            self.final_task(spec),
            training=self.recipe.sample.training,
            sync_workers=False,
            test=False,
        )

    def alpha_tasks(self, spec: NetworkSpec) -> list[TrainingTask]:
        """The trainings of one network of the α search, one for each repeat."""
        settings = self.recipe.alpha
        task = replace(
            self.short_task(spec),
            training=settings.training,
            stoppable=True if settings.scheduler == "asha" else None,
        )
        return [replace(task, seed=self.recipe.seed + repeat) for repeat in range(settings.repeats)]

    def choose_tasks(self, spec: NetworkSpec) -> list[TrainingTask]:
        """The trainings of one network that may be the answer, one for each repeat.

        Their seeds are not those of the α search, or of methods that compare resolutions: the
        network that was the best by those has been lucky there.
        """
        first = self.recipe.seed + max(self.recipe.alpha.repeats, REPEATS)
        return [
            replace(self.short_task(spec), seed=first + repeat)
            for repeat in range(self.recipe.choose.repeats)
        ]

    def sample_tasks(self, resolution: int) -> list[TrainingTask]:
        """The trainings of all networks that the recipe wants sampled, or the one for all."""
        settings = self.recipe.sample
        if settings.source != "trained":
            return [self.sampling_task(settings.source, resolution, settings.networks)]
        return [
            self.sample_task(spec) for spec in self.sampled_specs(resolution, settings.networks)
        ]

    def sampled_specs(self, resolution: int, networks: int) -> list[NetworkSpec]:
        """The first networks of random widths."""
        settings, start = self.recipe.sample, self.base.spec.at(resolution)
        return [
            sampled_spec(self.base.graph, start, settings, self.recipe.seed, index)
            for index in range(networks)
        ]

    def sample_task(self, spec: NetworkSpec) -> TrainingTask:
        """The training of a sampled network that collects its importance."""
        return replace(self.short_task(spec), importance=True)

    def ladder_key(self, resolution: int) -> str:
        """The identity of a fidelity ladder's networks and trainings, however many there are."""
        settings = self.recipe.sample
        drawn = settings.min_width, settings.max_width, settings.block
        return digest((self.final_task(self.base.spec.at(resolution)), settings.training, drawn))

    def sampling_task(self, source: Cheap, resolution: int, networks: int) -> TrainingTask:
        """The one task that finds the importance of so many sampled networks."""
        specs = self.sampled_specs(resolution, networks)
        return sampling_task(self.short_task(specs[0]), specs, source, self.facts.train_images)
