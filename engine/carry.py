"""Trained weights carried into a wider or narrower network."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.channels import Channels, Segment
from engine.errors import UserError
from engine.graph import NetworkGraph
from engine.spec import NetworkSpec
from engine.weights import kernels, roles


def carry_weights(
    source_state: Mapping[str, Tensor],
    graph: NetworkGraph,
    source_spec: NetworkSpec,
    target_spec: NetworkSpec,
    module: nn.Module,
    worth: Mapping[str, Tensor] | None = None,
) -> tuple[str, ...]:
    """Copies a trained network's weights into one with other widths, channel by channel.

    A channel keeps its place in its width group; in groups with a multiple (of grouped
    convolutions) its place in its part. Channels that the target does not have are dropped: the
    last ones, or those of least ``worth`` while the others close up. New channels keep the weights
    that ``module`` has for them, but those that were there before read nothing from them: the
    kernels' weights for new inputs are set to zero. So a widened network computes in evaluation
    mode what the source did, and its new weights still have gradients, because new channels are
    not zero.

    Source: Net2WiderNet (Chen et al. 2016) is the same in purpose. It copies channels and halves
    what reads them; here new channels are new.

    Args:
        source_state: ``state_dict`` of a module with the widths of ``source_spec``.
        graph: of both networks.
        source_spec, target_spec: the two networks.
        module: built for ``target_spec``; its weights are changed.
        worth: of every channel of the source, (channels,) by width group.

    Returns:
        The ops after which the function may differ from the source's: where channels are
        dropped, where new ones change what the old become without a weight in between (a layer
        norm), or where another resolution needs other weights. Empty if it is the same.

    Raises:
        UserError: the state is of another network.
    """
    _check_state(source_state, graph.skeleton(source_spec))
    places = _Places(graph, source_spec, target_spec, worth or {})
    into = module.state_dict()
    done: set[str] = set()
    changed: list[str] = []
    with torch.no_grad():
        for source, target in zip(
            graph.sized_ops(source_spec.resolution),
            graph.sized_ops(target_spec.resolution),
            strict=True,
        ):
            op = source.op
            written = places.of(op.cout, source.fold_out, target.fold_out)
            read = places.of(op.cin, source.fold_in, target.fold_in)
            same = not op.mixes or places.widths(op.cin)[0] == places.widths(op.cin)[1]
            names = roles(module.get_submodule(op.module)) if op.module else {}
            for name, axes in names.items():
                key = f"{op.module}.{name}"
                done.add(key)
                if axes == ("out",):
                    _copy(source_state[key], into[key], written, 0)
                    same &= written is not None
                elif op.groups == 0:  # depthwise: a kernel for each channel
                    _copy(source_state[key], into[key], written if axes[0] == "out" else read, 0)
                else:
                    before, after = (
                        kernels(state[key], axes, op.groups) for state in (source_state, into)
                    )
                    same &= _copy_kernels(before, after, written, read)
            if not same and not op.repeated:
                changed.append(op.name)
        for name, (channels, axis) in graph.traced.parameters.items():
            # A buffer that is not kept with the weights is the original's in both networks.
            if axis is not None and name in into:
                done.add(name)
                _copy(source_state[name], into[name], places.of(channels, 1, 1), axis)
        for key in into.keys() - done:
            into[key].copy_(source_state[key])
    return tuple(changed)


def _check_state(state: Mapping[str, Tensor], module: nn.Module) -> None:
    for key, tensor in module.state_dict().items():
        if key not in state:
            raise UserError(f"the weights have no {key!r}; they are of another network")
        if state[key].shape != tensor.shape:
            raise UserError(
                f"the weights {key!r} have the shape {tuple(state[key].shape)}, but the network "
                f"they should be of has {tuple(tensor.shape)}"
            )


class _Places:
    """Where the channels of one network are in another.

    A place is a tensor with the new index of every old channel, −1 if it is dropped.
    """

    def __init__(
        self,
        graph: NetworkGraph,
        source: NetworkSpec,
        target: NetworkSpec,
        worth: Mapping[str, Tensor],
    ) -> None:
        self._graph = graph
        self._worth = worth
        self._source = source.width_of
        self._target = target.width_of

    def widths(self, axis: Channels) -> tuple[int, int]:
        """Returns the number of channels of ``axis`` in both networks."""
        count = self._graph.count(axis)
        return count.at(self._source), count.at(self._target)

    def of(self, axis: Channels, fold: int, other_fold: int) -> Tensor | None:
        """Returns the places of ``axis``; None if the positions of a flatten differ."""
        if fold != other_fold:
            return None
        places: list[Tensor] = []
        ahead = 0
        for segment in self._graph.traced.variables.resolve(axis):
            old, new = self.widths((Segment(segment.var),))
            parts = self._graph.traced.variables.multiple(segment.var)
            worth = self._worth.get(self._graph.group_of(segment) or "")
            kept = _kept(old, new, parts if old != new else 1, worth)
            place = _repeated(kept, segment.times)
            places.append(torch.where(place < 0, place, place + ahead))
            ahead += new * segment.times
        return _repeated(torch.cat(places), fold)


def _kept(old: int, new: int, parts: int, worth: Tensor | None) -> Tensor:
    """The places of channels that lie in equal parts.

    In each the first ones are kept, or those that are worth most, in their old order.
    """
    size = new // parts
    if worth is None:
        rank = torch.arange(old // parts).expand(parts, -1)
    else:
        # The rank of a channel is its place in the order; equal channels keep their own.
        rank = worth.unflatten(0, (parts, -1)).argsort(descending=True, stable=True).argsort()
    kept = rank < size
    place = kept.cumsum(1) - 1 + size * torch.arange(parts)[:, None]
    return torch.where(kept, place, -1).flatten()


def _repeated(places: Tensor, times: int) -> Tensor:
    """The places of channels each of which stands ``times`` times in a row."""
    several = places[:, None] * times + torch.arange(times)
    return torch.where(places[:, None] < 0, -1, several).flatten()


def _copy(old: Tensor, new: Tensor, places: Tensor | None, axis: int) -> None:
    if places is not None:
        (kept,) = (places >= 0).nonzero(as_tuple=True)
        new.index_copy_(
            axis, places[kept].to(new.device), old.index_select(axis, kept.to(old.device)).to(new)
        )


def _copy_kernels(old: Tensor, new: Tensor, written: Tensor | None, read: Tensor | None) -> bool:
    """Copies kernels and returns whether all that they read is there.

    Kernels that were there before read nothing from channels that were not.
    """
    if written is None or read is None:
        return False
    complete = True
    for group, (before, after) in enumerate(zip(old, new, strict=True)):
        rows, to_rows = _inside(written, group, before.shape[0], after.shape[0])
        columns, to_columns = _inside(read, group, before.shape[1], after.shape[1])
        complete &= len(columns) == before.shape[1]
        after[to_rows] = 0.0
        kept = before[rows.to(before.device)][:, columns.to(before.device)].to(after)
        after[to_rows[:, None].to(after.device), to_columns.to(after.device)] = kept
    return complete


def _inside(places: Tensor, group: int, old: int, new: int) -> tuple[Tensor, Tensor]:
    """The channels of one group that stay in it: their numbers in it before and after."""
    moved = places[group * old : (group + 1) * old] - group * new
    (kept,) = (
        (places[group * old : (group + 1) * old] >= 0) & (moved >= 0) & (moved < new)
    ).nonzero(as_tuple=True)
    return kept, moved[kept]
