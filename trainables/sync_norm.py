"""Batch norm over the batches of all workers, on CPU too.

PyTorch's own ``SyncBatchNorm`` runs on GPUs only. With statistics of the whole batch, training on
any number of workers computes the same function as training on one.
"""

import torch
from torch import nn
from torch.distributed.nn.functional import all_reduce


class SyncBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics are those of the whole batch over all workers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalises N×C×H×W."""
        if not self.training:
            return super().forward(input)
        size = torch.tensor(float(input.numel() // input.shape[1]), device=input.device)
        torch.distributed.all_reduce(size)
        count = float(size)
        mean = all_reduce(input.sum(dim=(0, 2, 3))) / count
        centred = input - mean[:, None, None]
        variance = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        normalised = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if not self.affine:
            return normalised
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, unbiased_variance: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(unbiased_variance, rate)


def synchronise_norms(module: nn.Module, device: torch.device) -> None:
    """Makes every batch norm of ``module`` a synchronised one; weights and names stay."""
    kind = nn.SyncBatchNorm if device.type == "cuda" else SyncBatchNorm
    for name, norm in list(module.named_modules()):
        if type(norm) is not nn.BatchNorm2d:
            continue
        synchronised = kind(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        ).to(device)
        synchronised.load_state_dict(norm.state_dict())
        module.set_submodule(name, synchronised)
