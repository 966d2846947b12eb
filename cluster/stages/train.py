"""The train stage: the result, trained to the end."""

from cluster.search import Search
from engine.results import Trained
from engine.spec import NetworkSpec
from engine.trained_weights import has_weights


def train_stage(search: Search, spec: NetworkSpec) -> Trained:
    """Trains the result over all workers; again if its weights have been lost."""
    task, store, trainer = search.trainings.final_task(spec), search.store, search.trainer
    trained = search.stage(
        "train",
        Trained,
        task,
        lambda: trainer.train_final(task),
        lambda out: f"{out.test_accuracy:.1%} on the test split",
    )
    if not (store.read_only or has_weights(store.folder, trained.weights)):
        search.progress.begin("train")
        trained = trainer.train_final(task)
        search.progress.end("its weights were lost and are there again")
    return trained
