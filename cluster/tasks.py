"""Results of tasks of Ray."""

from typing import TypeVar

import ray
from ray.exceptions import RayTaskError

from engine.errors import TrainingFailed, UserError

T = TypeVar("T")


def result_of(task: "ray.ObjectRef[T]") -> T:
    """Waits for a task of Ray and returns its result.

    Raises:
        UserError: what the task raised as one, or that a training in it failed; without the
            traceback that Ray makes its message.
    """
    try:
        return ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        if isinstance(error.cause, TrainingFailed):
            raise UserError(f"a training that was tried failed: {error.cause}") from None
        raise
