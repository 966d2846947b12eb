"""One search: a recipe and a run, and the parts that its stages and commands work with."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.costs import Costs
from cluster.dataset import DataSet
from cluster.measuring import Measuring
from cluster.network import BaseNetwork
from cluster.progress import Progress
from cluster.session import Session
from cluster.stage_runner import StageRunner
from cluster.trainer import Trainer
from cluster.trainings import Trainings
from engine.factory import check_factory
from engine.networks import check_model, import_function
from engine.peers.methods import rivals
from engine.profile_key import ProfileKey
from engine.profiling import Profiling, read_profile
from engine.recipe import Recipe
from engine.store import RunStore
from trainables.objective import make_objective


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search; each part is made when it is first needed."""

    recipe: Recipe
    store: RunStore
    session: Session
    progress: Progress

    @cached_property
    def stage(self) -> StageRunner:
        """Runs what the store does not know yet."""
        return StageRunner(store=self.store, progress=self.progress)

    @cached_property
    def data(self) -> DataSet:
        """The data set."""
        return DataSet(recipe=self.recipe, stage=self.stage)

    @cached_property
    def base(self) -> BaseNetwork:
        """The network before scaling.

        Raises:
            UserError: it cannot be scaled, or is not the one that the run began with.
        """
        base = BaseNetwork(recipe=self.recipe, facts=self.data.facts)
        check_factory(self.store, base.spec)
        return base

    @cached_property
    def costs(self) -> Costs:
        """What networks cost."""
        return Costs(recipe=self.recipe)

    @cached_property
    def profiling(self) -> Profiling:
        """What is to be timed for its profile."""
        base, settings = self.base, self.recipe.profile
        return Profiling(
            graph=base.graph, base=base.spec, resolutions=base.resolutions, settings=settings
        )

    @cached_property
    def trainings(self) -> Trainings:
        """What is to be trained."""
        return Trainings(recipe=self.recipe, base=self.base, facts=self.data.facts)

    @cached_property
    def trainer(self) -> Trainer:
        """What trains it."""
        return Trainer(
            recipe=self.recipe,
            store=self.store,
            progress=self.progress,
            data=self.data,
            start_ray=self._start_ray,
        )

    @cached_property
    def measuring(self) -> Measuring:
        """What measures on the device."""
        return Measuring(
            device=self.recipe.device,
            settings=self.recipe.profile,
            store=self.store,
            start_ray=self._start_ray,
        )

    def check(self) -> None:
        """Checks of the recipe what can be known before anything is trained or measured.

        Raises:
            UserError: the data, the network, the task, the limits and the settings do not fit
                together.
        """
        self._check_names()  # before a data set is read that may take long
        self.recipe.check_batches(self.data.facts.train_images)
        make_objective(self.trainings.final_task(self.base.spec))
        # Its latency is not known yet; any limit of it is above zero.
        self.recipe.limits.resolve(self.costs.usage(self.base.spec, latency_ms=0.0))
        _ = self.trainings.sample_tasks(self.base.spec.resolution)  # raises if there is no room
        self._check_resolutions()
        # What the run has of it is kept: the file may be gone by now.
        settings, profiled = self.recipe.profile, "profile" in self.store.committed_stages()
        if settings.file and not profiled:
            known = read_profile(Path(settings.file), self.profiling).key
            # Which device it is will be known once it has measured.
            asked = ProfileKey.of(self.recipe.device, known.device)
            known.check(asked, f"the profile {settings.file}")
        elif not profiled:
            _ = self.profiling.specs  # raises if there are too few
        if settings.table and not profiled:
            _ = self.profiling.listed  # raises if it does not reach all networks

    def _check_names(self) -> None:
        check_model(self.recipe.model)
        rivals(self.recipe.choose.rivals)
        task = self.recipe.task
        for what, name in (("task.loss", task.loss), ("task.metric", task.metric)):
            if ":" in name:
                import_function(name, what)

    def _check_resolutions(self) -> None:
        """Says so where pictures are kept in fewer pixels than they have and networks would see.

        Raises:
            UserError: the network cannot take one of the resolutions.
        """
        stored, original = self.recipe.data.stored, self.data.facts.original
        seen = max(self.base.resolutions)
        if original is not None and stored < min(seen, original):
            self.progress.say(
                f"  the images have {original} px and are kept at {stored}, so that networks of up "
                f"to {seen} px would see them enlarged; to keep what is there: "
                f"--set data.stored_resolution={min(seen, original)}",
                style="yellow",
            )

    def _start_ray(self) -> None:
        """Starts or joins Ray.

        Raises:
            UserError: Ray has less than one training or measurement needs, and would wait forever.
        """
        self.session.start()
        self.session.require(self.recipe, self.progress.say)
