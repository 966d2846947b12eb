"""A search of seconds under real Ray, driven in processes that can be killed, and its counts."""

import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.cli import main
from engine.store import RunStore

STAGES = ("baseline", "profile", "alpha", "sample", "fit", "allocate", "choose", "train", "measure")

PATIENCE_S = 900.0
"""For a search on a machine that has other things to do."""

# A network of 37,000 parameters, 200 images and a device without noise.
RECIPE = [
    "digits-vgg11", "--set",
    "device.runtime=synthetic", "width=0.0625", "data.train_images=200",
    "train.epochs=4", "alpha.training.epochs=3", "sample.training.epochs=3",
    "alpha.trials=4", "alpha.batch=4", "alpha.repeats=1",
    "sample.networks=4", "sample.block=4", "profile.networks=8", "profile.held_out=2",
]  # fmt: skip

_PROCESSES = multiprocessing.get_context("forkserver")
# Drivers are forks of one process that has imported everything.
_PROCESSES.set_forkserver_preload(["cluster.driver", "engine.report", "ray.tune", "ray.train"])


@dataclass(kw_only=True)
class TinySearch:
    """One run, over all lives of its drivers.

    Attributes:
        deaths: of whatever was killed, cut off or refused to write.
        again: trainings that were in the ledger when a life began and were trained in it.
        repeated: for every life and training in it, how many epochs had been finished before.
        words: further words of the command that runs it; ``settings`` of the recipe.
    """

    runs: str
    name: str
    logs: Path
    words: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    deaths: int = 0
    again: int = 0
    repeated: list[int] = field(default_factory=list)
    lives: int = 0

    @property
    def location(self) -> str:
        path, question, query = self.runs.partition("?")
        return f"{path}/{self.name}{question}{query}"

    @property
    def store(self) -> RunStore:
        return RunStore(self.location, read_only=True)

    @property
    def log(self) -> Path:
        """What the driver of the latest life has printed."""
        return self.logs / f"{self.name}-{self.lives}.log"

    def start(self, *words: str) -> "Life":
        """Begins a life: ``hacscale WORDS`` where some are given, else the search itself."""
        self.lives += 1
        named = ["--runs-dir", self.runs, "--name", self.name]
        words = words or ("run", *RECIPE, *self.settings, *named, *self.words)
        process = _PROCESSES.Process(target=_drive, args=(str(self.log), words))
        done, epochs = self._finished(), self.epochs()
        process.start()
        return Life(search=self, process=process, done=done, epochs=epochs)

    def to_the_end(self, *words: str) -> None:
        """One life without a death."""
        code = self.start(*words).ended()
        if code:
            raise RuntimeError(f"the driver ended with {code}:\n{self.log.read_text()}")

    def result(self) -> dict[str, Any]:
        data = self.store.folder.read("result.json")
        assert data is not None
        return json.loads(data)

    def epochs(self) -> Counter[tuple[str, int]]:
        """How often every epoch of every training was finished."""
        return Counter((epoch.task, epoch.number) for epoch in self.store.epochs.read())

    def outcome(self, whole: "TinySearch") -> dict[str, Any]:
        """The counts, and whether the run ended like ``whole``."""
        return {
            "deaths": self.deaths,
            "lives": self.lives,
            "same_result": self.result() == whole.result(),
            "finished_trainings_trained_again": self.again,
            "most_finished_epochs_repeated_by_a_training": max(self.repeated, default=0),
            "checkpoints_left": len(self.store.checkpoints.entries()),
        }

    def _finished(self) -> set[str]:
        return {row.task.id for row in self.store.ledger.rows()}


@dataclass(kw_only=True)
class Life:
    """One driver, from its start to its end."""

    search: TinySearch
    process: Any
    done: set[str]
    epochs: Counter[tuple[str, int]]

    def kill(self) -> None:
        """Ends the driver with SIGKILL, unless it has come to its end."""
        if self.process.is_alive():
            self.process.kill()
        if self.ended() < 0:
            self.search.deaths += 1

    def ended(self) -> int:
        """Waits for the end, counts what was done, and returns the exit code."""
        self.process.join(PATIENCE_S)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise RuntimeError(f"no end in {PATIENCE_S:.0f} s:\n{self.search.log.read_text()}")
        if code < 0:
            time.sleep(3)  # workers notice that their driver is gone
        new = self.search.epochs() - self.epochs
        self.search.again += len({task for task, _ in new} & self.done)
        twice = Counter[str]()
        for (task, epoch), count in new.items():
            twice[task] += count if self.epochs[task, epoch] else count - 1
        self.search.repeated += twice.values()
        return code

    def wait_for(self, stage: str) -> bool:
        """Waits until a stage begins; returns whether it did before the driver's end."""
        return self.wait(lambda: f"\n{stage} ·" in "\n" + self.search.log.read_text())

    def wait_for_epoch(self, stage: str) -> bool:
        """Waits until an epoch ends in a stage; returns whether it did before the driver's end."""
        if not self.wait_for(stage):
            return False
        known = len(self.search.store.epochs.read())
        return self.wait(lambda: len(self.search.store.epochs.read()) > known)

    def wait(self, for_what: Callable[[], bool]) -> bool:
        """Waits until something is the case; returns whether it was before the driver's end."""
        end = time.monotonic() + PATIENCE_S
        while self.process.is_alive() and time.monotonic() < end:
            if self.search.log.exists() and for_what():
                return True
            time.sleep(0.05)
        return False


def _drive(log: str, words: Sequence[str]) -> None:
    with open(log, "w") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(out.fileno(), sys.stderr.fileno())
    main(words)
