"""One live view of a run: the stage, its trials, the best so far, time left, failures."""

import time
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from engine.rows import Row

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(slots=True)
class _Stage:
    title: str
    began: float
    total: int = 0
    unit: str = ""
    known: int = 0
    ended: int = 0
    first_end: float | None = None
    ended_first: int = 0
    failed: int = 0
    best: float | None = None
    running: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def seconds_left(self) -> float | None:
        """From the pace since the first end: what came before it was mostly start-up."""
        since = self.ended - self.ended_first
        if self.first_end is None or since < 1 or not self.total:
            return None
        left = max(self.total - self.known - self.ended, 0)
        return (time.monotonic() - self.first_end) / since * left

    def count(self, ended: int) -> None:
        """So many trainings, or epochs of the one training, have ended.

        Of one that was taken up again the first look finds many, which say nothing of its pace.
        """
        if ended and self.first_end is None:
            self.first_end, self.ended_first = time.monotonic(), ended
        self.ended = ended


class Progress:
    """Shows a run as it goes: a live line on a terminal, plain lines elsewhere.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._stage: _Stage | None = None
        self._live: Live | None = None
        self._printed = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._line,
                console=self.console,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str, style: str = "") -> None:
        """Prints a line that stays."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def begin(self, title: str) -> None:
        """Begins a stage without trials."""
        self._stage = _Stage(title, time.monotonic())
        self._plain(force=True)

    def begin_trials(self, title: str, total: int, known: int) -> None:
        """Begins a stage of ``total`` trainings, of which ``known`` are in the ledger."""
        self._stage = _Stage(title, time.monotonic(), total=total, known=known)
        self._plain(force=True)

    def end(self, summary: str) -> None:
        """Ends the stage with what it found."""
        if self._stage is None:
            return
        seconds = time.monotonic() - self._stage.began
        self.say(f"✓ {self._stage.title}: {summary} ({_clock(seconds)})")
        self._stage = None

    def trial_started(self, trial_id: str) -> None:
        """A trial runs."""
        if self._stage:
            self._stage.running[trial_id] = 0

    def trial_epoch(self, trial_id: str, epoch: int, accuracy: float) -> None:
        """A trial has finished an epoch."""
        if self._stage:
            self._stage.running[trial_id] = epoch
            self._stage.best = max(self._stage.best or 0.0, accuracy)
            self._plain()

    def training(self, epoch: int, epochs: int) -> None:
        """The one training of this stage has finished some of its epochs."""
        if self._stage:
            self._stage.total, self._stage.unit = epochs, "epochs"
            self._stage.count(epoch)
            self._plain()

    def trial_left(self, trial_id: str) -> None:
        """A trial is over without a row, and its training comes again."""
        if self._stage:
            self._stage.running.pop(trial_id, None)

    def trial_ended(self, trial_id: str, row: Row) -> None:
        """A trial is over."""
        if self._stage:
            self._stage.running.pop(trial_id, None)
            self._stage.count(self._stage.ended + 1)
            if row.status == "failed":
                self._stage.failed += 1
                self.say(f"! training {row.task.id} failed: {row.error}", style="yellow")
            self._plain()

    def _plain(self, force: bool = False) -> None:
        now = time.monotonic()
        if self._live is None and (force or now - self._printed >= _SECONDS_BETWEEN_LINES):
            self._printed = now
            self.say(self._text())

    def _line(self) -> Table:
        grid = Table.grid()
        grid.add_row(Text("● ", style="bold cyan"), Text(self._text()))
        return grid

    def _text(self) -> str:
        stage = self._stage
        if stage is None:
            return ""
        parts = [stage.title]
        if stage.unit:
            parts.append(f"{stage.ended} of {stage.total} {stage.unit}")
        elif stage.total:
            done = stage.known + stage.ended
            left = max(stage.total - done - len(stage.running), 0)
            parts.append(f"{done} done, {len(stage.running)} running, {left} left")
        if stage.failed:
            parts.append(f"{stage.failed} failed")
        if stage.best is not None:
            parts.append(f"best {stage.best:.1%}")
        parts.append(_clock(time.monotonic() - stage.began))
        if stage.seconds_left is not None:
            parts.append(f"about {_clock(stage.seconds_left)} left")
        return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
