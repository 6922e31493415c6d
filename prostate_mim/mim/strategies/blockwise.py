"""Contiguous boxes of hidden blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import BlockStrategy, Guide, Hiding, uniform
from prostate_mim.mim.strategies.boxes import cut, draw_extent, place_box

SMALLEST = 16 / 196  # share of all blocks in the smallest box that BEiT draws: 16 of 14 x 14 patches


@dataclass(frozen=True)
class Blockwise(BlockStrategy):
    """Boxes of blocks are hidden until the count is reached (Bao et al. 2022, BEiT, algorithm 1), here in 3D.

    BEiT stops somewhere near its count. This count is exact: the last box is cut, and every box covers a block that is
    still visible, so each one brings the end nearer.
    """

    name: ClassVar[str] = "blockwise"

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """A union of boxes."""
        count = self.hidden_count(grid, ratio)
        least = math.ceil(SMALLEST * grid.count)
        hidden = torch.zeros(grid.grid_zyx, dtype=torch.bool)
        while (left := count - int(hidden.sum())) > 0:
            smallest = min(least, left)
            volume = smallest + int(uniform(generator) * (left - smallest + 1))
            visible = (~hidden).nonzero()
            z, y, x = visible[int(uniform(generator) * len(visible))].tolist()
            box = place_box(draw_extent(volume, grid.grid_zyx, generator), grid.grid_zyx, generator, (z, y, x))
            hidden |= cut(box & ~hidden, left, generator)
        return Hiding(hidden, self.name)
