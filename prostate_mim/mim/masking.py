"""Which blocks are hidden. Blocks are given in mm; ``hidden`` is boolean and True means hidden from the encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.nets.decoder import repeat_cells

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class BlockGrid:
    """How a crop divides into blocks.

    Attributes:
        block_zyx: voxels per block.
        grid_zyx: blocks per crop.
    """

    block_zyx: Triple
    grid_zyx: Triple

    @property
    def count(self) -> int:
        """Blocks per crop."""
        z, y, x = self.grid_zyx
        return z * y * x

    @classmethod
    def from_mm(
        cls,
        block_mm_zyx: tuple[float, float, float],
        spacing_mm_zyx: tuple[float, float, float],
        size_zyx: Triple,
        stride_zyx: Triple,
    ) -> BlockGrid:
        """Blocks of a physical size; per axis a whole multiple of the encoder's cumulative stride.

        Raises:
            UsageError: naming the axis, the block and the stride (or the crop) that do not divide.
        """
        block: list[int] = []
        grid: list[int] = []
        for axis, mm, spacing, size, stride in zip(
            "zyx", block_mm_zyx, spacing_mm_zyx, size_zyx, stride_zyx, strict=True
        ):
            voxels = round(mm / spacing) if math.isfinite(mm) else 0
            if voxels < 1 or abs(voxels * spacing - mm) > 0.01 * mm:
                raise UsageError(
                    f"block of {mm} mm along {axis} is not a whole number of {spacing} mm voxels; "
                    f"use a multiple of {stride * spacing:g} mm"
                )
            if voxels % stride:
                raise UsageError(
                    f"block of {voxels} voxels ({mm} mm) along {axis} is not a multiple of the encoder's stride "
                    f"{stride}; use a multiple of {stride * spacing:g} mm"
                )
            if size % voxels:
                raise UsageError(
                    f"crop of {size} voxels along {axis} is not a multiple of the block of {voxels} voxels ({mm} mm)"
                )
            block.append(voxels)
            grid.append(size // voxels)
        return cls((block[0], block[1], block[2]), (grid[0], grid[1], grid[2]))


def random_hidden_blocks(batch: int, grid_zyx: Triple, ratio: float, generator: torch.Generator) -> Tensor:
    """Hide exactly ``round(ratio * blocks)`` blocks of every sample, uniformly at random (He et al. 2022, MAE).

    Args:
        batch: samples N.
        grid_zyx: blocks per axis.
        ratio: mask ratio, strictly between 0 and 1.
        generator: the only source of randomness.

    Returns:
        hidden: (N, gz, gy, gx) bool, True = hidden.

    Raises:
        UsageError: the ratio would hide no block or all of them.
    """
    z, y, x = grid_zyx
    blocks = z * y * x
    count = round(ratio * blocks) if math.isfinite(ratio) else 0
    if not 0 < count < blocks:
        raise UsageError(f"mask ratio {ratio} hides {count} of {blocks} blocks; choose one that hides some, not all")
    order = torch.rand(batch, blocks, generator=generator).argsort(dim=1)
    hidden = torch.zeros(batch, blocks, dtype=torch.bool)
    hidden.scatter_(1, order[:, :count], True)
    return hidden.reshape(batch, z, y, x)


def expand_blocks(hidden_blocks: Tensor, factor_zyx: Triple) -> Tensor:
    """(N, gz, gy, gx) bool per block -> (N, 1, gz*fz, gy*fy, gx*fx) bool per voxel (or coarse cell)."""
    return repeat_cells(hidden_blocks[:, None], factor_zyx)
