"""Pooling over visible positions: hidden ones are neither the largest nor part of a mean."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from prostate_mim.errors import UsageError
from prostate_mim.masked.context import Triple
from prostate_mim.masked.convolution import choose_windows, output_level, triple
from prostate_mim.masked.features import DenseFeatures, MaskedFeatures, RowFeatures
from prostate_mim.masked.norms import sample_sums
from prostate_mim.masked.windows import Windows


def max_pool(
    features: MaskedFeatures, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1
) -> MaskedFeatures:
    """The largest visible value in each window; 0 where a window holds none. Arguments as ``max_pool3d``."""
    size, step = triple(kernel), triple(stride or kernel)
    around, spread = triple(padding), triple(dilation)
    level, before = output_level(features, "max pooling", size, step, around, spread)
    if isinstance(features, DenseFeatures):
        values = torch.where(features.visible, features.values, -math.inf)
        values = functional.pad(values, _around(features, around), value=-math.inf)
        return features.with_values(_finite(functional.max_pool3d(values, size, step, 0, spread)), level)
    windows = choose_windows(features.level, level, (size, step, spread, before), dense=True)
    bricks = _gather(features.values, windows, -math.inf)
    if windows.key.by_block:
        pooled = functional.max_pool3d(bricks, size, step, 0, spread)
    else:
        pooled = functional.max_pool3d(bricks, size)
    return RowFeatures(_finite(_to_rows(pooled)), features.context, level)


def average_pool(features: MaskedFeatures, kernel: Any, stride: Any = None, padding: Any = 0) -> MaskedFeatures:
    """The mean of the visible values in each window; padding and hidden positions do not count."""
    size, step, around = triple(kernel), triple(stride or kernel), triple(padding)
    level, before = output_level(features, "average pooling", size, step, around, (1, 1, 1))
    share = _visible_share(features, size, step, around)
    if isinstance(features, DenseFeatures):
        values = functional.pad(features.dense(), _around(features, around))
        return features.with_values(functional.avg_pool3d(values, size, step) / share, level)
    windows = choose_windows(features.level, level, (size, step, (1, 1, 1), before), dense=True)
    bricks = _gather(features.values, windows, 0.0)
    means = _to_rows(functional.avg_pool3d(bricks, size, step if windows.key.by_block else size))
    per_row = share.reshape(-1, 1).index_select(0, level.flat)
    return RowFeatures(means / per_row, features.context, level)


def _visible_share(features: MaskedFeatures, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
    """(N, 1, d, h, w) share of each window that is visible; 1 where none is, for the sum there is 0."""
    seen = functional.pad(features.visible.to(features.dtype), _around(features, padding))
    share = functional.avg_pool3d(seen, kernel, stride)
    return torch.where(share > 0, share, 1.0)


def global_average(features: MaskedFeatures) -> Tensor:
    """(N, C, 1, 1, 1): the mean over visible positions, 0 where a sample has none."""
    features.refuse_padding("global pooling")
    counts = features.level.count_of_sample(features.values)
    if isinstance(features, RowFeatures):
        total = sample_sums(features.values, features.level)
    else:
        total = features.dense().sum((2, 3, 4))
    return (total / counts.clamp(min=1))[:, :, None, None, None]


def global_max(features: MaskedFeatures) -> Tensor:
    """(N, C, 1, 1, 1): the largest visible value, 0 where a sample has none."""
    features.refuse_padding("global pooling")
    values = torch.where(features.visible, features.dense(), -math.inf)
    return _finite(functional.adaptive_max_pool3d(values, 1))


def global_norm(features: MaskedFeatures) -> Tensor:
    """(N, C, 1, 1, 1): the Euclidean norm over visible positions."""
    features.refuse_padding("a norm over space")
    if isinstance(features, RowFeatures):
        squares = sample_sums(features.values.square(), features.level)
        # The root has no gradient at 0, where torch's norm defines it as 0.
        root = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
        return root[:, :, None, None, None]
    norm: Tensor = torch.linalg.vector_norm(features.dense(), dim=(2, 3, 4), keepdim=True)
    return norm


def max_pool_module(module: nn.MaxPool3d, features: MaskedFeatures) -> MaskedFeatures:
    """``nn.MaxPool3d``."""
    if module.ceil_mode or module.return_indices:
        raise UsageError("MaxPool3d with ceil_mode or return_indices has no masked form")
    return max_pool(features, module.kernel_size, module.stride, module.padding, module.dilation)


def average_pool_module(module: nn.AvgPool3d, features: MaskedFeatures) -> MaskedFeatures:
    """``nn.AvgPool3d``. ``count_include_pad`` makes no difference: what is not visible never counts."""
    if module.ceil_mode or module.divisor_override is not None:
        raise UsageError("AvgPool3d with ceil_mode or divisor_override has no masked form")
    return average_pool(features, module.kernel_size, module.stride, module.padding)


def adaptive_average_pool(features: MaskedFeatures, output_size: Any) -> Tensor:
    """``adaptive_avg_pool3d`` to one position; other output sizes do not line up with blocks."""
    _only_global(output_size)
    return global_average(features)


def adaptive_max_pool(features: MaskedFeatures, output_size: Any) -> Tensor:
    """``adaptive_max_pool3d`` to one position."""
    _only_global(output_size)
    return global_max(features)


def _only_global(output_size: Any) -> None:
    if triple(output_size) != (1, 1, 1):
        raise UsageError(f"adaptive pooling to {output_size} has no masked form; only global pooling, to 1, has")


def _around(features: MaskedFeatures, padding: Triple) -> list[int]:
    z, y, x = padding
    return [pending + own for pending, own in zip(features.padding, (x, x, y, y, z, z), strict=True)]


def _finite(values: Tensor) -> Tensor:
    return torch.where(values == -math.inf, 0.0, values)


def _to_rows(bricks: Tensor) -> Tensor:
    return bricks.permute(0, 2, 3, 4, 1).reshape(-1, bricks.shape[1])


def _gather(rows: Tensor, windows: Windows, fill: float) -> Tensor:
    """(rows, C) -> (units, C, z, y, x), channels-last."""
    bricks = cast(Tensor, _Gather.apply(rows, windows, fill))  # type: ignore[no-untyped-call]
    return bricks.permute(0, 4, 1, 2, 3)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, windows: Windows, fill: float) -> Tensor:
        ctx.windows = windows
        return windows.gather(rows, fill)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        folded: Tensor = ctx.windows.fold(gradient.contiguous())
        return folded, None, None
