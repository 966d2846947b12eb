"""Which networks to train for their importance: random widths in blocks of Latin hypercubes."""

from functools import lru_cache

import numpy as np
from scipy.stats import qmc

from engine.codec import digest
from engine.graph import NetworkGraph
from engine.recipe import Sample
from engine.spec import NetworkSpec


def sampled_spec(
    graph: NetworkGraph, base: NetworkSpec, settings: Sample, seed: int, index: int
) -> NetworkSpec:
    """Returns the sampled network number ``index``, a pure function of its arguments.

    The width of every group is its base width times a log-uniform multiplier in
    [min_width, max_width], rounded to a valid width. The multipliers of each ``settings.block``
    consecutive networks are a Latin hypercube that was optimised for centred discrepancy: each
    group takes one multiplier from each of ``block`` strata. Hypercubes follow one another, so
    that a larger ``settings.networks`` extends the same sequence, and any machine can make any
    part of it. On narrow networks rounding can give two indexes the same widths; they then are
    one row.

    Source: section III-B of HACScale samples random widths without saying how; a hypercube had
    half the error of independent draws in the exponent of Eq. 6.

    Args:
        graph: of the network.
        base: widths that are multiplied, and the resolution.
        settings: block and range; ``settings.networks`` does not matter.
        seed: of the whole sequence.
        index: from 0.

    Raises:
        ValueError: a negative index.
    """
    if index < 0:
        raise ValueError(f"index must not be negative, not {index}")
    block, row = divmod(index, settings.block)
    uniform = _hypercube(len(base.widths), settings.block, seed, block)[row]
    ratio = settings.max_width / settings.min_width
    return base.with_widths(
        {
            group: graph.round_width(group, width * settings.min_width * ratio**u)
            for (group, width), u in zip(base.widths, uniform, strict=True)
        }
    )


@lru_cache(maxsize=16)
def _hypercube(dimensions: int, points: int, seed: int, block: int) -> tuple[list[float], ...]:
    """Returns ``points`` rows of ``dimensions`` values in [0, 1)."""
    rng = np.random.default_rng(int(digest(("widths", seed, block)), 16))
    cube = qmc.LatinHypercube(dimensions, optimization="random-cd", rng=rng)
    return tuple(cube.random(points).tolist())
