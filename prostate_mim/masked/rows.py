"""Convolution on rows of visible positions: gather what the outputs see, run an ordinary kernel, come back.

The backward pass is written out: nothing gathered is kept, the gradient of the input is the same gather run the other
way (for strides of 1 it is itself such a convolution), and no step scatters.

Four kernels, which compute the same: ``bricks``, a dense kernel on gathered windows; ``matrix``, one matrix product
with each window a row (im2col); ``triton``, the same product with the gather inside, on CUDA; ``taps``, for depthwise
convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from prostate_mim.masked import depthwise
from prostate_mim.masked.windows import Windows

# im2col is made and used in pieces of about this many values, which stay in the second-level cache.
_PIECE = 400_000
_TURNED_AT_MOST = 500_000  # values of a weight
_FEWEST_ROWS = 256  # below that a matrix product is bound by reading the weights


@dataclass(frozen=True)
class RowConvolution:
    """What a row convolution needs beside its tensors.

    Attributes:
        windows: what every output sees.
        groups: of channels.
        symmetric: stride 1 and "same" padding: inputs are seen by the outputs they would see.
        kernel: ``bricks``, ``matrix``, ``triton`` or ``taps``; all but the first take windows of single outputs;
            ``matrix`` and ``triton`` are without groups, ``taps`` has one channel a group.
    """

    windows: Windows
    groups: int
    symmetric: bool
    kernel: str

    @property
    def dense_arguments(self) -> tuple[list[int], list[int]]:
        """Stride and dilation of the dense kernel within a window."""
        key = self.windows.key
        return ([*key.stride], [*key.dilation]) if key.by_block else ([1, 1, 1], [1, 1, 1])


def convolve_rows(rows: Tensor, weight: Tensor, bias: Tensor | None, plan: RowConvolution) -> Tensor:
    """(source rows, Ci), (Co, Ci / groups, kz, ky, kx), (Co,) -> (target rows, Co)."""
    if torch.is_autocast_enabled(rows.device.type):
        kind = working_type(rows)
        rows, weight = rows.to(kind), weight.to(kind)
        bias = None if bias is None else bias.to(kind)
    if not len(rows):  # nothing visible in the batch; the result is empty, and gradients are zeros rather than none
        return functional.linear(rows[:, : weight.shape[1]].repeat(1, prod(weight.shape[2:])), weight.flatten(1), bias)
    if plan.symmetric and plan.groups == 1 and prod(plan.windows.key.kernel) == 1:
        return functional.linear(rows, weight.flatten(1), bias)
    out = cast(Tensor, _ConvolveRows.apply(rows, weight, plan))  # type: ignore[no-untyped-call]
    return out if bias is None else out + bias


def working_type(rows: Tensor) -> torch.dtype:
    """The type convolutions run in: autocast's where it is on."""
    device = rows.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype


class _ConvolveRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, plan: RowConvolution) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.plan = plan
        if plan.kernel == "bricks":
            return _bricks(rows, weight, plan)
        if plan.kernel == "taps":
            return depthwise.convolve(rows, weight, plan.windows)
        if plan.kernel == "triton":
            return _triton_product(rows, weight, plan)
        return _matrix_product(rows, _flat(weight).t(), plan.windows)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, weight = ctx.saved_tensors
        plan: RowConvolution = ctx.plan
        gradient = gradient.contiguous()
        if plan.kernel == "taps":
            return *depthwise.gradients(rows, gradient, weight, plan.windows, plan.symmetric), None
        for_rows = _row_gradient(gradient, weight, plan) if ctx.needs_input_grad[0] else None
        for_weight = _weight_gradient(rows, gradient, weight, plan) if ctx.needs_input_grad[1] else None
        return for_rows, for_weight, None


def _row_gradient(gradient: Tensor, weight: Tensor, plan: RowConvolution) -> Tensor:
    """(target rows, Co) -> (source rows, Ci)."""
    windows = plan.windows
    if plan.symmetric and plan.kernel == "triton":
        return _triton_product(gradient, weight, plan, turned=True)
    # Turning the kernel round copies it, which for few rows costs more than summing their windows.
    if plan.symmetric and (windows.key.by_block or len(gradient) > weight.shape[0]):
        turned = _turned(weight, plan.groups)
        if plan.kernel == "bricks":
            return _bricks(gradient, turned, plan)
        return _matrix_product(gradient, _flat(turned).t(), windows)
    seen = _dense_gradient(gradient, None, weight, plan) if plan.kernel == "bricks" else gradient @ _flat(weight)
    return windows.fold(seen.view(-1, *windows.shape_zyx, weight.shape[1] * plan.groups))


def _weight_gradient(rows: Tensor, gradient: Tensor, weight: Tensor, plan: RowConvolution) -> Tensor:
    """(source rows, Ci), (target rows, Co) -> as ``weight``."""
    if plan.kernel == "bricks":
        return _dense_gradient(gradient, plan.windows.gather(rows), weight, plan)
    if plan.kernel == "triton":
        return _triton_weight_gradient(rows, gradient, weight, plan)
    outputs, inputs, *kernel = weight.shape
    width = prod(kernel) * inputs
    # The product is faster the other way round, but large weights then have to be turned, which costs more.
    turned = outputs * width < _TURNED_AT_MOST
    kind = torch.promote_types(rows.dtype, torch.float32)  # pieces are summed in no less than single precision
    total = torch.zeros((width, outputs) if turned else (outputs, width), dtype=kind, device=rows.device)
    for piece, columns in _pieces(rows, plan.windows):
        left, right = (columns.t(), gradient[piece]) if turned else (gradient[piece].t(), columns)
        if kind == rows.dtype:
            total.addmm_(left, right)
        else:
            total += left @ right
    return (total.t() if turned else total).to(weight.dtype).reshape(outputs, *kernel, inputs).permute(0, 4, 1, 2, 3)


def _bricks(rows: Tensor, weight: Tensor, plan: RowConvolution) -> Tensor:
    """The dense kernel on gathered windows: (source rows, Ci) -> (target rows, Co)."""
    stride, dilation = plan.dense_arguments
    bricks = plan.windows.gather(rows).permute(0, 4, 1, 2, 3)
    out = functional.conv3d(bricks, weight, None, stride, 0, dilation, plan.groups)
    return out.permute(0, 2, 3, 4, 1).reshape(-1, weight.shape[0])


def _dense_gradient(gradient: Tensor, gathered: Tensor | None, weight: Tensor, plan: RowConvolution) -> Tensor:
    """Of the windows (units, z, y, x, Ci), or of the weight where the gathered windows are given."""
    stride, dilation = plan.dense_arguments
    shape, unit = plan.windows.shape_zyx, plan.windows.unit_zyx
    out = gradient.view(-1, *unit, weight.shape[0]).permute(0, 4, 1, 2, 3)
    wanted = [gathered is None, gathered is not None, False]
    if gathered is None:
        gathered = gradient.new_empty(1).expand(len(out), *shape, weight.shape[1] * plan.groups)
    for_windows, for_weight, _ = torch.ops.aten.convolution_backward(
        out, gathered.permute(0, 4, 1, 2, 3), weight, None, stride, [0, 0, 0], dilation, False, [0, 0, 0], plan.groups,
        wanted,
    )  # fmt: skip
    found: Tensor = for_weight if wanted[1] else for_windows.permute(0, 2, 3, 4, 1).contiguous()
    return found


def _matrix_product(rows: Tensor, matrix: Tensor, windows: Windows) -> Tensor:
    """im2col times (window * Ci, Co), in pieces."""
    out = rows.new_empty(len(windows.table), matrix.shape[1])
    for piece, columns in _pieces(rows, windows):
        torch.mm(columns, matrix, out=out[piece])
    return out


def _pieces(rows: Tensor, windows: Windows) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive pieces of the im2col matrix: (which outputs, (outputs, window * Ci))."""
    table, width = windows.table, prod(windows.shape_zyx) * rows.shape[1]
    padded = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    step = max(_FEWEST_ROWS, _PIECE // width)
    for start in range(0, len(table), step):
        part = table[start : start + step]
        yield slice(start, start + len(part)), padded.index_select(0, part.flatten()).view(len(part), width)


def _triton_product(rows: Tensor, weight: Tensor, plan: RowConvolution, turned: bool = False) -> Tensor:
    """As ``_matrix_product``, with ``_flat`` of the weight or, ``turned``, of ``_turned``, neither of which is made."""
    from prostate_mim.masked.triton_rows import product  # only those who run it have Triton

    return product(rows, plan.windows.table, _flat(weight).view(len(weight), -1, weight.shape[1]), turned)


def _triton_weight_gradient(rows: Tensor, gradient: Tensor, weight: Tensor, plan: RowConvolution) -> Tensor:
    from prostate_mim.masked.triton_rows import weight_gradient

    outputs, inputs, *kernel = weight.shape
    found = weight_gradient(rows, plan.windows.table, gradient).to(weight.dtype)
    return found.view(outputs, *kernel, inputs).permute(0, 4, 1, 2, 3)


def _flat(weight: Tensor) -> Tensor:
    """(Co, Ci, kz, ky, kx) -> (Co, window * Ci), a view where the weight is channels-last."""
    return weight.permute(0, 2, 3, 4, 1).reshape(len(weight), -1)


def _turned(weight: Tensor, groups: int) -> Tensor:
    """The kernel of the transposed convolution: (Co, Ci / groups, k) -> (Ci, Co / groups, k), every axis reversed."""
    outputs, inputs, *kernel = weight.shape
    split = weight.flip(2, 3, 4).view(groups, outputs // groups, inputs, *kernel)
    return split.transpose(1, 2).reshape(groups * inputs, outputs // groups, *kernel)
