"""Whether a factory of the user still makes the network that a run began with."""

from dataclasses import dataclass

from engine.codec import STRICT
from engine.errors import UserError
from engine.graph import load_graph
from engine.spec import NetworkSpec
from engine.store import RunStore

_STAGE = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A network.

    Attributes:
        digest: identity of the layers, their options and the forward.
        values: of what is kept of the parameters and buffers; None in runs that did not note it.
        options: of layers of the user's own classes, which need not show in their text; likewise.
    """

    __pydantic_config__ = STRICT

    digest: str
    values: str | None = None
    options: str | None = None


def check_factory(store: RunStore, base: NetworkSpec) -> None:
    """Checks what a factory makes against what it made when the run began, if that is known.

    Trainings are kept under the name of a factory, whose code may change.

    Args:
        store: of the run; it keeps what it sees first, unless it is read-only.
        base: the network before scaling, of any kind of model.

    Raises:
        UserError: it is another network.
    """
    if ":" not in base.model.name:
        return
    if store.read_only and not store.is_committed(_STAGE, base):
        return
    graph = load_graph(base.model, base.resolution)
    found = _Made(
        digest=graph.identity(base),
        values=graph.values_identity(),
        options=graph.options_identity(),
    )
    known = store.stage(_STAGE, _Made, base, lambda: found)
    if known.values is None and graph.is_frozen:
        raise UserError(
            f"{base.model.name} has frozen parameters, whose values the version of this program "
            f"that began the run {store.location} did not keep; give another --name to start anew"
        )
    noted = known.values or found.values, known.options or found.options
    if (known.digest, *noted) != (found.digest, found.values, found.options):
        raise UserError(
            f"{base.model.name} makes another network than when the run {store.location} began; "
            "give another --name to start a new one, or take the change back"
        )
