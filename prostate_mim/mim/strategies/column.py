"""Columns over the full depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import BlockStrategy, Guide, Hiding, exact_count, first_of


@dataclass(frozen=True)
class Columns(BlockStrategy):
    """Hides whole columns of blocks along z.

    With thick slices the neighbour above and below gives a hidden block away; a column leaves no such neighbour. The
    unit of the exact count is the column.
    """

    name: ClassVar[str] = "column"

    def hidden_count(self, grid: BlockGrid, ratio: float) -> int:
        """``round(ratio * columns)`` columns of ``gz`` blocks."""
        z, y, x = grid.grid_zyx
        return z * exact_count(ratio, y * x, "columns")

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """Random columns, constant along z."""
        z, y, x = grid.grid_zyx
        count = exact_count(ratio, y * x, "columns")
        plane = first_of(torch.rand(y * x, generator=generator).argsort(), count, (1, y, x))
        return Hiding(plane.repeat(z, 1, 1), self.name)
