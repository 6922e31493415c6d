"""Random blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import Triple
from prostate_mim.mim.strategies.base import BlockStrategy, Guide, Hiding, exact_count


@dataclass(frozen=True)
class RandomBlocks(BlockStrategy):
    """Every block is hidden with the same probability (He et al. 2022, MAE, section 3)."""

    name: ClassVar[str] = "random"

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """The draw of ``random_hidden_blocks(1, ...)``."""
        return Hiding(random_hidden_blocks(1, grid.grid_zyx, ratio, generator)[0], self.name)


def random_instead(asked: str, grid: BlockGrid, ratio: float, generator: torch.Generator) -> Hiding:
    """Random blocks where the strategy ``asked`` lacks what it needs; the result names both."""
    return Hiding(random_hidden_blocks(1, grid.grid_zyx, ratio, generator)[0], RandomBlocks.name, instead_of=asked)


def random_hidden_blocks(batch: int, grid_zyx: Triple, ratio: float, generator: torch.Generator) -> Tensor:
    """Hide exactly ``round(ratio * blocks)`` blocks of every sample, uniformly at random (He et al. 2022, MAE).

    Args:
        batch: samples N.
        grid_zyx: blocks per axis.
        ratio: mask ratio, strictly between 0 and 1.
        generator: the only source of randomness.

    Returns:
        hidden: (N, gz, gy, gx) bool, True = hidden.

    Raises:
        UsageError: the ratio would hide no block or all of them.
    """
    z, y, x = grid_zyx
    blocks = z * y * x
    count = exact_count(ratio, blocks, "blocks")
    order = torch.rand(batch, blocks, generator=generator).argsort(dim=1)
    hidden = torch.zeros(batch, blocks, dtype=torch.bool)
    hidden.scatter_(1, order[:, :count], True)
    return hidden.reshape(batch, z, y, x)
