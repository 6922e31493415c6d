"""Slices left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import BlockStrategy, Guide, Hiding, exact_count, first_of


@dataclass(frozen=True)
class Slices(BlockStrategy):
    """Leaves whole axial slabs out, each one block thick; the rest must be told from the slabs above and below.

    The unit of the exact count is the slab: a grid of one block along z has nothing to leave out and is refused.
    """

    name: ClassVar[str] = "slice"

    def hidden_count(self, grid: BlockGrid, ratio: float) -> int:
        """``round(ratio * gz)`` slabs of ``gy * gx`` blocks."""
        z, y, x = grid.grid_zyx
        return y * x * exact_count(ratio, z, "slices of blocks")

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """Random slabs, constant in-plane."""
        z, y, x = grid.grid_zyx
        count = exact_count(ratio, z, "slices of blocks")
        slabs = first_of(torch.rand(z, generator=generator).argsort(), count, (z, 1, 1))
        return Hiding(slabs.repeat(1, y, x), self.name)
