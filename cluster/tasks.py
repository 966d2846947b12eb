"""Results of tasks of Ray, and what it says where there are none."""

from typing import TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from engine.bench import is_out_of_memory
from engine.errors import TrainingFailed, UserError

T = TypeVar("T")


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
    """Returns the last line of an error of Ray, which is that of its cause."""
    return last_line(str(error), type(error).__name__)


def last_line(text: str, otherwise: str) -> str:
    """Returns the last line of what Ray says of an error, ``otherwise`` if it says nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else otherwise
