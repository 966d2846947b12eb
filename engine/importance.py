"""Taylor importance of width groups, collected during a training (Eq. 5)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.errors import UserError


class ImportanceMeter:
    """Averages Eq. 5 over the steps of a training, one number per width group.

    One step adds to each group, over the modules that write its channels,

        Σ_writers 1/K · Σ_kernels Σ_m (g_m·m)²,

    where K is the writer's number of output kernels (output channels or features), m runs over
    the weights of a kernel without its bias, and g_m is the loss gradient of m. The sum over the
    kernels is the sum over all weights, so the layout of the tensor does not matter: transposed
    and grouped convolutions need no special case.

    Source: Eq. 5, HACScale, which is per kernel; the mean over kernels and the sum over the
    writers of a group are ours. A module that writes several groups counts whole in each.

    All sums are float64 and stay on the device: a step does not wait for it.

    Args:
        module: the network, already on the device it is trained on.
        writers: names of the convolutions and linear layers that write each group.
    """

    def __init__(self, module: nn.Module, writers: Mapping[str, Sequence[str]]) -> None:
        self._groups = tuple(writers)
        self._writers = {
            name: module.get_submodule(name) for names in writers.values() for name in names
        }
        shares = [
            [names.count(name) / _kernels(name, writer) for name, writer in self._writers.items()]
            for names in map(tuple, writers.values())
        ]
        device = _weight(*next(iter(self._writers.items()))).device
        self._shares = torch.tensor(shares, dtype=torch.float64, device=device)
        self._sums = torch.zeros(len(shares), dtype=torch.float64, device=device)
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Adds one step; call it after ``loss.backward()`` and before ``optimizer.step()``.

        Raises:
            UserError: a layer took no part in the loss, so it has no gradient.
        """
        norms: list[Tensor] = []
        for name, writer in self._writers.items():
            weight = _weight(name, writer)
            if weight.grad is None:
                raise UserError(
                    f"layer {name!r} has no gradient, so no importance: it is frozen or takes no "
                    "part in the loss; use a model whose every layer is trained"
                )
            norms.append(torch.linalg.vector_norm(weight.grad * weight, dtype=torch.float64))
        # A product and a sum, not a matrix product: cuBLAS need not repeat itself bit by bit.
        self._sums += (self._shares * torch.stack(norms).square()).sum(dim=1)
        self._updates += 1

    def means(self) -> dict[str, float]:
        """Returns Eq. 5 by group, averaged over the steps so far.

        Raises:
            ValueError: there was no step.
        """
        if self._updates == 0:
            raise ValueError("importance has no mean before the first update")
        means: list[float] = (self._sums / self._updates).tolist()
        return dict(zip(self._groups, means, strict=True))

    def state(self) -> dict[str, Tensor]:
        """Returns a copy of what a checkpoint must keep: ``sums`` (groups,) and ``updates`` ()."""
        return {"sums": self._sums.clone(), "updates": torch.tensor(self._updates)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues from ``state``, of a meter for the same groups on any device.

        Raises:
            ValueError: the state is of another number of groups.
        """
        if state["sums"].shape != self._sums.shape:
            raise ValueError(
                f"the importance state must have {len(self._groups)} sums, "
                f"not shape {tuple(state['sums'].shape)}"
            )
        self._sums.copy_(state["sums"])
        self._updates = int(state["updates"])


def _weight(name: str, writer: nn.Module) -> nn.Parameter:
    weight = getattr(writer, "weight", None)
    if not isinstance(weight, nn.Parameter):
        raise UserError(
            f"layer {name!r} must hold its weight as a parameter of its own, not as "
            f"{type(weight).__name__}; remove the parametrisation"
        )
    return weight


def _kernels(name: str, writer: nn.Module) -> int:
    kernels = getattr(writer, "out_channels", None) or getattr(writer, "out_features", None)
    if not isinstance(kernels, int):
        raise UserError(
            f"layer {name!r} must be a convolution or linear layer, not {type(writer).__name__}"
        )
    return kernels
