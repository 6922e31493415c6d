"""Voxels to be reconstructed: as they are, normalised within their block, or normalised by the gland."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import Triple, cells_to_voxels, repeat_cells, to_blocks, voxels_to_cells
from prostate_mim.mim.targets.base import TargetSource

# A block of z-scored tissue has variance about 0.1 to 1; blocks of padding or air have almost none, and must
# not have their noise blown up to unit variance.
VARIANCE_FLOOR = 1e-3


def block_moments(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each block: two (N, blocks, 1). The variance is biased and floored."""
    variance, mean = torch.var_mean(blocks, dim=2, keepdim=True, unbiased=False)
    return mean, (variance + VARIANCE_FLOOR).sqrt()


class VoxelTarget:
    """The z-scored voxels themselves (Xie et al. 2022, SimMIM, section 3.4)."""

    name: ClassVar[str] = "voxels"
    voxelwise: ClassVar[bool] = True

    def channels(self, cell_zyx: Triple) -> int:
        """One value a voxel."""
        return math.prod(cell_zyx)

    def values(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor:
        """(N, z*y*x, d, h, w) normalised voxels."""
        mean, deviation = self.moments(source, grid, cell_zyx)
        return voxels_to_cells((source.voxels - mean) / deviation, cell_zyx)

    def to_voxels(self, prediction: Tensor, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor | None:
        """(N, 1, D, H, W): the inverse of ``values``."""
        mean, deviation = self.moments(source, grid, cell_zyx)
        return cells_to_voxels(prediction, cell_zyx) * deviation + mean

    def moments(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> tuple[Tensor, Tensor]:
        """Mean and deviation that normalise each voxel: two tensors broadcastable to (N, 1, D, H, W)."""
        return source.voxels.new_zeros(1), source.voxels.new_ones(1)


class BlockTarget(VoxelTarget):
    """Voxels normalised within their block (He et al. 2022, MAE, section 4.1). A block may be several cells."""

    name: ClassVar[str] = "block"

    def moments(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> tuple[Tensor, Tensor]:
        """The moments of the block around each voxel, padding included: two (N, 1, D, H, W)."""
        n = source.voxels.shape[0]
        mean, deviation = block_moments(to_blocks(source.voxels, grid.block_zyx))
        spread = [repeat_cells(each.reshape(n, 1, *grid.grid_zyx), grid.block_zyx) for each in (mean, deviation)]
        return spread[0], spread[1]


class GlandTarget(VoxelTarget):
    """Voxels normalised by the gland of their sample.

    Block normalisation deletes the absolute T2 intensity that separates a lesion from the peripheral zone; the
    crop's own z-scores depend on how much fat and bladder it holds. The gland is the same reference in every study.
    A sample whose gland is unknown, or smaller in this crop than one cell (too few voxels for a deviation), is
    normalised by all its measured voxels instead.
    """

    name: ClassVar[str] = "gland"

    def moments(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> tuple[Tensor, Tensor]:
        """The sample's moments over its gland, else over its measured voxels: two (N, 1, 1, 1, 1)."""
        axes = (1, 2, 3, 4)
        region = source.inside
        if source.gland is not None:
            gland = source.gland & source.inside
            large = gland.sum(axes, keepdim=True) >= math.prod(cell_zyx)
            region = torch.where(large, gland, source.inside)
        count = region.sum(axes, keepdim=True).clamp(min=1)
        mean = torch.where(region, source.voxels, 0).sum(axes, keepdim=True) / count
        variance = torch.where(region, source.voxels - mean, 0).square().sum(axes, keepdim=True) / count
        return mean, (variance + VARIANCE_FLOOR).sqrt()
