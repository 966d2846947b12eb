"""An accelerator that is none: tensors that say they are elsewhere, and are computed here.

They name the device ``meta``, hold a tensor of the CPU, and refuse what a GPU refuses: to meet
tensors of the CPU, but for single numbers and for indices. What waits for the device is counted.
So what trainings and networks leave on the wrong side is found where there is no GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from engine.graph import load_graph

THERE = torch.device("meta")
_MOVES = ("_to_copy", "copy_")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
_ANSWERS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2")
"""Operations whose result, or its shape, the CPU has to know."""


class Away(Tensor):
    """A tensor on the device, with what it holds."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Away":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=THERE,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise RuntimeError(f"{func} of a tensor of the accelerator, which is no longer there")


class Accelerator(TorchDispatchMode):
    """The device, while it is there.

    Attributes:
        waits: the operations that have had to wait for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        aways = [tensor for tensor in tensors if isinstance(tensor, Away)]
        to_there = _goes_there(name, args, kwargs)
        if name in _MOVES:
            if to_there != isinstance(args[0 if name == "_to_copy" else 1], Away):
                self._note(name, kwargs.get("non_blocking") or True in args[2:3])
        elif aways:
            _check_together(func, name, args, tensors)
            self._note(name, name not in _ANSWERS)
        if to_there and "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        held_args, held_kwargs = tree_map(
            lambda leaf: leaf.held if isinstance(leaf, Away) else leaf, (args, kwargs)
        )
        known = {id(away.held): away for away in aways}

        def placed(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) in known:  # changed in place
                return known[id(leaf)]
            return Away(leaf) if to_there else leaf

        return tree_map(placed, func(*held_args, **held_kwargs))

    def _note(self, name: str, at_once: Any) -> None:
        if not at_once:
            self.waits.append(name)


def _goes_there(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the result is on the device."""
    if name == "copy_":
        return isinstance(args[0], Away)
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]) == THERE
    return any(isinstance(leaf, Away) for leaf in tree_leaves((args, kwargs)))


def _check_together(func: Any, name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    if name in _INDEXING and isinstance(args[0], Away):
        return
    if any(not isinstance(tensor, Away) and tensor.dim() > 0 for tensor in tensors):
        raise RuntimeError(f"{func}: tensors of the accelerator meet tensors of the CPU")


class _Seen(TorchFunctionMode):
    """What the device would not see, or not allow: values that become tensors, and lists."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            return func(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        if func is Tensor.tolist and isinstance(args[0], Away):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


@contextmanager
def accelerator() -> Iterator[Accelerator]:
    """Offers the device; the parameters of a network move to it by being exchanged for others."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with Accelerator() as device, _Seen():
            yield device
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
        load_graph.cache_clear()  # what was traced meanwhile lies on the device
