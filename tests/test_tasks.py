"""What is said of errors that come from workers of Ray."""

import traceback

import pytest

from cluster.tasks import cause_in

CUDA = """CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."""


def of_ray(*frames: tuple[str, int], message: str) -> str:
    told = "".join(
        f'  File "{path}", line {line}, in f\n    g()\n    ^^^\n' for path, line in frames
    )
    return f"\x1b[36mray::Trial.step()\x1b[39m (pid=7, ip=10.0.0.2)\n{told}{message}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            of_ray(
                ("/env/lib/python3.11/site-packages/ray/tune/x.py", 5),
                ("/srv/hacscale/trainables/loop.py", 250),
                ("/home/cluster/mine.py", 12),
                ("/env/lib/python3.11/site-packages/torch/nn/functional.py", 99),
                message=f"RuntimeError: {CUDA}",
            ),
            "RuntimeError: CUDA error: device-side assert triggered (mine.py, line 12)",
        ),
        (
            of_ray(("/srv/engine/hardware/lut.py", 3), message="ValueError: ours\n  and more"),
            "ValueError: ours",
        ),
        (
            of_ray(("/home/u/mine.py", 3), message="ValueError: first\n")
            + "\nThe above exception was the direct cause of the following exception:\n\n"
            + of_ray(("/srv/trainables/trial.py", 9), message="RuntimeError: second"),
            "RuntimeError: second",
        ),
        ("The worker died.\n  pid: 7\nIt ran out of memory.\n\n", "It ran out of memory."),
        (" \n", "RayError"),
        ("x" * 999, "x" * 300),
    ],
)
def test_an_error_is_told_by_its_first_line_and_the_users_place(text: str, expected: str) -> None:
    assert cause_in(text, "RayError") == expected


def test_of_errors_that_follow_from_others_the_last_is_told() -> None:
    def fails() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second\nand its rest") from error

    try:
        fails()
    except ValueError:
        told = traceback.format_exc()
    line = fails.__code__.co_firstlineno + 4
    assert cause_in(told, "") == f"ValueError: second (test_tasks.py, line {line})"
