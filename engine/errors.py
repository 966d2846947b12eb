"""The errors of the program: those that the user can mend, and one that ends a row."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: one line with the rule, the value found and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class StorageError(UserError):
    """Where the run is kept cannot be read or written; no fault of the work that was to be kept."""


class Inapplicable(UserError):
    """A method of scaling has no network for these limits."""


class Unfinished(UserError):
    """A stage of a run is read that is not complete.

    Attributes:
        stage: its name.
    """

    def __init__(self, message: str, stage: str = "") -> None:
        super().__init__(message)
        self.stage = stage


class TrainingFailed(Exception):
    """A training that ended without a usable network (NaN loss, no progress).

    It is recorded as a failed row; repeating it with the same seed would fail again.
    """


def first_line(error: Exception) -> str:
    """Returns the first line of what a library's error says, its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the closest known word, else all, if there are any."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def require(holds: bool, rule: str, value: object) -> None:
    """Raises a ValueError unless ``holds``, as a dataclass does for a field out of its range."""
    if not holds:
        raise ValueError(f"{rule}, not {value!r}")
