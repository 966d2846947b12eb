"""The network that a recipe scales, as its data makes it."""

from engine.recipe import Recipe
from engine.spec import ModelRef
from trainables.data import load_data


def network_of(recipe: Recipe) -> ModelRef:
    """Returns the network of a recipe; its data is read for the classes and channels.

    Raises:
        UserError: the data cannot be read.
    """
    data = load_data(recipe.data, any_targets=not recipe.task.is_classification)
    return ModelRef(
        name=recipe.model, classes=data.classes or recipe.task.outputs, channels=data.channels
    )
