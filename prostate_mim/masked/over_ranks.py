"""Batch norm over the batches of all ranks: the sums it needs, and a module that does it on CPUs too."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced too: every rank's loss depends on every rank's values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        total = gradient.contiguous().clone()
        distributed.all_reduce(total, group=ctx.group)
        return total, None


class BatchNormOverRanks(nn.BatchNorm3d):
    """``nn.SyncBatchNorm`` for any device: torch's own refuses CPUs. Same names, parameters and running moments."""

    process_group: Any = None

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, D, H, W) -> the same, with the moments of every rank's samples while training."""
        group = ranks_of(self) if self.training else None
        if group is None:
            return super().forward(values)
        dims, shape = (0, 2, 3, 4), (1, -1, 1, 1, 1)
        own = torch.full((1,), values.numel() / values.shape[1], device=values.device)
        count = sum_over_ranks(own, group)
        mean = sum_over_ranks(values.float().sum(dims), group) / count
        centred = values - mean.view(shape)
        variance = sum_over_ranks(centred.square().sum(dims), group) / count
        self._follow(mean.detach(), variance.detach(), count)
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(values.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        factor = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), factor)


AnyBatchNorm = nn.BatchNorm3d | nn.SyncBatchNorm


def over_ranks(module: nn.Module) -> nn.Module:
    """Replace every ``nn.BatchNorm3d`` of a network, in place, by one that shares its parameters over all ranks."""
    for part in module.modules():
        if type(part) is nn.BatchNorm3d:
            part.__class__ = BatchNormOverRanks  # the same attributes; only the moments differ
    return module


def sum_over_ranks(values: Tensor, group: Any) -> Tensor:
    """The sum of every rank's values, with gradients; the values themselves where ``group`` is None."""
    return values if group is None else cast(Tensor, _SumOverRanks.apply(values, group))  # type: ignore[no-untyped-call]


def ranks_of(module: AnyBatchNorm) -> Any:
    """The process group that a norm takes its moments over; None where it is its own process alone."""
    if not isinstance(module, nn.SyncBatchNorm | BatchNormOverRanks):
        return None
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    group = module.process_group or distributed.group.WORLD
    return group if distributed.get_world_size(group) > 1 else None
