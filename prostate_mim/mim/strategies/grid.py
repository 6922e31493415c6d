"""Hidden blocks spread evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import BlockStrategy, Guide, Hiding, first_of

# The order in which the corners of a 2 x 2 x 2 cube are hidden, at [z][y][x]: first the four that share no face.
CORNERS = (((0, 7), (6, 1)), ((5, 2), (3, 4)))


@dataclass(frozen=True)
class EvenGrid(BlockStrategy):
    """Hidden and visible blocks alternate as regularly as the ratio allows, at a random phase.

    Blocks are ranked by a three-dimensional ordered dither (Bayer 1973) and the first are hidden, which is exact for
    every ratio and grid: half of the blocks is a checkerboard, an eighth is one block of every 2 x 2 x 2.
    """

    name: ClassVar[str] = "grid"

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """The lowest ranks of a dither cube that is shifted and turned at random."""
        count = self.hidden_count(grid, ratio)
        levels = max(1, (max(grid.grid_zyx) - 1).bit_length())
        shift = torch.randint(2**levels, (3,), generator=generator).tolist()
        corners = torch.tensor(CORNERS).permute(torch.randperm(3, generator=generator).tolist())
        axes = [(torch.arange(n) + s) % 2**levels for n, s in zip(grid.grid_zyx, shift, strict=True)]
        ranks = dither_ranks(axes, corners, levels, staggered=min(grid.grid_zyx) > 1)
        return Hiding(first_of(ranks.flatten().argsort(), count, grid.grid_zyx), self.name)


def dither_ranks(axes: list[Tensor], corners: Tensor, levels: int, staggered: bool) -> Tensor:
    """(gz, gy, gx) distinct ranks; the lowest bit of a coordinate weighs most, so that neighbours lie far apart.

    Staggered, cubes side by side start at different corners, or a quarter of the blocks would fill every second plane
    and leave the others empty. Corners are exchanged within the checkerboard's colours. A grid of one plane cannot be
    staggered: it sees half of each cube, and would not see the same half of all.
    """
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    ranks = torch.zeros_like(z)
    for bit in range(levels):
        u, v, w = (((axis >> (bit + 1)) & 1) * staggered for axis in (z, y, x))
        corner = ((z >> bit) & 1 ^ u ^ v, (y >> bit) & 1 ^ v ^ w, (x >> bit) & 1 ^ u ^ w)
        ranks = ranks * 8 + corners[corner]
    return ranks
