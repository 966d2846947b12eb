"""Batch norm over the batches of all workers, on CPU too.

PyTorch's own ``SyncBatchNorm`` runs on GPUs only. With statistics of the whole batch, training on
any number of workers computes the same function as training on one.
"""

from typing import Any

import torch
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics are those of the whole batch over all workers.

    The parts of the workers may differ in size. Statistics are of float32 at least, as in PyTorch.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any N×C×… will do, as for ``nn.SyncBatchNorm``."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises N×C×…, any number of further axes.

        Raises:
            ZeroDivisionError: the whole batch has a single value per channel.
        """
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = (0, *range(2, x.ndim))
        along = (-1, *(1 for _ in axes[1:]))
        size = x.new_tensor([x.numel() // x.shape[1]])
        sums = _over_workers(torch.cat([x.sum(axes), size]))
        count = float(sums[-1].detach())
        mean = sums[:-1] / count
        centred = x - mean.view(along)
        variance = _over_workers(centred.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (centred * scale.view(along)).to(input.dtype)
        scaled = centred * (scale * self.weight).view(along)
        return (scaled + self.bias.view(along)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(unbiased_variance, rate)


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def synchronise_norms(module: nn.Module, device: torch.device) -> None:
    """Makes every batch norm of ``module`` a synchronised one; its tensors and names stay.

    On GPUs that is PyTorch's own, which computes faster and in less memory than the one above, but
    waits for the device three times in every forward.

    A norm of a class of the user's own stays of that class, whose forward then finds the
    synchronised one where it calls that of its base. One that does not call it, but PyTorch's
    function, normalises over the part of each worker.
    """
    kind = nn.SyncBatchNorm if device.type == "cuda" else SyncBatchNorm
    for name, norm in list(module.named_modules()):
        if not isinstance(norm, _PLAIN):
            continue
        own: type[nn.Module] = type(norm)
        # PyTorch's own forward, which a subclass of its sync norm calls, runs on GPUs only.
        replaced = own in _PLAIN or (isinstance(norm, nn.SyncBatchNorm) and kind is SyncBatchNorm)
        if replaced:
            module.set_submodule(name, _synchronised(norm, kind))
        elif not isinstance(norm, kind):
            both: Any = type(own.__name__, (own, kind), {"process_group": None})
            norm.__class__ = both


def _synchronised(
    norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm, kind: type[nn.Module]
) -> nn.Module:
    made = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for key, parameter in norm.named_parameters(recurse=False):
        made.register_parameter(key, parameter)  # frozen ones stay frozen
    for key, buffer in norm.named_buffers(recurse=False):
        made.register_buffer(key, buffer)
    return made.train(norm.training)


class _SumOverWorkers(torch.autograd.Function):
    """All workers' losses depend on the sum, so its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = value.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _SumOverWorkers.forward(ctx, gradient)


def _over_workers(value: Tensor) -> Tensor:
    return _SumOverWorkers.apply(value)
