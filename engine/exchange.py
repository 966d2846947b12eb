"""Measurements by exchange of files, for a device that this program does not reach.

A plan goes there with the script ``measure.py`` (`engine.bench`), which needs PyTorch alone; a
table of all readings comes back.
"""

import csv
import inspect
import io
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import fx

from engine import bench
from engine.bench import REFERENCE, Reading, Visit
from engine.codec import STRICT, decode, digest, pretty
from engine.errors import UserError
from engine.graph import NetworkGraph, graph_of
from engine.local_folder import write_atomic
from engine.measure import Measurement, summarise
from engine.model_source import bare_source, plain_network
from engine.profile_key import ProfileKey
from engine.recipe import Device
from engine.spec import NetworkSpec

SCRIPT = "measure.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNetwork:
    """A network to time.

    Attributes:
        input: shape of its input.
        source: Python that defines ``build()``, of PyTorch alone.
        ops: for each of its ops, in order, the op of the network that it is a part of; None where
            they are those of the network.
    """

    __pydantic_config__ = STRICT

    input: tuple[int, int, int, int]
    source: str
    ops: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Networks that are to be timed elsewhere.

    Attributes:
        purpose: what for. The same networks for another purpose are timed again: what chose a
            network is not what judges it.
    """

    __pydantic_config__ = STRICT

    purpose: str
    specs: tuple[NetworkSpec, ...]
    reference: NetworkSpec
    device: Device
    calls: int
    rounds: int
    per_layer: bool

    @property
    def digest(self) -> str:
        """Its identity; where the device stands is no part of it."""
        return digest(replace(self, device=replace(self.device, place="offline")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``plan.json``: a request with everything that the script needs. See `engine.bench.main`."""

    __pydantic_config__ = STRICT

    digest: str
    request: Request
    reference: PlannedNetwork
    networks: tuple[PlannedNetwork, ...]


def make_plan(graph: NetworkGraph, request: Request) -> Plan:
    """Writes the networks of ``request`` as source.

    Raises:
        UserError: the runtime needs more than PyTorch, or the network cannot be written as plain
            PyTorch, op by op.
    """
    device = request.device
    if device.runtime != "eager":
        raise UserError(
            f"a device that is elsewhere is measured with device.runtime eager, not "
            f"{device.runtime!r}: the script needs PyTorch alone"
        )
    return Plan(
        digest=request.digest,
        request=request,
        reference=_planned(graph, request.reference, device.batch),
        networks=tuple(_planned(graph, spec, device.batch) for spec in request.specs),
    )


def write_plan(path: Path, plan: Plan) -> Path:
    """Writes a plan, and the script beside it, whose path is returned.

    Raises:
        UserError: they cannot be written, the plan would have the name of the script, or another
            script of that name is there.
    """
    if path.name == SCRIPT:
        raise UserError(f"{SCRIPT} is the name of the script beside the plan; give --plan another")
    script, source = path.parent / SCRIPT, script_source()
    try:
        there = script.read_bytes() if script.exists() else source
    except OSError as error:
        raise UserError(f"cannot read {script}: {error.strerror}") from None
    if there.partition(b"\n")[0] != source.partition(b"\n")[0]:  # of some version of ours
        raise UserError(f"{script} is there already and not ours; give --plan another directory")
    write_atomic(path, pretty(plan))
    write_atomic(script, source)
    return script


def script_source() -> bytes:
    """Returns the script that measures a plan."""
    return inspect.getsource(bench).encode()


def read_result(data: bytes, request: Request, what: str) -> Measurement:
    """Reads the table that the script wrote for ``request``.

    Args:
        data: of the file.
        what: how messages call it.

    Raises:
        UserError: it is of another plan, columns are missing, a time is negative or no number, or
            rounds or ops are missing.
    """
    head, rows = _parts(data, what)
    if head.get("plan") != request.digest:
        raise UserError(
            f"{what} is of the plan {head.get('plan', 'of nobody')}, not of {request.digest}; "
            "measure the plan that was written last, or repeat the recipe and --set that it was "
            "written with"
        )
    visits = _visits(rows, len(request.specs), what)
    counts = [sum(v.network == n for v in visits) for n in range(len(request.specs))]
    if not _between_references(visits) or min(counts, default=0) < request.rounds:
        raise UserError(
            f"{what} does not hold {request.rounds} visits to each of {len(counts)} networks with "
            "the reference between them; it is cut off: measure again"
        )
    ops = {frozenset(v.reading.layer_ms) for v in visits if v.network != REFERENCE}
    if len(ops) > 1 or (request.per_layer and ops == {frozenset[str]()}):
        raise UserError(f"{what} has not the times of the same ops for every network")
    took = head.pop("seconds", None)
    seconds = None if took is None else _time(took, f"the head of {what}")
    environment = {name: value for name, value in head.items() if name != "plan"}
    device = request.device
    return Measurement(
        key=ProfileKey.of(device, environment.get("device", "unknown")),
        environment={
            "runtime": device.runtime,
            "layout": device.layout,
            "dtype": "float32",
            "threads": str(device.threads),
            "batch": str(device.batch),
            **environment,
            "power": "not measured: the script reads no sensor",
        },
        timings=tuple(summarise(request.specs, visits)),
        seconds=seconds,
    )


def _between_references(visits: Sequence[Visit]) -> bool:
    """Whether every visit to a network stands between two to the reference."""
    at_reference = [visit.network == REFERENCE for visit in visits]
    ends = at_reference[0] and at_reference[-1]
    return ends and all(one or other for one, other in pairwise(at_reference))


def plan_of(data: bytes, what: str) -> str:
    """Returns the digest of the plan that a table is of."""
    return _parts(data, what)[0].get("plan", "")


def _planned(graph: NetworkGraph, spec: NetworkSpec, batch: int) -> PlannedNetwork:
    module = graph_of(graph, spec).build(spec, seed=0).eval()
    plain = plain_network(module)
    source = bare_source(
        plain,
        classes=spec.model.classes,
        channels=spec.model.channels,
        resolution=spec.resolution,
    )
    names: dict[str, Any] = {}
    exec(source, names)
    there = [node.name for node in _calls(bench.traced(names["build"]().eval()))]
    wholes = _wholes(module, plain, spec.model.name)
    if len(there) != len(wholes):
        raise UserError(
            f"model {spec.model.name!r} cannot be measured elsewhere: as plain PyTorch it has "
            f"{len(there)} ops and not {len(wholes)}; measure it on a node (device.place)"
        )
    shape = (batch, spec.model.channels, spec.resolution, spec.resolution)
    ops = tuple(wholes) if wholes != there else None
    return PlannedNetwork(input=shape, source=source, ops=ops)


def _wholes(module: fx.GraphModule, plain: fx.GraphModule, model: str) -> list[str]:
    """For each op of a network as plain PyTorch, in order, the op of ``module`` it is a part of."""
    parts = deque(_calls(plain))
    found: list[str] = []
    for node in _calls(module):
        begun = len(found)
        apart = node.op == "call_module" and parts and parts[0].target != node.target
        while parts and (_is_part(parts[0], node) if apart else begun == len(found)):
            parts.popleft()
            found.append(node.name)
        if begun == len(found):
            raise UserError(
                f"model {model!r} cannot be measured elsewhere: as plain PyTorch nothing is left "
                f"of {node.target}; use a layer of torch.nn there"
            )
    return found + [part.name for part in parts]


def _is_part(part: fx.Node, layer: fx.Node) -> bool:
    """Whether an op comes from the forward of a layer, or is that layer."""
    stack: dict[str, tuple[str, Any]] = part.meta.get("nn_module_stack", {})
    return any(path == layer.target for path, _ in stack.values())


def _calls(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op.startswith("call")]


_REMEDY = (
    f"give the CSV file that {SCRIPT} wrote (latencies of single layers: --set profile.table=FILE "
    "profile.model=lut)"
)


def _parts(data: bytes, what: str) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """The facts at the head of a table, and its rows by their lines."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{what} is no text; {_REMEDY}") from None
    head = [line[1:].partition(":") for line in lines if line.startswith("#")]
    body = {n: line for n, line in enumerate(lines, start=1) if line.strip() and line[0] != "#"}
    reader = csv.DictReader(io.StringIO("\n".join(body.values())))
    try:
        # The head of the columns has a line of its own.
        found, rows = reader.fieldnames or (), dict(zip([*body][1:], reader, strict=False))
    except csv.Error as error:
        raise UserError(f"{what} is damaged ({error}); measure again") from None
    missing = [name for name in bench.COLUMNS if name not in found]
    if missing:
        raise UserError(
            f"{what} has no column {missing[0]!r} of {', '.join(bench.COLUMNS)}; {_REMEDY}"
        )
    if not rows:
        raise UserError(f"{what} holds no rows; measure again")
    return {name.strip(): value.strip() for name, _, value in head}, rows


def _visits(rows: Mapping[int, dict[str, str]], networks: int, what: str) -> list[Visit]:
    calls: dict[int, list[tuple[float, float | None, float]]] = {}
    layers: dict[int, dict[str, float]] = {}
    network_of: dict[int, int] = {}
    for number, row in rows.items():
        where = f"line {number} of {what}"
        visit, network = _whole(row["visit"], where), _whole(row["network"], where)
        if not REFERENCE <= network < networks:
            raise UserError(f"{where} is of network {network}, but the plan has {networks}")
        if network_of.setdefault(visit, network) != network:
            raise UserError(f"{where} gives visit {visit} a second network")
        counted = _time(row["counted_ms"], where)
        if row["op"]:
            layers.setdefault(visit, {})[row["op"]] = counted
        else:
            cpu = _time(row["cpu_ms"], where) if row["cpu_ms"] else None
            calls.setdefault(visit, []).append((counted, cpu, _time(row["wall_ms"], where)))
    for visit in network_of:
        if min((c[0] for c in calls.get(visit, ())), default=0.0) <= 0:
            raise UserError(f"{what} has no time of the whole network in visit {visit}")
    return [
        Visit(
            network=network_of[visit],
            reading=Reading(
                counted_ms=tuple(c[0] for c in calls[visit]),
                cpu_ms=tuple(c[1] for c in calls[visit] if c[1] is not None),
                wall_ms=tuple(c[2] for c in calls[visit]),
                layer_ms=layers.get(visit, {}),
            ),
        )
        for visit in sorted(network_of)
    ]


def _whole(text: str | None, where: str) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise UserError(f"{where} has {text or ''!r} where a whole number belongs") from None


def _time(text: str | None, where: str) -> float:
    try:
        ms = float(text or "")
    except ValueError:
        ms = math.nan
    if not 0 <= ms < math.inf:
        raise UserError(
            f"{where} has the time {text or ''!r}; a time is a number of ms, not negative"
        )
    return ms


def load_plan(data: bytes, what: str) -> Plan:
    """Reads ``plan.json``.

    Raises:
        UserError: it is something else.
    """
    return decode(Plan, data, what)
