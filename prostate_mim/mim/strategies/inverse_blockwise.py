"""One contiguous box of visible blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import BlockStrategy, Guide, Hiding
from prostate_mim.mim.strategies.boxes import cut, draw_extent, place_box


@dataclass(frozen=True)
class InverseBlockwise(BlockStrategy):
    """Only one box stays visible (Baevski et al. 2023, data2vec 2.0, section 3.2: inverse block masking).

    The visible blocks are connected through their faces. The box is cut to the exact count.
    """

    name: ClassVar[str] = "inverse_blockwise"

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """Everything outside one box."""
        count = grid.count - self.hidden_count(grid, ratio)
        box = place_box(draw_extent(count, grid.grid_zyx, generator), grid.grid_zyx, generator)
        return Hiding(~cut(box, count, generator), self.name)
