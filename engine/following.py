"""What is known of a network while its nodes are followed one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from engine.channels import Channels, ChannelVariables, Refusal
from engine.layout import Value, whole
from engine.ops import WRITERS, Kind, Op
from engine.shapes import Shape, first_tensor, shapes_of

Values = Value | tuple[Value, ...]

_OTHER_NAMES = {"dim": "axis", "dim0": "axis0", "dim1": "axis1", "size": "shape", "shape": "size"}
"""Names of arguments that PyTorch takes for others."""


class Following:
    """Ops and values so far.

    Args:
        returned: what every node returns at the network's own widths.
        larger: the same for larger images, as far as the network can take them.

    Attributes:
        variables: of all channels.
        ops: in execution order, one for each node that makes a tensor out of images.
        values: by node; several for a node that returns several tensors.
        parameters: axis, and where it lies, of every parameter that is used outside of a layer.
        flattens: nodes that fold height and width into the channels although these depend on the
            resolution of the images.
        positions: of every linear layer behind such a node, the height × width that it was
            written for.
    """

    def __init__(self, returned: Mapping[fx.Node, Any], larger: Mapping[fx.Node, Any]) -> None:
        self.variables = ChannelVariables()
        self.ops: list[Op] = []
        self.values: dict[fx.Node, Values] = {}
        self.parameters: dict[str, tuple[Channels, int | None]] = {}
        self.flattens: list[fx.Node] = []
        self.positions: dict[str, int] = {}
        self._returned = returned
        self._counted: set[str] = set()
        others = shapes_of(larger)
        self._sized = {n for n, shape in shapes_of(returned).items() if others.get(n) == shape}

    # Reading nodes ---------------------------------------------------------------------------

    def shape(self, node: fx.Node) -> Shape:
        """Shape of what ``node`` returns, or of the first of several tensors."""
        tensor = first_tensor(self._returned[node])
        assert tensor is not None
        return tuple(tensor.shape)

    def several(self, node: fx.Node) -> tuple[Shape, ...]:
        """Shapes of all tensors that ``node`` returns in a sequence, () if it returns one."""
        value = self._returned[node]
        return tuple(tuple(t.shape) for t in value) if isinstance(value, list | tuple) else ()

    def tensors(self, node: fx.Node) -> list[Value]:
        """All tensors that ``node`` takes, in order.

        Raises:
            Refusal: it takes the sequence that another node returned.
        """
        sources: list[fx.Node] = []
        fx.map_arg((node.args, node.kwargs), sources.append)
        found = [self.values[source] for source in sources if source in self.values]
        if not all(isinstance(value, Value) for value in found):
            raise Refusal("it takes several tensors in one argument")
        return found  # pyright: ignore[reportReturnType]

    def first(self, node: fx.Node) -> Value:
        """The first tensor that ``node`` takes.

        Raises:
            Refusal: it takes none.
        """
        tensors = self.tensors(node)
        if not tensors:
            raise Refusal("it takes no tensor made out of images")
        return tensors[0]

    def literal(self, node: fx.Node, position: int, name: str, default: Any = None) -> Any:
        """An argument as it stands in the program: nodes where it was computed."""
        if position < len(node.args):
            return node.args[position]
        return node.kwargs.get(name, node.kwargs.get(_OTHER_NAMES.get(name, name), default))

    def argument(self, node: fx.Node, position: int, name: str, default: Any = None) -> Any:
        """An argument at the network's own widths."""
        return self.concrete(self.literal(node, position, name, default))

    def concrete(self, literal: Any) -> Any:
        """An argument with the nodes in it replaced by what they return."""
        return fx.map_arg(literal, lambda source: self._returned[source])

    def written_by(self, *values: Value) -> str:
        """The layers whose kernels wrote the channels of ``values``, for messages."""
        writers = sorted(self._writer(value) for value in values)
        return " + ".join(dict.fromkeys(name for _, name in writers))

    def _writer(self, value: Value) -> tuple[int, str]:
        if value.op is None:
            return -1, ", ".join(value.learnt) or "a constant"
        index = value.op
        while index >= 0:
            op = self.ops[index]
            if op.kind in WRITERS:
                return index, op.module
            if op.kind == "cat":
                return index, op.name
            index = op.inputs[0]
        return -1, "the input"

    def is_sized(self, value: Value) -> bool:
        """Whether the height and width of ``value`` do not depend on the resolution."""
        return value.op is None or (value.op >= 0 and self.makes_sized(self.ops[value.op].name))

    def makes_sized(self, node: str) -> bool:
        """Whether the shape of what a node returns does not depend on the resolution."""
        return node in self._sized

    # Writing ops -----------------------------------------------------------------------------

    def all_channels(self, value: Value) -> Channels:
        """All channels of ``value``, also those of further parts."""
        return whole(value, self.variables)

    def scalar(self) -> Channels:
        """An axis of one channel that stays one."""
        axis = self.variables.new(1)
        self.variables.fix(axis, "a single channel")
        return axis

    def emit(
        self,
        node: fx.Node,
        kind: Kind,
        after: Value,
        inputs: Sequence[Value],
        *,
        cin: Channels | None = None,
        learnt: Channels = (),
        **details: Any,
    ) -> Value:
        """Appends the op of ``node``, which makes ``after`` out of ``inputs``, and returns it.

        What is made of parameters alone is no op: it counts with the op that uses it.
        """
        names = tuple(dict.fromkeys(name for v in inputs for name in v.learnt))
        sources = tuple(v.op for v in inputs if v.op is not None)
        if not sources:
            return after.of(None, names)
        for name in names:
            if name not in self._counted:
                self._counted.add(name)
                learnt += self.parameters[name][0]
        self.ops.append(
            Op(
                name=node.name,
                kind=kind,
                inputs=sources,
                cin=self.all_channels(inputs[0]) if cin is None else cin,
                cout=self.all_channels(after),
                axis=after.axis,
                parts=after.parts,
                space=after.space,
                learnt=learnt,
                **details,
            )
        )
        return after.of(len(self.ops) - 1)
