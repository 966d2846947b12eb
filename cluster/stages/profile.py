"""The profile stage: a latency model of the device for the network that is scaled."""

import math
from pathlib import Path

from cluster.search import Search
from engine.graph import NetworkGraph
from engine.hardware.contract import LatencyModel
from engine.hardware.models import load_latency
from engine.profile_key import ProfileKey
from engine.profiling import read_profile
from engine.results import BaselineResult, ProfileResult
from engine.widening import fast_steps

_FLAT = 1.25
"""Networks of such different widths differ less in latency only where launching them takes all."""


def profile_stage(search: Search, baseline: BaselineResult) -> ProfileResult:
    """Fits the latency model of this device for this network."""
    profiling, settings = search.profiling, search.recipe.profile

    def run() -> ProfileResult:
        if settings.file:
            return filed_profile(search, baseline.key)
        measured = search.measuring("profile", profiling.specs, profiling.base, per_layer=True)
        measured.key.check(baseline.key, "the device of the profile")
        return profiling.result(measured.relative_to(baseline.latency.ms))

    uses = (
        profiling.base,
        profiling.resolutions,
        search.recipe.device,
        settings,
        baseline.latency.ms,
    )
    return search.stage("profile", ProfileResult, uses, run, _sentence)


def _sentence(out: ProfileResult) -> str:
    measured = out.quality.measured_ms
    said = (
        f"latency model off by {out.quality.mape:.1%} on {len(measured)} networks it has not seen"
    )
    if max(measured) < _FLAT * min(measured):
        said += (
            f"; all of them take {min(measured):.3f} to {max(measured):.3f} ms, so that latency "
            "hardly limits widths on this device: device.batch decides what it has to do"
        )
    return said


def filed_profile(search: Search, key: ProfileKey) -> ProfileResult:
    """Reads the profile that the recipe names.

    Raises:
        UserError: it cannot be read, or is not of this network and the device of ``key``.
    """
    file = search.recipe.profile.file
    known = read_profile(Path(file), search.profiling)
    known.key.check(key, f"the profile {file}")
    return known


def latency_model(search: Search, profile: ProfileResult, baseline: BaselineResult) -> LatencyModel:
    """The profile's model, made right for the base network, where the truth is known."""
    model = load_latency(profile.model)
    # A hair below it, so that rounding never puts the base network over its own latency.
    predicted = model.predict(search.costs.of(search.base.spec)) * (1 + 1e-9)
    return model.rescaled(baseline.latency.ms / predicted)


def stepped_graph(search: Search, model: LatencyModel) -> NetworkGraph:
    """The graph of the base network with widths rounded to what the device computes fast.

    At all resolutions that the search may find: what is fast can depend on the pixels. Where the
    base width is no multiple for all of them, that of the base network's own resolution counts.
    """
    graph, base = search.base.graph, search.base.spec
    own, *others = (
        fast_steps(graph.formula(base.at(resolution)), model)
        for resolution in (base.resolution, *search.profiling.resolutions)
    )
    steps = dict(own)
    for group, step in own.items():
        common = math.lcm(step, *(other[group] for other in others))
        if base.width_of[group] % common == 0:
            steps[group] = common
    return graph.in_steps(steps)
