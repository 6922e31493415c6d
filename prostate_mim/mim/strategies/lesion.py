"""Blocks of lesions are hidden more often. Looks at labels."""

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
class LesionWeighted(BlockStrategy):
    """A block that touches a lesion is drawn ``weight`` times as readily as another.

    NOT self-supervised: a lesion outline is a label. Any touch counts fully, because lesions are about as small as
    blocks. A sample without a lesion in the crop gets random blocks, and the result says so.
    """

    weight: float = 8.0
    name: ClassVar[str] = "lesion"
    self_supervised: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"lesion"})

    def __post_init__(self) -> None:
        check_weight(self.name, self.weight)

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """Weight 1, or ``weight`` where a block touches a lesion."""
        count = self.hidden_count(grid, ratio)
        if guide.lesion is None or not bool(check_shape("lesion", guide.lesion, grid.size_zyx).any()):
            return random_instead(self.name, grid, ratio, generator)
        touched = blocks_of(guide.lesion, grid).bool().any(1).reshape(grid.grid_zyx)
        return Hiding(draw_weighted(1 + (self.weight - 1) * touched.float(), count, generator), self.name)
