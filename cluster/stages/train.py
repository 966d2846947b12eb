"""The train stage: the result, trained to the end."""

from cluster.search import Search
from engine.results import Trained
from engine.spec import NetworkSpec
from engine.trained_weights import has_weights, weights_name


def train_stage(search: Search, spec: NetworkSpec) -> Trained:
    """Trains the result over all workers; again if its weights have been lost."""
    task, store, trainer = search.trainings.final_task(spec), search.store, search.trainer
    known = not store.read_only and store.is_committed("train", task)
    if known and not has_weights(store.weights, weights_name(task.id)):
        search.progress.say("  the weights of the result are gone or damaged: trained again")
        store.forget("train", task)  # on other hardware it may come to another accuracy
    return search.stage(
        "train",
        Trained,
        task,
        lambda: trainer.train_final(task),
        lambda out: f"{out.test_accuracy:.1%} on the test split",
    )
