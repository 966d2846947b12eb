"""What all scenarios of faults.py share: a search that nothing happened to, and others like it."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

from tiny_search import TinySearch

TRAINING_STAGES = ("baseline", "alpha", "sample", "choose", "train")


class Bench:
    """Makes searches in a folder, and has one that nothing happened to.

    Args:
        folder: for runs and logs.
        kills: of the driver, if there is time for so many.
        minutes: in which it is killed.
    """

    def __init__(self, folder: Path, kills: int, minutes: float, seed: int) -> None:
        self.folder, self.kills, self.minutes = folder, kills, minutes
        self.random = random.Random(seed)
        self.whole = self.undisturbed("whole")

    def undisturbed(self, name: str, settings: tuple[str, ...] = ()) -> TinySearch:
        """A search that nothing happens to; what this folder has of it is not done again."""
        search = self._search(name, "", (), settings)
        search.to_the_end()
        return search

    def search(
        self,
        name: str,
        runs: str = "",
        words: tuple[str, ...] = (),
        settings: tuple[str, ...] = (),
    ) -> TinySearch:
        """A new one."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self._search(name, runs, words, settings)

    def _search(
        self, name: str, runs: str, words: tuple[str, ...], settings: tuple[str, ...]
    ) -> TinySearch:
        return TinySearch(
            runs=runs or str(self.folder / name),
            name="run",
            logs=self.logs(name),
            words=words,
            settings=settings,
        )

    def logs(self, name: str) -> Path:
        logs = self.folder / "logs" / name
        logs.mkdir(parents=True, exist_ok=True)
        return logs

    def seconds(self, stage: str) -> float:
        """How long a stage of the search took that nothing happened to."""
        (manifest,) = Path(self.whole.location).glob(f"{stage}-*/manifest.json")
        return json.loads(manifest.read_text())["seconds"]


def together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of several runs as those of one: sums, the worst, and whether all are the same."""
    return {
        "runs": len(found),
        **{
            key: all(values) if key == "same_result" else
            max(values) if key.startswith("most") else sum(values)
            for key in found[0]
            for values in [[each[key] for each in found]]
        },
    }  # fmt: skip
