"""The fidelity ladder of a run: some of its sampled networks, trained for different times."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cluster.driver import read_run, write_results
from cluster.opened import opened_search
from cluster.stages.groundwork import groundwork
from engine.codec import pretty
from engine.errors import Unfinished
from engine.fidelity import FILE, default_rungs
from engine.results import FidelityLadder, Rung
from engine.rows import Row, TrainingTask


def climb(
    location: Path | str,
    networks: int,
    rungs: Sequence[int] = (),
    address: str | None = None,
    console: Console | None = None,
    retry_failed: bool = False,
) -> FidelityLadder:
    """Trains sampled networks of a run for different times.

    They are the first of the sample stage, at the resolution of the α search. Each rung has the
    short training of the sample stage, stretched to its epochs with its schedule; that with the
    epochs of the final training is the final training itself. Trainings are
    rows of the ledger, and those of the sample stage are among them. Writes ``fidelity.json``, and
    the report again if the run is finished. Stages up to the fit that the run lacks are done first.

    Args:
        location: of the run.
        networks: how many.
        rungs: epochs; without them those of the short and of the final training, and between.
        address: of a Ray cluster; None starts a private session.
        console: where progress is shown.
        retry_failed: train again what failed before.

    Raises:
        UserError: something the user can mend.
        KeyboardInterrupt: stopped in order; call again to go on.
    """
    with opened_search(location, address, console, retry_failed=retry_failed) as search:
        recipe, progress, trainings = search.recipe, search.progress, search.trainings
        resolution = groundwork(search).alpha.resolution
        specs = tuple(dict.fromkeys(trainings.sampled_specs(resolution, networks)))
        short = recipe.sample.training
        epochs = sorted(set(rungs)) or default_rungs(short.epochs, recipe.train.epochs)
        whole = recipe.train
        of_rung = [whole if e == whole.epochs else short.for_epochs(e) for e in epochs]
        tasks = [
            [replace(trainings.sample_task(spec), training=training) for spec in specs]
            for training in of_rung
        ]
        progress.begin("fidelity")
        rows = search.trainer.train("fidelity", [task for rung in tasks for task in rung])
        progress.end(f"{len(specs)} networks, trained for {', '.join(map(str, epochs))} epochs")
        done = {row.task.id: row for row in rows if row.status == "done"}
        ladder = FidelityLadder(
            key=trainings.ladder_key(resolution),
            networks=specs,
            rungs=tuple(_rung(e, rung, done) for e, rung in zip(epochs, tasks, strict=True)),
        )
        search.store.folder.write(FILE, pretty(ladder))
    with suppress(Unfinished):
        write_results(read_run(location), location)
    return ladder


def _rung(epochs: int, tasks: Sequence[TrainingTask], done: dict[str, Row]) -> Rung:
    rows = [done.get(task.id) for task in tasks]
    return Rung(
        epochs=epochs,
        accuracies=tuple(row.last.val_accuracy if row else None for row in rows),
        seconds=sum(epoch.seconds for row in rows if row for epoch in row.history),
    )
