"""Convolutions over visible positions: zeros where hidden, outputs where visible (submanifold; Graham et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prostate_mim.errors import UsageError
from prostate_mim.masked.context import Level
from prostate_mim.masked.features import DenseFeatures, MaskedFeatures, RowFeatures, rows_of
from prostate_mim.masked.rows import convolve_rows
from prostate_mim.masked.windows import Triple, WindowKey


@dataclass(frozen=True)
class Sliding:
    """Where a sliding operation leads.

    Attributes:
        level: the resolution of its outputs.
        before: zeros before the first position, pending ones included, (z, y, x).
        around: zeros on all sides as ``functional.pad`` takes them, (x, x, y, y, z, z); with ``ceil_mode`` the last
            windows may reach beyond them.
        overhang: how far they do, in the same order.
    """

    level: Level
    before: Triple
    around: tuple[int, ...]
    overhang: tuple[int, ...]


def slide(
    features: MaskedFeatures,
    where: str,
    kernel: Triple,
    stride: Triple,
    padding: Triple,
    dilation: Triple,
    ceil_mode: bool = False,
) -> Sliding:
    """Where a convolution or pooling leads.

    Raises:
        UsageError: its outputs do not line up with the inputs' blocks ("same" padding does).
    """
    sizes, strides, first = [], [], []
    around: list[int] = []
    overhang: list[int] = []
    for axis in range(3):
        size, step, reach = features.level.size_zyx[axis], stride[axis], dilation[axis] * (kernel[axis] - 1) + 1
        before, after = (padding[axis] + pending for pending in features.padding[4 - 2 * axis : 6 - 2 * axis])
        room = size + before + after - reach
        found = (-(-room // step) if ceil_mode else room // step) + 1
        if ceil_mode and (found - 1) * step >= size + before:
            found -= 1  # torch's rule: no window begins in the padding behind
        # An output lies on the input it is strided over: its window must hold that input, and none be left out.
        if before >= reach or found not in (size // step, -(-size // step)):
            raise UsageError(
                f"{where}: kernel {kernel[axis]}, stride {step}, dilation {dilation[axis]} and padding {before}, "
                f"{after} along {'zyx'[axis]} turn {size} positions into {found}, which breaks the alignment "
                f"with hidden blocks; use padding that keeps size / stride"
            )
        sizes.append(found)
        strides.append(features.level.stride_zyx[axis] * step)
        first.append(before)
        around = [before, after, *around]
        overhang = [0, max(0, (found - 1) * step + reach - (size + before + after)), *overhang]
    level = features.context.level((strides[0], strides[1], strides[2]), (sizes[0], sizes[1], sizes[2]))
    return Sliding(level, (first[0], first[1], first[2]), tuple(around), tuple(overhang))


def convolution(module: Any, features: MaskedFeatures) -> MaskedFeatures:
    """``nn.Conv3d`` on either path: any kernel, stride, dilation and groups, padded with zeros."""
    where = f"Conv3d({module.in_channels}, {module.out_channels})"
    if module.padding_mode != "zeros" and any(module._reversed_padding_repeated_twice):
        raise UsageError(f"{where}: padding_mode {module.padding_mode!r} looks past hidden borders; use zeros")
    kernel, stride, dilation = triple(module.kernel_size), triple(module.stride), triple(module.dilation)
    padding = _padding(module, kernel, dilation)
    slid = slide(features, where, kernel, stride, padding, dilation)
    if isinstance(features, DenseFeatures):
        values = features.dense()
        ahead, padding = _padded_ahead(values, padding)
        around = [there + now for there, now in zip(features.padding, ahead, strict=True)]
        if any(around):
            values = functional.pad(values, around)
        out = functional.conv3d(values, module.weight, module.bias, stride, padding, dilation, module.groups)
        return features.with_values(out, slid.level)
    key = WindowKey(kernel, stride, dilation, slid.before, by_block=False)
    plan = module.kernels.plan(features.level, slid.level, key, features.values, module.weight, module.groups)
    rows = convolve_rows(features.values, module.weight, module.bias, plan)
    return RowFeatures(rows, features.context, slid.level)


def _padded_ahead(values: Tensor, padding: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """What to pad before the kernel, (x, x, y, y, z, z), and what is left to it.

    In bfloat16 on CPUs torch 2.13's weight gradient reads memory nobody wrote where few planes meet zero padding along
    z (two planes and a kernel of three, say): NaN now and then, or rubbish. It does not with the zeros in place.
    """
    here = values.device.type
    kind = torch.get_autocast_dtype(here) if torch.is_autocast_enabled(here) else values.dtype
    if here != "cpu" or kind != torch.bfloat16:
        return (0, 0, 0, 0, 0, 0), padding
    return (0, 0, 0, 0, padding[0], padding[0]), (0, padding[1], padding[2])


def transposed_convolution(module: nn.ConvTranspose3d, features: MaskedFeatures) -> MaskedFeatures:
    """``nn.ConvTranspose3d``. Only decoders have them, so visible rows go through the dense kernel.

    Raises:
        UsageError: the result does not line up with the blocks.
    """
    features.refuse_padding("a transposed convolution")
    values = nn.ConvTranspose3d.forward(module, features.dense())
    sizes, strides = [], []
    for axis, step in enumerate(triple(module.stride)):
        size, found = features.level.size_zyx[axis], values.shape[axis + 2]
        if found != size * step or features.level.stride_zyx[axis] % step:
            raise UsageError(
                f"ConvTranspose3d turns {size} positions along {'zyx'[axis]} into {found}, not {size * step}, or "
                f"upsamples beyond the input; it would not line up with hidden blocks"
            )
        sizes.append(found)
        strides.append(features.level.stride_zyx[axis] // step)
    level = features.context.level((strides[0], strides[1], strides[2]), (sizes[0], sizes[1], sizes[2]))
    return from_dense(features, values, level)


def from_dense(features: MaskedFeatures, values: Tensor, level: Level) -> MaskedFeatures:
    """(N, C, d, h, w) computed from dense values -> features on the path of ``features``."""
    if isinstance(features, DenseFeatures):
        return features.with_values(values, level)
    return RowFeatures(rows_of(values, level), features.context, level)


def _padding(module: nn.Conv3d, kernel: Triple, dilation: Triple) -> Triple:
    if module.padding == "valid":
        return (0, 0, 0)
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(n % 2 for n in total):
            raise UsageError("Conv3d with padding='same' and an even kernel is not symmetric; give the padding")
        return (total[0] // 2, total[1] // 2, total[2] // 2)
    return triple(module.padding)


def triple(value: Any) -> Triple:
    """An int for all axes, or one per axis (z, y, x)."""
    if isinstance(value, int):
        return (value, value, value)
    z, y, x = value
    return int(z), int(y), int(x)
