"""Normalisation of dense features over visible positions, with its gradient written out.

Per sample n and channel c, P sums over whatever shares moments (the group of channels, or the batch), N counts:

    mean = P(sum m x) / N   var = P(sum m (x - mean)^2) / N   y = m (gamma n + beta),  n = (x - mean) / sqrt(var + eps)

with m the visible positions. The result is masked, so nothing after it needs to be until a bias comes in again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prostate_mim.masked.features import DenseFeatures

_SPACE = (2, 3, 4)
# (N, C) sums of each sample and channel -> (N, C) totals over all that share moments.
Pool = Callable[[Tensor], Tensor]


def over_groups(groups: int) -> Pool:
    """Moments of each sample and group of channels."""

    def pool(sums: Tensor) -> Tensor:
        n, c = sums.shape
        return sums.view(n, groups, -1).sum(2, keepdim=True).expand(n, groups, c // groups).reshape(n, c)

    return pool


def over_batch(sums: Tensor) -> Tensor:
    """Moments of each channel."""
    return sums.sum(0, keepdim=True).expand_as(sums)


def normalise(
    features: DenseFeatures, pool: Pool, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[DenseFeatures, Tensor, Tensor]:
    """Normalised and masked features, and the mean and biased variance (N, C) that did it, without gradient."""
    count = features.level.count_of_sample(features.values)
    wide = torch.promote_types(count.dtype, torch.float32)
    count = features.level.count_of_sample(features.values.new_empty(0, dtype=wide))
    size = pool(count.expand(-1, features.channels).contiguous()).clamp(min=1)
    found = _Normalise.apply(features.values, features.visible, weight, bias, size, pool, eps)  # type: ignore[no-untyped-call]
    values, mean, variance = cast(tuple[Tensor, Tensor, Tensor], found)
    return features.with_values(values, clean=True), mean, variance


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        visible: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        size: Tensor,
        pool: Pool,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        seen = visible.to(size.dtype)
        out = torch.where(visible, values, 0.0).to(size.dtype)
        mean = pool(out.sum(_SPACE)) / size
        out = out.addcmul_(seen, _spread(mean), value=-1)
        variance = pool(torch.linalg.vector_norm(out, dim=_SPACE).square()) / size
        deviation = (variance + eps).rsqrt()
        out = out.mul_(_spread(deviation if weight is None else deviation * weight))
        if bias is not None:
            out = out.addcmul_(seen, _spread(bias[None]))
        ctx.save_for_backward(values, visible, weight, size, mean, deviation)
        ctx.pool, ctx.has_bias = pool, bias is not None
        ctx.mark_non_differentiable(mean, variance)
        return out.to(values.dtype), mean, variance

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        values, visible, weight, size, mean, deviation = ctx.saved_tensors
        seen = visible.to(size.dtype)
        arriving = torch.where(visible, gradient, 0.0).to(size.dtype)
        normal = torch.where(visible, values, 0.0).to(size.dtype)
        normal = normal.addcmul_(seen, _spread(mean), value=-1).mul_(_spread(deviation))
        sums = arriving.sum(_SPACE)
        products = (arriving * normal).sum(_SPACE)
        scale = torch.ones_like(sums) if weight is None else weight.to(size.dtype).expand_as(sums)
        constant = ctx.pool(sums * scale) / size
        slope = ctx.pool(products * scale) / size
        out = arriving.mul_(_spread(deviation * scale))
        out = out.addcmul_(normal, _spread(deviation * slope), value=-1)
        out = out.addcmul_(seen, _spread(deviation * constant), value=-1)
        for_weight = None if weight is None else products.sum(0).to(weight.dtype)
        for_bias = sums.sum(0) if ctx.has_bias else None
        return out.to(values.dtype), None, for_weight, for_bias, None, None, None


def _spread(per_channel: Tensor) -> Tensor:
    """(N or 1, C) -> (N or 1, C, 1, 1, 1)."""
    return per_channel[:, :, None, None, None]
