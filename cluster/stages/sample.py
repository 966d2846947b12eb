"""The sample stage: importance of networks of random widths."""

from collections.abc import Sequence

from cluster.search import Search
from engine.predictors import are_narrow, b_intervals
from engine.results import ImportanceSample, SampleResult
from engine.rows import Row, TrainingTask
from engine.sampling import samples_of


def sample_stage(search: Search, resolution: int) -> SampleResult:
    """Trains networks of random widths and collects importance (Eq. 5).

    With ``sample.stop_at_b_ci`` block after block, until every exponent is known that well.
    With another ``sample.source`` than ``trained``, one task stands for all of them.
    """
    settings = search.recipe.sample
    tasks = search.trainings.sample_tasks(resolution)

    def run() -> SampleResult:
        if settings.source != "trained":
            return _sample_at_once(search, tasks[0])
        step = settings.networks if settings.stop_at_b_ci is None else settings.block
        trained = step
        while True:
            sampled = _sample_each(search, tasks[:trained])
            if trained >= settings.networks or _knows_exponents(search, sampled):
                return sampled
            trained += step

    return search.stage(
        "sample",
        SampleResult,
        (tasks, settings.stop_at_b_ci),
        run,
        lambda out: (
            f"{len(out.samples)} networks of random widths "
            + ("trained" if settings.source == "trained" else f"({settings.source})")
            + (
                f", {settings.networks - out.networks} saved: every b is known to "
                f"±{settings.stop_at_b_ci}"
                if out.networks < settings.networks
                else ""
            )
        ),
    )


def _sample_at_once(search: Search, task: TrainingTask) -> SampleResult:
    (row,) = search.trainer.train("sample", [task])
    # Networks that were drawn twice are one sample.
    networks = search.recipe.sample.networks
    return SampleResult(samples=samples_of(row), failures=(), networks=networks)


def _sample_each(search: Search, tasks: Sequence[TrainingTask]) -> SampleResult:
    rows = search.trainer.train("sample", tasks)
    index_of = {task.id: index for index, task in reversed(list(enumerate(tasks)))}
    return SampleResult(
        samples=tuple(
            _sample_of(index_of[row.task.id], row) for row in rows if row.status == "done"
        ),
        failures=tuple(row.error or "" for row in rows if row.status == "failed"),
        networks=len(tasks),
    )


def _sample_of(index: int, row: Row) -> ImportanceSample:
    assert row.importance is not None
    return ImportanceSample(
        row=row.task.id,
        index=index,
        widths=row.task.spec.width_of,
        importance=row.importance,
        val_loss=row.last.val_loss,
        val_accuracy=row.last.val_accuracy,
    )


def _knows_exponents(search: Search, sampled: SampleResult) -> bool:
    most = search.recipe.sample.stop_at_b_ci
    if most is None:
        return False
    groups = [group.name for group in search.base.graph.groups]
    return are_narrow(b_intervals(sampled.samples, groups), most)
