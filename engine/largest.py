"""The largest member of a family of networks that keeps its limits."""

from collections.abc import Callable

from engine.spec import NetworkSpec

_HALVINGS = 24
"""Of a range of multipliers; 2⁻²⁴ of it is below one channel of any network."""


def largest(
    make: Callable[[float], NetworkSpec],
    low: float,
    high: float,
    keeps: Callable[[NetworkSpec], bool],
) -> NetworkSpec | None:
    """Returns the network of a one-parameter family that comes closest to its limits.

    Args:
        make: from the parameter to the network; what is limited does not fall as it grows.
        low, high: range of the parameter.
        keeps: whether a network keeps the limits.

    Returns:
        None if not even ``make(low)`` keeps them.
    """
    best = make(low)
    if not keeps(best):
        return None
    if keeps(widest := make(high)):
        return widest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        spec = make(middle)
        if keeps(spec):
            low, best = middle, spec
        else:
            high = middle
    return best
