"""Uniform widths: the base's, all times one number."""

from collections.abc import Callable

from engine.allocation import capped
from engine.formula import NetworkFormula
from engine.largest import largest
from engine.spec import NetworkSpec


def widest_within(
    formula: NetworkFormula, most: float, keeps: Callable[[NetworkSpec], bool]
) -> NetworkSpec:
    """Returns the base's widths times the largest number in [1, ``most``] that keeps the limits.

    The base itself where not even that keeps them.
    """
    base = formula.base

    def widened(multiplier: float) -> NetworkSpec:
        widths = formula.multiplied(multiplier).width_of
        return base.with_widths(capped(widths, base.width_of, most, formula.rounding))

    return widened(largest(1.0, most, lambda x: keeps(widened(x))) or 1.0)
