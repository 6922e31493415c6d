"""Convolutions over visible positions: zeros where hidden, outputs where visible (submanifold; Graham et al. 2018)."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from prostate_mim.errors import UsageError
from prostate_mim.masked.context import Level, Triple
from prostate_mim.masked.features import DenseFeatures, MaskedFeatures, RowFeatures, rows_of
from prostate_mim.masked.rows import RowConvolution, convolve_rows
from prostate_mim.masked.windows import WindowKey, Windows

# From this many outputs per block on, a dense kernel on bricks beats a matrix product on im2col rows, in which every
# input stands as often as it is seen. Measured for all convolutions of resenc-s and resnet18, both block shapes.
FEWEST_PER_BRICK = 12


def output_level(
    features: MaskedFeatures, where: str, kernel: Triple, stride: Triple, padding: Triple, dilation: Triple
) -> tuple[Level, Triple]:
    """The resolution after a sliding operation, and its padding before the first position (pending one included).

    Raises:
        UsageError: the outputs do not line up with the inputs' blocks ("same" padding does).
    """
    px, ax, py, ay, pz, az = features.padding
    before = (padding[0] + pz, padding[1] + py, padding[2] + px)
    after = (padding[0] + az, padding[1] + ay, padding[2] + ax)
    sizes, strides = [], []
    for axis in range(3):
        size, step = features.level.size_zyx[axis], stride[axis]
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        found = (size + before[axis] + after[axis] - reach) // step + 1
        # An output lies on the input it is strided over: its window must hold that input, and none be left out.
        if before[axis] >= reach or found not in (size // step, -(-size // step)):
            raise UsageError(
                f"{where}: kernel {kernel[axis]}, stride {step}, dilation {dilation[axis]} and padding {before[axis]}, "
                f"{after[axis]} along {'zyx'[axis]} turn {size} positions into {found}, which breaks the alignment "
                f"with hidden blocks; use padding that keeps size / stride"
            )
        sizes.append(found)
        strides.append(features.level.stride_zyx[axis] * step)
    level = features.context.level((strides[0], strides[1], strides[2]), (sizes[0], sizes[1], sizes[2]))
    return level, before


def choose_windows(source: Level, target: Level, key: tuple[Triple, Triple, Triple, Triple], dense: bool) -> Windows:
    """Bricks or single outputs, by the outputs in a block: the same for every batch, so that runs can be repeated.

    Args:
        key: kernel, stride, dilation, padding.
        dense: a matrix product is no alternative (groups, pooling), so bricks are taken wherever they exist.
    """
    kernel, stride, dilation, padding = key
    outputs = prod(target.cells_zyx)
    bricks = target.whole and prod(kernel) > 1 and outputs >= (2 if dense else FEWEST_PER_BRICK)
    return source.windows(target, WindowKey(kernel, stride, dilation, padding, bricks))


def convolution(module: nn.Conv3d, features: MaskedFeatures) -> MaskedFeatures:
    """``nn.Conv3d`` on either path: any kernel, stride, dilation and groups, padded with zeros."""
    where = f"Conv3d({module.in_channels}, {module.out_channels})"
    if module.padding_mode != "zeros" and any(module._reversed_padding_repeated_twice):
        raise UsageError(f"{where}: padding_mode {module.padding_mode!r} looks past hidden borders; use zeros")
    kernel, stride, dilation = triple(module.kernel_size), triple(module.stride), triple(module.dilation)
    padding = _padding(module, kernel, dilation)
    level, before = output_level(features, where, kernel, stride, padding, dilation)
    if isinstance(features, DenseFeatures):
        values = features.dense()
        if any(features.padding):
            values = functional.pad(values, features.padding)
        out = functional.conv3d(values, module.weight, module.bias, stride, padding, dilation, module.groups)
        return features.with_values(out, level)
    windows = choose_windows(features.level, level, (kernel, stride, dilation, before), module.groups > 1)
    same = stride == (1, 1, 1) and all(2 * p == d * (k - 1) for p, d, k in zip(before, dilation, kernel, strict=True))
    rows = convolve_rows(features.values, module.weight, module.bias, RowConvolution(windows, module.groups, same))
    return RowFeatures(rows, features.context, level)


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
