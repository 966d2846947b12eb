"""Results of tasks of Ray, and what it says where there are none."""

import re
from pathlib import Path
from typing import TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.code import PACKAGES
from engine.bench import is_out_of_memory
from engine.errors import TrainingFailed, UserError

T = TypeVar("T")

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r'(?P<indent> +)File "(?P<path>[^"]+)", line (?P<line>\d+)')
_HEAD = re.compile(r"Traceback \(most recent call last\):$|^ray::.*\(pid=")
"""Of the traceback of one exception; Ray replaces the words."""
_LIBRARY = re.compile(r"^<|/site-packages/|/lib/python3\.\d+/")
_OURS = {package.name for package in PACKAGES}
_LONGEST = 300


def result_of(task: "ray.ObjectRef[T]") -> T:
    """Waits for a task of Ray and returns its result.

    Raises:
        UserError: what the task raised as one, that a training in it failed, or that it or its
            worker had too little memory; without the traceback that Ray makes its message.
    """
    try:
        return ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        if isinstance(error.cause, TrainingFailed):
            raise UserError(f"a training that was tried failed: {error.cause}") from None
        if is_out_of_memory(error.cause):
            said = said_by(error)
            raise UserError(
                f"a worker ran out of GPU memory ({said}); lower profile.max_width "
                "(and allocate.max_width), data.resolution or device.batch"
            ) from error
        raise
    except RayError as error:
        said = said_by(error)
        raise UserError(
            f"a worker of Ray ended before it was done ({said}); repeat the command, "
            "with more memory for each worker if that was what it lacked"
        ) from error


def said_by(error: BaseException) -> str:
    """Returns what an error of Ray is about; see `cause_in`."""
    return cause_in(str(error), type(error).__name__)


def cause_in(text: str, otherwise: str) -> str:
    """Returns the exception at the end of a traceback, and where the user's code raised it.

    Of a message of several lines the first stands for all. Text that is no traceback has its say in
    its last line.

    Args:
        text: what Ray says of an error.
        otherwise: what to say of an empty text.
    """
    lines = [line.rstrip() for line in _COLOURS.sub("", text).splitlines() if line.strip()]
    if not lines:
        return otherwise
    frames = [(number, match) for number, line in enumerate(lines) if (match := _FRAME.match(line))]
    if not frames:
        return lines[-1].strip()[:_LONGEST]
    last, innermost = frames[-1]
    indented = len(innermost["indent"])
    below = (line for line in lines[last + 1 :] if len(line) - len(line.lstrip()) < indented)
    raised = next(below, lines[-1]).strip()[:_LONGEST]
    chain = max((n for n, line in enumerate(lines) if _HEAD.search(line)), default=0)
    theirs = [frame for number, frame in frames if number > chain and _is_the_users(frame["path"])]
    where = f" ({Path(theirs[-1]['path']).name}, line {theirs[-1]['line']})" if theirs else ""
    return f"{raised}{where}"


def _is_the_users(path: str) -> bool:
    """Whether a file is of no library, and not of this program, wherever that lies on a node."""
    ours = Path(__file__).parents[1]
    tails = (Path(*Path(path).parts[-length:]) for length in (2, 3))
    return not _LIBRARY.search(path) and not any(
        tail.parts[0] in _OURS and (ours / tail).is_file() for tail in tails
    )
