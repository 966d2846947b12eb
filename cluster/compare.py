"""Methods of scaling side by side: proposals with the device in the loop, trainings as trials."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cluster.hours import MaxHours
from cluster.opened import opened_search
from cluster.parents import release_all
from cluster.search import Search
from cluster.stages.allocate import allocate_stage
from cluster.stages.choose import choose_stage
from cluster.stages.dimensions import dimensions_stage
from cluster.stages.groundwork import groundwork
from cluster.stages.propose import Proposing
from cluster.stages.train import train_stage
from engine.comparison import Comparison, Entry
from engine.comparison_view import write_comparison
from engine.peers.contract import Method
from engine.rows import TrainingTask
from engine.spec import NetworkSpec
from engine.store import RunStore


def compare_run(
    location: Path | str,
    methods: Sequence[Method],
    seeds: int,
    address: str | None = None,
    console: Console | None = None,
    max_hours: MaxHours | None = None,
    retry_failed: bool = False,
) -> Comparison:
    """Scales the network of a run by every method under its limits, and trains what they answer.

    What the run knows (importance, losses, the latency model) is used and not measured again;
    stages that it lacks are run. The run's own result and the base network are always compared.
    Every network is trained with the recipe's own training, once for each seed; a training that
    the ledger has is not repeated. Writes the comparison into the run
    (`engine.comparison_view.write_comparison`).

    Args:
        location: of the run.
        methods: to compare with.
        seeds: trainings of each network, with the recipe's seed and those that follow it.
        address: of a Ray cluster; None starts a private session.
        console: where progress is shown.
        max_hours: stop in order once the run has used so much.
        retry_failed: train again what failed before.

    Raises:
        UserError: something the user can mend.
        KeyboardInterrupt: stopped in order; call again to go on.
    """
    with opened_search(location, address, console, max_hours, retry_failed) as search:
        store, known = search.store, groundwork(search)
        found = allocate_stage(search, known)
        answer = choose_stage(search, known, found)
        # The first seed of its network, which has weights, unlike what trials train.
        train_stage(search, answer.winner.spec)
        proposals, refusals = Proposing(search, known).all(found, answer, methods)
        dimensions = dimensions_stage(search, known)
        release_all(store)
        tasks = [[_task(search, p.spec, k) for k in range(seeds)] for p in proposals]
        search.trainer.trials.run_tasks("compare", [task for of_one in tasks for task in of_one])
        search.progress.end(f"{len(proposals)} networks, {seeds} trainings of each")
        facts = search.data.facts
        comparison = Comparison(
            name=store.folder.name,
            latency_limit_ms=known.limit.latency_ms,
            params_limit=known.limit.params,
            batch=known.baseline.key.batch,
            seeds=tuple(search.recipe.seed + k for k in range(seeds)),
            entries=tuple(
                Entry(proposal=p, accuracies=tuple(_accuracy(store, task) for task in of_one))
                for p, of_one in zip(proposals, tasks, strict=True)
            ),
            refusals=refusals,
            environment=known.profile.environment,
            data=(
                f"{facts.name}: {facts.train_images:,} images to train on, "
                f"{facts.test_images:,} to judge on, {search.recipe.train.epochs} epochs"
            ),
            sample=known.sample,
            fit=known.fit,
            dimensions=dimensions,
            metric=search.recipe.task.metric,
        )
        write_comparison(comparison, store.folder)
        return comparison


def _task(search: Search, spec: NetworkSpec, number: int) -> TrainingTask:
    """The final training of a network, with the seed of that number."""
    return replace(search.trainings.final_task(spec), seed=search.recipe.seed + number)


def _accuracy(store: RunStore, task: TrainingTask) -> float | None:
    row = store.ledger.find(task.id)
    return row.test_accuracy if row is not None and row.status == "done" else None
