"""Blocks of the gland are hidden more often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import (
    BlockStrategy,
    Guide,
    Hiding,
    blocks_of,
    check_shape,
    check_weight,
    draw_weighted,
)
from prostate_mim.mim.strategies.random import random_instead


@dataclass(frozen=True)
class GlandWeighted(BlockStrategy):
    """A block inside the gland is drawn ``weight`` times as readily as one outside; borders lie between.

    Gland outlines that a network drew cost no reader's time and say nothing about disease: this is self-supervised.
    A sample without a gland mask, or with none of it in the crop, gets random blocks, and the result says so.
    """

    weight: float = 4.0
    name: ClassVar[str] = "gland"
    needs: ClassVar[frozenset[str]] = frozenset({"gland"})

    def __post_init__(self) -> None:
        check_weight(self.name, self.weight)

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """Weights 1 to ``weight`` by the share of a block that is gland."""
        count = self.hidden_count(grid, ratio)
        if guide.gland is None or not bool(check_shape("gland", guide.gland, grid.size_zyx).any()):
            return random_instead(self.name, grid, ratio, generator)
        share = blocks_of(guide.gland.bool(), grid).float().mean(1).reshape(grid.grid_zyx)
        return Hiding(draw_weighted(1 + (self.weight - 1) * share, count, generator), self.name)
