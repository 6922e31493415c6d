"""The blocks that a teacher finds hardest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import BlockStrategy, Guide, Hiding, check_shape, first_of
from prostate_mim.mim.strategies.random import random_instead


@dataclass(frozen=True)
class Hard(BlockStrategy):
    """Part of the hidden blocks are those an EMA teacher reconstructs worst (Li et al. 2024, AnatoMask).

    Of the hidden blocks ``share * progress`` are the hardest, the rest is drawn at random: at the start all is random,
    at the end half, as in the paper. Equally hard blocks are taken in random order, so that padding is not taken by
    position. Without a teacher's losses the sample gets random blocks, and the result says so.

    Attributes:
        share: part of the hidden blocks that are the hardest when training ends, 0 to 1.
    """

    share: float = 0.5
    name: ClassVar[str] = "hard"
    needs: ClassVar[frozenset[str]] = frozenset({"difficulty", "progress"})

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"strategy hard has share {self.share}; use a number from 0 to 1")

    def hardest_count(self, grid: BlockGrid, ratio: float, progress: float) -> int:
        """How many of the hidden blocks are the hardest ones: ``round(share * progress * hidden)``.

        Raises:
            UsageError: the progress is not between 0 and 1.
        """
        if not (math.isfinite(progress) and 0 <= progress <= 1):
            raise UsageError(f"progress {progress} is no share of the training; use a number from 0 to 1")
        return round(self.share * progress * self.hidden_count(grid, ratio))

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """The hardest first, then random ones."""
        count = self.hidden_count(grid, ratio)
        hardest = self.hardest_count(grid, ratio, guide.progress)
        if guide.difficulty is None:
            return random_instead(self.name, grid, ratio, generator)
        difficulty = check_shape("difficulty", guide.difficulty, grid.grid_zyx).flatten().cpu()
        if not bool(difficulty.isfinite().all()):
            raise UsageError("guide difficulty holds a value that is not finite; the teacher's loss has failed")
        order = torch.rand(1, grid.count, generator=generator)[0].argsort()
        by_loss = order[difficulty[order].argsort(descending=True, stable=True)]
        taken = first_of(by_loss, hardest, (grid.count,))
        rest = order[~taken[order]]
        return Hiding(first_of(torch.cat([by_loss[:hardest], rest]), count, grid.grid_zyx), self.name)
