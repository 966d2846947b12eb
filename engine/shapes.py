"""What every node of a traced network returns, found by running it on the meta device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.errors import first_line

BATCH = 2
"""Images in a run: more than one, so that an op that mixes images shows in the shapes."""

Shape = tuple[int, ...]

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)  # pyright: ignore[reportPrivateUsage]


class NodeFailed(Exception):
    """A node that could not be run."""

    def __init__(self, node: fx.Node, cause: Exception) -> None:
        super().__init__(f"{place(node)}: {first_line(cause)}")


class MetaRun(fx.Interpreter):
    """Runs a network on the meta device: tensors have shapes and no values."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.extra_traceback = False

    def values(self, channels: int, resolution: int) -> dict[fx.Node, Any]:
        """Returns what every node returns.

        Raises:
            NodeFailed: PyTorch refuses one.
        """
        self.run(torch.empty(BATCH, channels, resolution, resolution, device="meta"))
        return self.env

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Calls a leaf module.

        One without weights that asks for values, which are not there, returns its first input: a
        drop path in training mode does.
        """
        try:
            return super().call_module(target, args, kwargs)
        except Exception as error:
            weights = self.fetch_attr(target).parameters()
            if "meta" in str(error).lower() and not any(True for _ in weights):
                return next(iter((*args, *kwargs.values())))
            raise

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node."""
        try:
            return super().run_node(n)
        except Exception as error:
            raise NodeFailed(n, error) from error


class BaseRun(MetaRun):
    """Runs a network at its own widths and any resolution.

    Linear layers and norms take any number of features, because that changes with the resolution
    where height and width are flattened into them.
    """

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Calls a leaf module."""
        module = self.fetch_attr(target)
        if isinstance(module, nn.Linear):
            (features,) = (*args, *kwargs.values())
            return features.new_empty(*features.shape[:-1], module.out_features)
        if isinstance(module, _NORMS):
            (features,) = (*args, *kwargs.values())
            return torch.empty_like(features)
        return super().call_module(target, args, kwargs)


def shapes_of(values: Mapping[fx.Node, Any]) -> dict[str, Shape]:
    """Returns the shape of every node that returned a tensor, or the first of several."""
    tensors = ((node.name, first_tensor(value)) for node, value in values.items())
    return {name: tuple(tensor.shape) for name, tensor in tensors if tensor is not None}


def storages_of(values: dict[fx.Node, Any], ops: Sequence[str]) -> dict[str, int]:
    """Returns, by its name, the first of ``ops`` in whose memory each one's output lies.

    −1 is the network's input, which an op in place or a view of it returns.
    """
    index_of = {name: index for index, name in enumerate(ops)}
    first: dict[int, int] = {}
    found: dict[str, int] = {}
    for node, value in values.items():
        tensor = first_tensor(value)
        if tensor is None or (node.name not in index_of and node.op != "placeholder"):
            continue
        storage = tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
        found[node.name] = first.setdefault(storage, index_of.get(node.name, -1))
    return found


def images_of(shape: Shape) -> str:
    """Returns how messages say the shape of a batch; ``shape`` is that of one image."""
    return "×".join(["N", *map(str, shape)])


def first_tensor(value: object) -> Tensor | None:
    """Returns ``value`` if it is a tensor, the first of a sequence of tensors, or None."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return first_tensor(value[0])
    return None


def place(node: fx.Node) -> str:
    """Returns how messages call a node."""
    kinds = {"call_module": "layer", "get_attr": "parameter"}
    return f"{kinds[node.op]} {node.target}" if node.op in kinds else f"node {node.name}"
