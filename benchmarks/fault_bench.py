"""What all scenarios of faults.py share: a search that nothing happened to, and others like it."""

import json
import random
from pathlib import Path
from typing import Any

from tiny_search import TinySearch

TRAINING_STAGES = ("baseline", "alpha", "sample", "train")


class Bench:
    """Makes searches in a folder, and has one that nothing happened to.

    Args:
        folder: for runs and logs.
        kills: of the driver, at the least.
    """

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.folder, self.kills = folder, kills
        self.random = random.Random(seed)
        self.whole = self.search("whole")
        self.whole.to_the_end()

    def search(
        self,
        name: str,
        runs: str = "",
        words: tuple[str, ...] = (),
        settings: tuple[str, ...] = (),
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
        logs.mkdir(parents=True)
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
