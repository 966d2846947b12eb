"""Runs a search from the data to the report, and reads what a run has found."""

import logging
import shlex
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from cluster.budgets import budgets_left
from cluster.hours import MaxHours, stopped_after
from cluster.opened import forget_failures, known_search
from cluster.progress import Progress
from cluster.search import Search
from cluster.session import session
from cluster.stages.allocate import allocate_stage
from cluster.stages.choose import choose_stage
from cluster.stages.groundwork import groundwork
from cluster.stages.measure import measure_stage
from cluster.stages.train import train_stage
from engine.budgets import FILE
from engine.codec import canonical, decode, digest, pretty
from engine.errors import UserError
from engine.fidelity import FILE as LADDER
from engine.provenance import run_info
from engine.recipe import Recipe
from engine.report import render_report
from engine.results import (
    AccuracyFigures,
    FidelityLadder,
    LatencyFigures,
    MemoryFigures,
    PredictorFigures,
    Result,
    RunRecord,
)
from engine.storage import open_folder
from engine.store import RunStore

log = logging.getLogger("hacscale")


def run_search(
    recipe: Recipe,
    location: Path | str,
    recipe_name: str = "",
    address: str | None = None,
    console: Console | None = None,
    max_hours: MaxHours | None = None,
    retry_failed: bool = False,
) -> RunRecord:
    """Runs a search, or goes on with one, and writes ``result.json`` and ``report.html``.

    Everything that the run knows already is used and not done again.

    Args:
        recipe: what to do.
        location: of the run, a directory or a URI.
        recipe_name: for the report.
        address: of a Ray cluster; None starts a private session on this machine.
        console: where progress is shown; None for standard output.
        max_hours: stop in order once so much has been used.
        retry_failed: train again what failed before.

    Raises:
        UserError: something the user can mend.
        KeyboardInterrupt: stopped in order; call again to go on.
    """
    store = RunStore(location)
    with (
        _driving(store, retry_failed),
        Progress(console or Console()) as progress,
        stopped_after(max_hours, store, recipe.cluster, progress),
        session(address, store.logs) as ray_session,
    ):
        search = Search(recipe=recipe, store=store, session=ray_session, progress=progress)
        # A recipe that cannot be run must not take the place of the one that was.
        search.check()
        store.write_info(run_info(store.folder.name, recipe_name, recipe))
        record = _run_stages(search)
        write_results(record, location)
        store.remove_spent_checkpoints()
        return record


@contextmanager
def _driving(store: RunStore, retry_failed: bool) -> Generator[None]:
    """Locks a run whose format this version writes, before any of it is read."""
    with store.lock():
        store.check_format()
        if retry_failed:
            forget_failures(store)
        yield


def read_run(location: Path | str) -> RunRecord:
    """Returns the record of a finished run; nothing is computed.

    Raises:
        UserError: there is no such run, or it is not finished.
    """
    return _run_stages(known_search(location))


def write_results(record: RunRecord, location: Path | str) -> None:
    """Writes ``result.json`` and ``report.html``."""
    folder = open_folder(location)
    folder.write("result.json", pretty(record.result))
    folder.write("report.html", render_report(record).encode())


def _run_stages(search: Search) -> RunRecord:
    recipe, store = search.recipe, search.store
    known = groundwork(search)
    baseline, limit, alpha, fit = known.baseline, known.limit, known.alpha, known.fit
    found = allocate_stage(search, known)
    choice = choose_stage(search, known, found)
    answer = choice.winner
    if not store.read_only:
        store.folder.write(FILE, canonical(budgets_left(search, known, choice)))
    trained = train_stage(search, answer.spec)
    latency = measure_stage(search, answer, baseline)
    result = Result(
        alpha=alpha.alpha,
        resolution=answer.spec.resolution,
        widths=answer.spec.width_of,
        params=answer.params,
        macs=answer.macs,
        latency_ms=LatencyFigures(
            limit=limit.latency_ms,
            predicted=answer.predicted_ms,
            chosen=answer.latency.ms,
            measured=latency.ms,
            noise_floor=latency.noise_floor,
            rounds=answer.rounds,
            verdict=latency.verdict(limit.latency_ms),
        ),
        memory=MemoryFigures(
            limit=limit.params,
            used=answer.params,
            bytes_limit=limit.memory_bytes,
            bytes_used=answer.memory_bytes,
        ),
        accuracy=AccuracyFigures(
            baseline_test=baseline.trained.test_accuracy,
            test=trained.test_accuracy,
            val=trained.val_accuracy,
        ),
        predictors={
            name: PredictorFigures(
                a=p.a, b=p.b, r2=p.r2, flag=p.flag, b_low=p.b_low, b_high=p.b_high
            )
            for name, p in fit.predictors.items()
        },
        method=answer.method,
        stop_reason=found.allocation.stop_reason,
        seed=recipe.seed,
        recipe_key=digest(recipe),
    )
    return RunRecord(
        name=store.folder.name,
        recipe=pretty(recipe).decode(),
        data=search.data.facts,
        baseline=baseline,
        profile=known.profile,
        alpha=alpha,
        sample=known.sample,
        fit=fit,
        allocate=found,
        choose=choice,
        trained=trained,
        latency=latency,
        result=result,
        failures=tuple(
            f"{row.task.id}: {row.error}" for row in store.ledger.rows() if row.status == "failed"
        ),
        fidelity=_ladder(store, search.trainings.ladder_key(alpha.resolution)),
    )


def _ladder(store: RunStore, key: str) -> FidelityLadder | None:
    text = store.folder.read(LADDER)
    if text is None:
        return None
    with suppress(UserError):  # damaged, or of an earlier version
        ladder = decode(FidelityLadder, text, LADDER)
        if ladder.key == key:
            return ladder
    log.warning(
        "%s of %s is of another recipe, of an earlier version or damaged, and not shown; `hacscale "
        "fidelity %s` writes it again, from the trainings that are there",
        *(LADDER, store.location, shlex.quote(store.location)),
    )
    return None
