"""Which blocks are hidden. Blocks are given in mm; ``hidden`` is boolean and True means hidden from the encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.layout import Triple, TripleMm, repeat_cells


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
        return math.prod(self.grid_zyx)

    @property
    def size_zyx(self) -> Triple:
        """Voxels per crop."""
        (bz, by, bx), (gz, gy, gx) = self.block_zyx, self.grid_zyx
        return bz * gz, by * gy, bx * gx

    def all_visible(self, samples: int) -> Tensor:
        """(N, gz, gy, gx) bool, all False: nothing is hidden."""
        return torch.zeros(samples, *self.grid_zyx, dtype=torch.bool)

    def cells_zyx(self, stride_zyx: Triple) -> Triple:
        """Positions per block at the stage with this stride in voxels."""
        z, y, x = (block // stride for block, stride in zip(self.block_zyx, stride_zyx, strict=True))
        return z, y, x

    @classmethod
    def from_mm(
        cls, block_mm_zyx: TripleMm, spacing_mm_zyx: TripleMm, size_zyx: Triple, stride_zyx: Triple
    ) -> BlockGrid:
        """Blocks of about a physical size: rounded per axis to the nearest multiple of the encoder's stride.

        Never less than one stride. ``inf``, or more than the crop measures, is the whole crop along that axis: with
        ``(inf, 8, 8)`` blocks are columns. ``describe`` reports what the rounding did.

        Args:
            block_mm_zyx: asked-for size in mm.
            spacing_mm_zyx: voxel size in mm.
            size_zyx: crop in voxels.
            stride_zyx: the encoder's cumulative stride in voxels.

        Raises:
            UsageError: a size that is zero, negative or not a number; or a crop that the rounded block does not
                divide, naming the axis and both.
        """
        block = [
            _rounded_block(axis, mm, spacing, size, stride)
            for axis, mm, spacing, size, stride in zip(
                "zyx", block_mm_zyx, spacing_mm_zyx, size_zyx, stride_zyx, strict=True
            )
        ]
        return cls.from_voxels((block[0], block[1], block[2]), size_zyx, stride_zyx)

    @classmethod
    def from_voxels(cls, block_zyx: Triple, size_zyx: Triple, stride_zyx: Triple) -> BlockGrid:
        """Blocks of exactly ``block_zyx`` voxels; nothing is rounded.

        Raises:
            UsageError: a block that is no multiple of the stride, or a crop that is no multiple of the block, naming
                the axis, both numbers and what would fit.
        """
        grid: list[int] = []
        for axis, block, size, stride in zip("zyx", block_zyx, size_zyx, stride_zyx, strict=True):
            if block < 1 or block % stride:
                raise UsageError(
                    f"block of {block} voxels along {axis} is not a multiple of the encoder's stride {stride}; "
                    f"use {stride}, or a multiple of it"
                )
            if size < 1 or size % block:
                raise UsageError(
                    f"crop of {size} voxels along {axis} is not a multiple of the block of {block} voxels; "
                    f"{_what_fits(size, stride)}"
                )
            grid.append(size // block)
        return cls(block_zyx, (grid[0], grid[1], grid[2]))

    def block_mm_zyx(self, spacing_mm_zyx: TripleMm) -> TripleMm:
        """Size of a block in mm, as it is after rounding."""
        (bz, by, bx), (sz, sy, sx) = self.block_zyx, spacing_mm_zyx
        return bz * sz, by * sy, bx * sx

    def describe(self, spacing_mm_zyx: TripleMm, asked_mm_zyx: TripleMm | None = None) -> str:
        """One line: ``block 10x8x8 mm asked, 12x8x8 mm used = 4x16x16 voxels, 4x6x6 blocks``.

        Args:
            spacing_mm_zyx: voxel size in mm.
            asked_mm_zyx: what ``from_mm`` was given; left out of the line where it is None.
        """
        asked = f"{_times(asked_mm_zyx)} mm asked, " if asked_mm_zyx is not None else ""
        used = f"{_times(self.block_mm_zyx(spacing_mm_zyx))} mm used = {_times(self.block_zyx)} voxels"
        return f"block {asked}{used}, {_times(self.grid_zyx)} blocks"


def expand_blocks(hidden_blocks: Tensor, factor_zyx: Triple) -> Tensor:
    """(N, gz, gy, gx) bool per block -> (N, 1, gz*fz, gy*fy, gx*fx) bool per voxel (or coarse cell)."""
    return repeat_cells(hidden_blocks[:, None], factor_zyx)


def nothing_hidden(hidden_blocks: Tensor) -> Tensor:
    """(N, gz, gy, gx) bool -> (N, 1, 1, 1, 1) bool: samples without a hidden block."""
    return ~hidden_blocks.flatten(1).any(1)[:, None, None, None, None]


def _rounded_block(axis: str, mm: float, spacing: float, size: int, stride: int) -> int:
    if math.isnan(mm) or mm <= 0:
        raise UsageError(
            f"block of {mm} mm along {axis} has no size; use a multiple of {stride * spacing:g} mm, "
            "or inf for the whole crop"
        )
    if mm >= size * spacing:
        return size
    # Halves go up, and 1e-9 keeps a half that binary fractions miss (0.3 mm voxels) from going down.
    return max(1, math.floor(mm / (spacing * stride) + 0.5 + 1e-9)) * stride


def _what_fits(size: int, stride: int) -> str:
    fitting = [str(block) for block in range(stride, size + 1, stride) if size % block == 0]
    if fitting:
        return f"blocks of {', '.join(fitting)} voxels fit"
    return f"no block fits it: choose a crop that is a multiple of the encoder's stride {stride}"


def _times(values: TripleMm) -> str:
    return "x".join("full" if math.isinf(value) else f"{value:g}" for value in values)
