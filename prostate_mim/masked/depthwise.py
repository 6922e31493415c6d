"""Depthwise convolution on rows of visible positions: tap by tap, gather, multiply, add.

A depthwise kernel does one multiplication for every value that it reads, so that gathered windows, or an im2col matrix,
cost more than the arithmetic. Here the outputs are taken in pieces that stay in the cache, and each place of the kernel
(a tap) gathers the rows it sees, multiplies them by its weights (one per channel), and adds them to the outputs.

The gradient of the input is, for strides of 1, the same with the kernel turned round. One gather of the arriving
gradient then serves both gradients: what tap k of an output sees, sees that output through the opposite tap.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from prostate_mim.masked.windows import Windows

# Values of a piece: what is gathered, multiplied and added stays in the second-level cache.
_PIECE = 64_000
_FEWEST_ROWS = 64  # below that, starting the operations costs more than they do


def convolve(rows: Tensor, weight: Tensor, windows: Windows) -> Tensor:
    """The convolution.

    Args:
        rows: (source rows, C).
        weight: (C, 1, kz, ky, kx).
        windows: of single outputs.

    Returns:
        (target rows, C) in the type of ``rows``; sums are in no less than single precision.
    """
    padded, taps = _padded(rows), _taps(weight)
    out = padded.new_zeros(windows.taps.shape[1], rows.shape[1])
    for piece in _pieces(out):
        part = out[piece]
        seen = torch.empty_like(part)
        for sources, tap in zip(windows.taps[:, piece], taps, strict=True):
            part.addcmul_(torch.index_select(padded, 0, sources, out=seen), tap)
    return out.to(rows.dtype)


def gradients(
    rows: Tensor, gradient: Tensor, weight: Tensor, windows: Windows, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Of rows and weight.

    Args:
        rows: (source rows, C).
        gradient: (target rows, C), what arrives.
        weight: (C, 1, kz, ky, kx).
        windows: of single outputs.
        symmetric: inputs are seen by the outputs they would see (stride 1, "same" padding).
    """
    taps = _taps(weight)
    for_taps = torch.zeros_like(taps)
    if symmetric:
        for_rows = _by_inputs(rows.to(taps.dtype), _padded(gradient), taps.flip(0), windows.taps, for_taps)
        for_taps = for_taps.flip(0)
    else:
        for_rows = _by_outputs(_padded(rows), gradient.to(taps.dtype), taps, windows.taps, for_taps)
    return for_rows.to(rows.dtype), for_taps.t().reshape(weight.shape).to(weight.dtype)


def _by_inputs(rows: Tensor, gradient: Tensor, taps: Tensor, table: Tensor, for_taps: Tensor) -> Tensor:
    """Adds to ``for_taps`` and returns the gradient of the rows; ``taps`` are in turned order."""
    for_rows = torch.zeros_like(rows)
    for piece in _pieces(rows):
        part, here = for_rows[piece], rows[piece]
        seen = torch.empty_like(part)
        for sources, tap, total in zip(table[:, piece], taps, for_taps, strict=True):
            torch.index_select(gradient, 0, sources, out=seen)
            part.addcmul_(seen, tap)
            total += seen.mul_(here).sum(0)
    return for_rows


def _by_outputs(rows: Tensor, gradient: Tensor, taps: Tensor, table: Tensor, for_taps: Tensor) -> Tensor:
    """The same for any stride. Of one tap, no two outputs see the same row, so additions do not meet."""
    for_rows = torch.zeros_like(rows)
    for piece in _pieces(gradient):
        here = gradient[piece]
        seen, back = torch.empty_like(here), torch.empty_like(here)
        for sources, tap, total in zip(table[:, piece], taps, for_taps, strict=True):
            for_rows.index_add_(0, sources, torch.mul(here, tap, out=back))
            total += torch.index_select(rows, 0, sources, out=seen).mul_(here).sum(0)
    return for_rows[:-1]


def _pieces(rows: Tensor) -> Iterator[slice]:
    step = max(_FEWEST_ROWS, _PIECE // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def _padded(rows: Tensor) -> Tensor:
    """With a last row of zeros, which the tables name where nothing is there."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])


def _taps(weight: Tensor) -> Tensor:
    """(C, 1, kz, ky, kx) -> (taps, C) in no less than single precision."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).flatten(1).t().contiguous()
