"""Measures for a run: on a node of Ray, or by an exchange of files with a device elsewhere."""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.device import measure
from engine.closed_loop import TRIES, steady
from engine.codec import decode, pretty
from engine.errors import UserError
from engine.exchange import SCRIPT, Request, load_plan, make_plan, read_result, script_source
from engine.folder import Folder
from engine.graph import load_graph
from engine.measure import CARE, Measurement
from engine.recipe import Device, Profile
from engine.results import BaselineResult, Latency
from engine.spec import NetworkSpec
from engine.store import RunStore

log = logging.getLogger("hacscale")

_PLAN = "plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """The device of a run.

    Attributes:
        settings: how networks are measured.
        start_ray: makes sure that Ray runs.
    """

    device: Device
    settings: Profile
    store: RunStore
    start_ray: Callable[[], None]

    @property
    def tries(self) -> int:
        """Sessions at most of a network that is slower than expected; see `steady`.

        Each would be an exchange of files with a device elsewhere.
        """
        return 1 if self.device.place == "offline" else TRIES

    @property
    def repeats(self) -> tuple[int, int]:
        """Calls and rounds of a profile; see `engine.measure.CARE`."""
        return self.settings.calls, self.settings.rounds

    def __call__(
        self,
        purpose: str,
        specs: Sequence[NetworkSpec],
        reference: NetworkSpec,
        *,
        per_layer: bool,
    ) -> Measurement:
        """Measures networks; of a device elsewhere, returns what was imported.

        Args:
            purpose: what for. A device elsewhere measures the same networks again for another
                purpose.
            specs, reference, per_layer: as for `engine.measure.time_networks`.

        Raises:
            UserError: the device cannot be measured; or it is elsewhere, and the files that are to
                go there have been written.
        """
        calls, rounds = self.repeats
        rounds *= 1 if per_layer else CARE
        if self.device.place != "offline":
            self.start_ray()
            measured = measure(specs, reference, self.device, calls, rounds, per_layer)
            _warn(measured)
            return measured
        request = Request(
            purpose=purpose,
            specs=tuple(specs),
            reference=reference,
            device=self.device,
            calls=calls,
            rounds=rounds,
            per_layer=per_layer,
        )
        folder = exchange_folder(self.store)
        known = folder.read(_imported(request))
        if known is not None:
            measured = decode(Measurement, known, folder.path(_imported(request)))
            _warn(measured)
            return measured
        graph = load_graph(reference.model, reference.resolution)
        folder.write(_PLAN, pretty(make_plan(graph, request)))
        folder.write(SCRIPT, script_source())
        run = shlex.quote(self.store.location)
        raise UserError(
            f"{len(specs)} networks wait for the device: copy {folder.path(_PLAN)} and {SCRIPT} "
            f"there, run `python {SCRIPT} {_PLAN} result.csv` there, then here `hacscale profile "
            f"{run} --import result.csv` and `hacscale resume {run}`"
        )

    def steadily(
        self,
        purpose: str,
        expected_ms: Mapping[NetworkSpec, float | None],
        baseline: BaselineResult,
    ) -> dict[NetworkSpec, Latency]:
        """Measures networks in one session, and again those that are slower than expected.

        See `engine.closed_loop.steady` and `latencies`.
        """
        specs = list(expected_ms)

        def measured(indices: Sequence[int], session: int) -> list[Latency]:
            return self.latencies(purpose, [specs[i] for i in indices], baseline, session)

        found = steady(measured, list(expected_ms.values()), self.tries)
        return dict(zip(specs, found, strict=True))

    def latencies(
        self,
        purpose: str,
        specs: Sequence[NetworkSpec],
        baseline: BaselineResult,
        session: int = 1,
    ) -> list[Latency]:
        """Measures networks, as ratios to the base network of the same session.

        Args:
            purpose, specs: as for a call.
            baseline: of the run.
            session: number among those for one purpose. A device elsewhere is asked again by it,
                as what it has answered once is kept.

        Raises:
            UserError: as for a call, or the device is not the one that the run began with.
        """
        asked = purpose if session == 1 else f"{purpose}, session {session}"
        measured = self(asked, specs, baseline.spec, per_layer=False)
        measured.key.check(baseline.key, "the device that was measured now")
        return [timing.latency for timing in measured.relative_to(baseline.latency.ms).timings]


def _warn(measured: Measurement) -> None:
    if measured.warning:
        log.warning("%s", measured.warning)


def import_result(store: RunStore, data: bytes, what: str) -> Measurement:
    """Takes a table for what a run waits for.

    Args:
        data: of the table.
        what: how messages call it.

    Raises:
        UserError: the run waits for nothing, or the table is not what it waits for.
    """
    folder = exchange_folder(store)
    written = folder.read(_PLAN)
    if written is None:
        raise UserError(
            f"{store.location} waits for no measurement; give a recipe or a model in its place, or "
            "set device.place to offline"
        )
    try:
        request = load_plan(written, folder.path(_PLAN)).request
    except UserError as error:
        run = shlex.quote(store.location)
        raise UserError(
            f"{error}; if another version of this program wrote it, `hacscale resume {run}` writes "
            "it again"
        ) from None
    measured = read_result(data, request, what)
    folder.write(_imported(request), pretty(measured))
    return measured


def awaited(store: RunStore) -> str:
    """Returns the digest of the plan whose result a run waits for; empty if none can be read."""
    folder = exchange_folder(store)
    written = folder.read(_PLAN)
    try:
        return load_plan(written, folder.path(_PLAN)).digest if written else ""
    except UserError:
        return ""


def exchange_folder(store: RunStore) -> Folder:
    """Returns the folder of a run where plans go out and results come in."""
    return store.folder / "measure"


def _imported(request: Request) -> str:
    return f"{request.digest}.json"
