"""The data of a run: what is known of it, and the images themselves where something is trained."""

from dataclasses import dataclass
from functools import cached_property

from cluster.stage_runner import StageRunner
from engine.errors import UserError
from engine.recipe import Recipe
from engine.results import DataFacts
from trainables.data import ImageData, load_data


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The data set of a run.

    Attributes:
        stage: keeps what is known of it.
    """

    recipe: Recipe
    stage: StageRunner

    @cached_property
    def facts(self) -> DataFacts:
        """What is known of the data set; it is read only when something is trained."""
        return self.stage(
            "data",
            DataFacts,
            self.recipe.data,
            lambda: facts_of(self._images),
            lambda out: (
                f"{out.name}: {out.train_images:,} images of {self.recipe.data.stored} px to train "
                f"on, {out.validation_images:,} to decide on, {out.test_images:,} for the end"
            ),
        )

    @cached_property
    def _images(self) -> ImageData:
        return read_data(self.recipe)

    def read(self) -> ImageData:
        """Returns the images, and keeps them no longer.

        Raises:
            UserError: they cannot be read, or are not those that the run began with.
        """
        data = self._images
        vars(self).pop("_images")
        if data.digest != self.facts.digest:
            raise UserError(
                f"{self.recipe.data.source} has changed since the run {self.stage.store.location} "
                "began; give another --name to start a new one"
            )
        return data


def read_data(recipe: Recipe) -> ImageData:
    """Reads the data set that a recipe names.

    Raises:
        UserError: it cannot be read.
    """
    return load_data(recipe.data, any_targets=not recipe.task.is_classification)


def facts_of(data: ImageData) -> DataFacts:
    """Returns what the stages need to know of a data set."""
    return DataFacts(
        name=data.name,
        digest=data.digest,
        classes=data.classes,
        channels=data.channels,
        train_images=len(data.train),
        validation_images=len(data.validation),
        test_images=len(data.test),
        mean=data.mean,
        std=data.std,
        original=data.original,
    )
