"""What every decoder offers, and the parts they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from prostate_mim.errors import UsageError
from prostate_mim.mim.layout import Triple
from prostate_mim.nets.encoder import StageInfo


class Decoder(nn.Module):
    """From the encoder's features to F values for each cell of the coarsest grid.

    ``forward(features, visible, hidden_cells)`` takes

        features: the ``levels`` coarsest stages, dense (N, C, d, h, w), fine first, coarse last; a masked encoder
            leaves zeros where hidden;
        visible: for each of these stages (N, 1, d, h, w) bool, True = visible;
        hidden_cells: (N, 1, d, h, w) bool at the coarsest stage, True = hidden;

    and returns (N, F, d, h, w) at the coarsest stage. What it predicts for visible cells is never in the loss.

    Attributes:
        levels: how many of the coarsest stages are read; the others need not be made dense.
        needs_voxelwise: F must be the voxels of a cell.
    """

    needs_voxelwise: ClassVar[bool] = False
    levels: int


class HiddenLinear(nn.Module):
    """A linear map of each hidden cell; visible cells, which nobody scores, cost nothing and are 0.

    Args:
        inputs: channels of a cell.
        outputs: F values of a cell.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, rows: Tensor, hidden_cells: Tensor) -> Tensor:
        """Rows (K, inputs) of the K hidden cells in order, hidden_cells (N, 1, d, h, w) bool -> (N, F, d, h, w)."""
        found: Tensor = self.linear(rows)
        cells = found.new_zeros(*hidden_cells[:, 0].shape, found.shape[1])
        cells[hidden_cells[:, 0]] = found
        return cells.movedim(-1, 1)


def hidden_rows(values: Tensor, hidden_cells: Tensor) -> Tensor:
    """The hidden cells of (N, C, d, h, w) as rows (K, C), samples first, cells in (z, y, x) order."""
    return values.movedim(1, -1)[hidden_cells[:, 0]]


def convolution_block(width: int, level: StageInfo) -> nn.Sequential:
    """Convolution, group norm, leaky ReLU at one stage's resolution."""
    # Stages that have not yet been strided through-plane are convolved in-plane only, like the encoder's.
    depth = 3 if level.stride_zyx[0] > 1 else 1
    convolution = nn.Conv3d(width, width, (depth, 3, 3), padding=(depth // 2, 1, 1), bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, width), nn.LeakyReLU(0.01, inplace=True))


def growth_between(coarse: StageInfo, fine: StageInfo) -> Triple:
    """How many times finer ``fine`` is along each axis."""
    z, y, x = (a // b for a, b in zip(coarse.stride_zyx, fine.stride_zyx, strict=True))
    return z, y, x


def require_voxels(name: str, stages: Sequence[StageInfo], outputs: int) -> Triple:
    """The cell of this encoder, in voxels (z, y, x).

    Raises:
        UsageError: the decoder called ``name`` is asked for another number of outputs than a cell has voxels.
    """
    z, y, x = stages[-1].stride_zyx
    if outputs != z * y * x:
        raise UsageError(
            f"decoder {name!r} predicts the {z * y * x} voxels of a cell ({z} x {y} x {x}), not {outputs} values; "
            "use decoder 'light' or 'linear'"
        )
    return z, y, x


def densify(features: Tensor, visible: Tensor, token: Tensor) -> Tensor:
    """(N, C, d, h, w) with the learned token (1, C, 1, 1, 1) wherever nothing is visible."""
    return torch.where(visible, features, token.to(features.dtype))
