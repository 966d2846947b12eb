"""A latency model of one device for one network: what to time for it, and what comes of it."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Literal

from engine.codec import STRICT, decode, pretty
from engine.costs import LayerCost
from engine.errors import UserError
from engine.formula import LayerFormula
from engine.graph import NetworkGraph
from engine.hardware.calibrated import calibrated
from engine.hardware.contract import Box, LatencyModel, op_class
from engine.hardware.lut import Lut, from_rows
from engine.hardware.models import fit_latency, load_latency
from engine.latency import judge, profile_specs
from engine.local_folder import write_atomic
from engine.measure import Measurement, Timing
from engine.recipe import Profile
from engine.results import ProfileResult
from engine.spec import NetworkSpec
from engine.tables import read_table


@dataclass(frozen=True, kw_only=True)
class Profiling:
    """What a profile asks for.

    Attributes:
        base: the base network, and the reference of every measurement.
        resolutions: what the model must hold for beside the base network's.
    """

    graph: NetworkGraph
    base: NetworkSpec
    resolutions: tuple[int, ...]
    settings: Profile

    @property
    def specs(self) -> list[NetworkSpec]:
        """All networks to time; the base network is the first."""
        fitted, held_out = self._split
        return [*fitted, *held_out]

    @cached_property
    def box(self) -> Box:
        """The networks that the model is to hold for."""
        return Box.around(self.graph, self.base, self.resolutions, self.settings)

    @cached_property
    def _split(self) -> tuple[list[NetworkSpec], list[NetworkSpec]]:
        return profile_specs(self.graph, self.base, self.resolutions, self.settings)

    def result(self, measured: Measurement) -> ProfileResult:
        """Fits the model and judges it.

        Args:
            measured: the networks of `specs`, in their order.

        Raises:
            UserError: the model cannot be fitted.
        """
        fitted = len(self._split[0])
        timings = measured.timings
        model = self._fitted(timings[:fitted], measured.key.batch)
        granularity: dict[str, int] = {}
        for cost in self.graph.cost(self.base).layers:
            # Several algorithms may compute a class: the coarser one counts.
            if cost.macs:
                known = granularity.get(op_class(cost), 1)
                found = model.granularity(cost), *model.fast_multiples(cost)
                granularity[op_class(cost)] = max(known, *found)
        return ProfileResult(
            model=model.to_json(),
            quality=judge(model, self.graph, timings[fitted:]),
            granularity=granularity,
            noise_floor=statistics.median(t.latency.noise_floor for t in timings),
            key=measured.key,
            environment=measured.environment,
            seconds=measured.seconds,
        )

    @cached_property
    def listed(self) -> Lut:
        """The tables of layers that ``settings.table`` holds.

        Raises:
            UserError: the file cannot be read, or does not reach a layer of some network.
        """
        model = from_rows(read_table(Path(self.settings.table)), self.box)
        for resolution in (self.base.resolution, *self.resolutions):
            for layer in self.graph.formula(self.base.at(resolution)).layers:
                for cost in self._extremes(layer):
                    model.op_ms(cost)
        for spec in self.specs:
            model.predict(self.graph.cost(spec))
        return model

    def _extremes(self, layer: LayerFormula) -> Iterator[LayerCost]:
        """Yields a layer with the fewest and the most input channels, and outputs, of the box."""
        for ends in product((0, 1), repeat=2):
            yield layer.cost(
                {
                    group: between[ends[bool(layer.cout.times(group))]]
                    for group, between in self.box.widths.items()
                }
            )

    def corners(self, resolution: int) -> Iterator[NetworkSpec]:
        """Yields the narrowest and the widest network at a resolution."""
        for end in (0, 1):
            widths = {group: between[end] for group, between in self.box.widths.items()}
            yield self.base.at(resolution).with_widths(widths)

    def _fitted(self, timings: Sequence[Timing], batch: int) -> LatencyModel:
        if self.settings.table:
            listed, as_it_stands = self.listed, self.settings.calibrate is False
            return listed if as_it_stands else calibrated(listed, self.graph, timings)
        return fit_latency(self.settings.model, self.graph, timings, self.box, batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFile:
    """What ``hacscale profile --out`` writes and ``profile.file`` reads.

    Attributes:
        timings: that the model was fitted to and judged on.
    """

    __pydantic_config__ = STRICT

    format: Literal["hacscale-profile"] = "hacscale-profile"
    version: Literal[1] = 1
    result: ProfileResult
    timings: tuple[Timing, ...]


def write_profile(path: Path, result: ProfileResult, timings: Sequence[Timing]) -> None:
    """Writes a profile.

    Raises:
        UserError: it cannot be written.
    """
    write_atomic(path, pretty(ProfileFile(result=result, timings=tuple(timings))))


def read_profile(path: Path, profiling: Profiling) -> ProfileResult:
    """Reads a profile that is to serve for ``profiling``.

    Raises:
        UserError: it cannot be read, or does not hold for all networks of ``profiling``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the profile {path}: {error.strerror}; `hacscale profile` writes one"
        ) from None
    result = decode(ProfileFile, data, str(path)).result
    model = load_latency(result.model)
    for resolution in profiling.box.resolutions:
        for corner in profiling.corners(resolution):
            model.check(corner)
    return result
