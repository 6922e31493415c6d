"""Pooling over visible positions: hidden ones are neither the largest nor part of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from prostate_mim.errors import UsageError
from prostate_mim.masked.context import Level
from prostate_mim.masked.convolution import Sliding, slide, triple
from prostate_mim.masked.features import DenseFeatures, MaskedFeatures, RowFeatures, rows_of
from prostate_mim.masked.norms import sample_sums
from prostate_mim.masked.windows import Triple, WindowKey, Windows


def max_pool(
    features: MaskedFeatures,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaskedFeatures:
    """The largest visible value in each window; 0 where a window holds none. Arguments as ``max_pool3d``."""
    if return_indices:
        raise UsageError("MaxPool3d (max_pool3d) with return_indices has no masked form")
    size, step, spread = triple(kernel_size), triple(stride or kernel_size), triple(dilation)
    slid = slide(features, "max pooling", size, step, triple(padding), spread, ceil_mode)
    if isinstance(features, DenseFeatures):
        values = torch.where(features.visible, features.values, -math.inf)
        values = functional.pad(values, _sum(slid.around, slid.overhang), value=-math.inf)
        return features.with_values(_finite(functional.max_pool3d(values, size, step, 0, spread)), slid.level)
    windows = _windows(features.level, slid.level, WindowKey(size, step, spread, slid.before, by_block=True))
    pooled = cast(Tensor, _MaxOfWindows.apply(features.values, windows))  # type: ignore[no-untyped-call]
    return RowFeatures(_finite(pooled), features.context, slid.level)


def average_pool(
    features: MaskedFeatures,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> MaskedFeatures:
    """The mean of the visible values in each window; hidden positions do not count. Arguments as ``avg_pool3d``.

    Padding counts as zeros where ``count_include_pad`` says so, as in the plain network.
    """
    if divisor_override is not None:
        raise UsageError("AvgPool3d (avg_pool3d) with divisor_override has no masked form")
    size, step = triple(kernel_size), triple(stride or kernel_size)
    slid = slide(features, "average pooling", size, step, triple(padding), (1, 1, 1), ceil_mode)
    own = [0, 0, 0, 0, 0, 0] if count_include_pad else list(_sum(slid.around, [-zeros for zeros in features.padding]))
    share = _counted_share(features, slid, own, size, step)
    if isinstance(features, DenseFeatures):
        values = functional.pad(features.dense(), _sum(slid.around, slid.overhang))
        return features.with_values(functional.avg_pool3d(values, size, step) / share, slid.level)
    windows = _windows(features.level, slid.level, WindowKey(size, step, (1, 1, 1), slid.before, by_block=True))
    bricks = _gather(features.values, windows, 0.0)
    means = _to_rows(functional.avg_pool3d(bricks, size, step if windows.key.by_block else size))
    return RowFeatures(means / rows_of(share, slid.level), features.context, slid.level)


def _counted_share(
    features: MaskedFeatures, slid: Sliding, uncounted: Sequence[int], kernel: Triple, stride: Triple
) -> Tensor:
    """(N, 1, d, h, w) share of each window that counts: visible, or padding beyond the ``uncounted``; 1 where none."""
    counted = [zeros - none for zeros, none in zip(slid.around, uncounted, strict=True)]
    seen = functional.pad(features.visible.to(features.dtype), counted, value=1.0)
    seen = functional.pad(seen, _sum(uncounted, slid.overhang))
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
    return max_pool(
        features, module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode,
        module.return_indices,
    )  # fmt: skip


def average_pool_module(module: nn.AvgPool3d, features: MaskedFeatures) -> MaskedFeatures:
    """``nn.AvgPool3d``."""
    return average_pool(
        features, module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad,
        module.divisor_override,
    )  # fmt: skip


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


def _windows(source: Level, target: Level, key: WindowKey) -> Windows:
    """Bricks wherever whole blocks of several outputs make some."""
    return source.windows(target, replace(key, by_block=target.whole and prod(target.cells_zyx) > 1))


def _sum(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(first, second, strict=True)]


def _finite(values: Tensor) -> Tensor:
    return torch.where(values == -math.inf, 0.0, values)


def _to_rows(bricks: Tensor) -> Tensor:
    return bricks.permute(0, 2, 3, 4, 1).reshape(-1, bricks.shape[1])


def _gather(rows: Tensor, windows: Windows, fill: float) -> Tensor:
    """(rows, C) -> (units, C, z, y, x), channels-last."""
    bricks = cast(Tensor, _Gather.apply(rows, windows, fill))  # type: ignore[no-untyped-call]
    return bricks.permute(0, 4, 1, 2, 3)


class _MaxOfWindows(torch.autograd.Function):
    """The largest place of every window. Keeps which it was, not the windows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, windows: Windows) -> Tensor:
        bricks = windows.gather(rows, -math.inf).permute(0, 4, 1, 2, 3)
        key = windows.key
        # For single outputs the window is the kernel, and its dilation already in the table.
        stride, dilation = (key.stride, key.dilation) if key.by_block else (key.kernel, (1, 1, 1))
        largest, place = torch.ops.aten.max_pool3d_with_indices(bricks, key.kernel, stride, (0, 0, 0), dilation)
        ctx.save_for_backward(place)
        ctx.windows, ctx.rows = windows, len(rows)
        return _to_rows(largest)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        units, channels = place.shape[:2]
        # Which row each largest value came from; the last stands for no row.
        within = place.permute(0, 2, 3, 4, 1).reshape(units, prod(place.shape[1:]))
        row = ctx.windows.table.long().gather(1, within).view(len(gradient), channels)
        total = gradient.new_zeros(ctx.rows + 1, channels).scatter_add_(0, row, gradient)
        return total[:-1], None


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
