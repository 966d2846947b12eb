"""A run that exists, opened to read it or to do more with it."""

from collections.abc import Generator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.hours import MaxHours, stopped_after
from cluster.progress import Progress
from cluster.search import Search
from cluster.session import Session, session
from engine.store import RunStore


def forget_failures(store: RunStore) -> None:
    """Lets what failed be trained again, by the stages that were completed without it.

    What follows from a stage has another key once that has come to something else.
    """

    def lacks(stage: str, output: Any, failed: Set[str]) -> bool:
        match stage:
            case "alpha":
                return output["failed"] > 0
            case "sample":
                return bool(output["failures"])
            case "choose":
                # Rivals are asked within: trainings that failed leave one out, or with less.
                candidates = output["candidates"]
                judged = [len(one["accuracies"]) for one in candidates]
                return (
                    bool(output["left_out"])
                    or (len(judged) > 1 and min(judged) < store.info().recipe.choose.repeats)
                    or any(not failed.isdisjoint(one["trained"]) for one in candidates)
                )
            case _ if stage.startswith("propose-"):
                return not failed.isdisjoint(output["trained"])
            case _:
                return False

    store.forget_failures(lacks)


@contextmanager
def opened_search(
    location: Path | str,
    address: str | None,
    console: Console | None,
    max_hours: MaxHours | None = None,
    retry_failed: bool = False,
) -> Generator[Search]:
    """Locks a run and yields its search, whose Ray is started on first use and ended after.

    Args:
        location: of the run.
        address: of a Ray cluster; None starts a private session.
        console: where progress is shown; None for standard output.
        max_hours: stop in order once the run has used so much.
        retry_failed: train again what failed before.

    Raises:
        UserError: there is no such run, or another process works on it.
    """
    store = RunStore(location)
    with (
        store.lock(),
        Progress(console or Console()) as progress,
        stopped_after(max_hours, store, store.info().recipe.cluster, progress),
        session(address, store.logs) as ray_session,
    ):
        if retry_failed:
            forget_failures(store)
        yield Search(
            recipe=store.info().recipe, store=store, session=ray_session, progress=progress
        )


def known_search(location: Path | str) -> Search:
    """Returns the search of a run whose stages may be read but not run."""
    store = RunStore(location, read_only=True)
    return Search(
        recipe=store.info().recipe,
        store=store,
        session=Session(None, store.logs),
        progress=Progress(Console(quiet=True)),
    )
