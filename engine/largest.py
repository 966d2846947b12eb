"""The largest member of a one-parameter family that keeps its limits."""

from collections.abc import Callable

_HALVINGS = 24
"""Of a range of multipliers; 2⁻²⁴ of it is below one channel of any network."""


def largest(low: float, high: float, keeps: Callable[[float], bool]) -> float | None:
    """Returns the largest parameter whose member keeps its limits.

    Args:
        low, high: range of the parameter.
        keeps: whether the member keeps the limits; what is limited does not fall as the parameter
            grows.

    Returns:
        None if not even ``low`` does.
    """
    if keeps(high):
        return high
    if not keeps(low):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if keeps(middle):
            low = middle
        else:
            high = middle
    return low
