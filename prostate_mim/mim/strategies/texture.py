"""Blocks with much texture are hidden more often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import (
    BlockStrategy,
    Guide,
    Hiding,
    blocks_of,
    check_weight,
    draw_weighted,
    voxels_of,
)

BINS = 16
REACH = 4.0  # deviations of a z-scored crop that the histogram covers on either side


@dataclass(frozen=True)
class Texture(BlockStrategy):
    """The more texture a block has within its crop, the more readily it is drawn: flat fat and air teach little.

    Blocks are compared by rank, so one very bright structure does not take all: a block that is richer than a share s
    of the others is drawn ``1 + (weight - 1) * s`` times as readily as the flattest one.

    Attributes:
        measure: "entropy" (Shannon 1948, of a histogram of 16 bins from -4 to 4) or "variance" within the block.
        weight: how much more readily the richest block is drawn than the flattest.
    """

    measure: str = "entropy"
    weight: float = 4.0
    name: ClassVar[str] = "texture"
    needs: ClassVar[frozenset[str]] = frozenset({"voxels"})

    def __post_init__(self) -> None:
        check_weight(self.name, self.weight)
        if self.measure not in {"entropy", "variance"}:
            raise UsageError(f"strategy texture has measure {self.measure!r}; use 'entropy' or 'variance'")

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """Weights 1 to ``weight`` by the rank of the texture.

        Raises:
            UsageError: also where the guide holds no voxels, or voxels that are not finite.
        """
        count = self.hidden_count(grid, ratio)
        blocks = blocks_of(voxels_of(guide, grid, self.name)[0].float(), grid)
        if not bool(blocks.isfinite().all()):
            raise UsageError("guide voxels hold a value that is not finite; check the study's normalisation")
        texture = block_entropy(blocks) if self.measure == "entropy" else blocks.var(1, correction=0)
        flatter = torch.searchsorted(texture.sort().values, texture)  # equal textures get equal ranks
        weights = 1 + (self.weight - 1) * flatter.double() / max(1, grid.count - 1)
        return Hiding(draw_weighted(weights.reshape(grid.grid_zyx), count, generator), self.name)


def block_entropy(blocks: Tensor) -> Tensor:
    """(blocks, voxels per block) z-scored -> (blocks,) Shannon entropy of the grey values in bit, 0 to 4."""
    bins = ((blocks / REACH + 1) * (BINS / 2)).floor().clamp(0, BINS - 1).long()
    counts = torch.zeros(len(blocks), BINS, dtype=torch.float64, device=blocks.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float64))
    share = counts / blocks.shape[1]
    return -torch.xlogy(share, share).sum(1) / torch.log(torch.tensor(2.0, dtype=torch.float64))
