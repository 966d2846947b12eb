"""The networks that a latency model is made from, and how wrong it is on others."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from scipy.stats import qmc, spearmanr

from engine.errors import UserError
from engine.graph import NetworkGraph
from engine.hardware.contract import Box, LatencyModel
from engine.measure import Timing
from engine.recipe import Profile
from engine.results import ModelQuality
from engine.spec import NetworkSpec

ONE_CHANNEL = (1, 8, 9, 16, 17, 32)
"""Channels that the networks of the sweep have more than the base, in all groups at once: one
more than a step of a device's staircase costs as much as the whole next step."""
DRAWS = 50
"""Latin hypercubes drawn at most in search of networks that differ."""


def judge(model: LatencyModel, graph: NetworkGraph, timings: Sequence[Timing]) -> ModelQuality:
    """Compares predictions with measurements of networks that the fit has not seen.

    The rank correlation is 0 where it is undefined, because all values are equal.

    Raises:
        UserError: no networks, or one outside the model's box.
    """
    if not timings:
        raise UserError("no networks to judge the latency model on; raise profile.held_out")
    for timing in timings:
        model.check(timing.spec)
    predicted = np.array([model.predict(graph.cost(timing.spec)) for timing in timings])
    measured = np.array([timing.latency.ms for timing in timings])
    errors = np.abs(predicted - measured) / measured
    varied = bool(np.ptp(predicted) > 0 and np.ptp(measured) > 0)
    return ModelQuality(
        mape=float(errors.mean()),
        rmspe=float(np.sqrt((errors**2).mean())),
        within_10=float((errors <= 0.1).mean()),
        spearman=float(spearmanr(predicted, measured).statistic) if varied else 0.0,  # pyright: ignore[reportAttributeAccessIssue]
        predicted_ms=tuple(predicted.tolist()),
        measured_ms=tuple(measured.tolist()),
    )


def profile_specs(
    graph: NetworkGraph, base: NetworkSpec, resolutions: Sequence[int], profile: Profile
) -> tuple[list[NetworkSpec], list[NetworkSpec]]:
    """Returns the networks to fit a latency model on, and others to judge it on.

    Training starts with the base network, the narrowest at the lowest resolution and the widest
    at the highest, and a sweep: networks that are a few channels wider than the base, at most a
    quarter of all, by which a fit finds how many channels the device computes together. All
    others have independent log-uniform multipliers of the base widths from a
    Latin hypercube, with the resolutions in turn. No network occurs twice.

    Raises:
        UserError: an impossible resolution, or fewer distinct networks than asked for.
    """
    box = Box.around(graph, base, resolutions, profile)
    pixels = sorted({base.resolution, *resolutions})
    for resolution in pixels:
        graph.check_resolution(resolution)
    corners = (
        base.at(pixels[end]).with_widths({g: w[end] for g, w in box.widths.items()})
        for end in (0, -1)
    )
    sweep = [wider_by(graph, base, more) for more in ONE_CHANNEL]
    inside = [s for s in sweep if all(width <= box.widths[g][1] for g, width in s.widths)]
    specs = dict.fromkeys((base, *corners, *inside[: profile.networks // 4]))
    wanted = profile.networks + profile.held_out
    sampler = qmc.LatinHypercube(len(base.widths), rng=np.random.default_rng(profile.seed))
    spread = profile.max_width / profile.min_width
    turns = cycle(pixels)
    for _ in range(DRAWS):
        # Training and held-out networks come from one hypercube, shuffled by its construction.
        for unit in sampler.random(wanted - len(specs)):
            multipliers = profile.min_width * spread**unit
            widths = {
                group: graph.round_width(group, width * m)
                for (group, width), m in zip(base.widths, multipliers, strict=True)
            }
            specs[base.at(next(turns)).with_widths(widths)] = None
        if len(specs) == wanted:
            break
    if len(specs) < wanted:
        raise UserError(
            f"the profile asks for {wanted} networks, but its box of widths and resolutions "
            f"holds few more than {len(specs)}; lower profile.networks or widen the box"
        )
    found = list(specs)
    return found[: profile.networks], found[profile.networks :]


def wider_by(graph: NetworkGraph, base: NetworkSpec, more: int) -> NetworkSpec:
    """Returns the network with so many channels more in every group, rounded to valid widths."""
    return base.with_widths({g: graph.round_width(g, width + more) for g, width in base.widths})
