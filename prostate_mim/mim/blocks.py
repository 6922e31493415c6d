"""Which blocks are hidden. Blocks are given in mm; ``hidden`` is boolean and True means hidden from the encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.layout import Triple, repeat_cells


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


def expand_blocks(hidden_blocks: Tensor, factor_zyx: Triple) -> Tensor:
    """(N, gz, gy, gx) bool per block -> (N, 1, gz*fz, gy*fy, gx*fx) bool per voxel (or coarse cell)."""
    return repeat_cells(hidden_blocks[:, None], factor_zyx)
