"""What the tests of the strategies share: small grids, guides, counting, and strategies that are broken on purpose."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from scipy import ndimage

from prostate_mim.mim import BlockGrid
from prostate_mim.mim.strategies import STRATEGIES, Guide, Hiding, build_strategy
from prostate_mim.mim.strategies.base import BlockStrategy

BLOCK = (1, 2, 3)
TEXTS = {name: name for name in STRATEGIES} | {"mixture": "mixture:random=1,blockwise=2,hard=1,gland=1"}
ALL = [build_strategy(text) for text in TEXTS.values()]
NAMES = list(TEXTS)
# By place, not by hiding anything: these have only a handful of different draws on a small grid.
FEW_DRAWS = {"slice": 4, "grid": 20, "inverse_blockwise": 30}


def grid_of(grid_zyx: tuple[int, int, int], block_zyx: tuple[int, int, int] = BLOCK) -> BlockGrid:
    """A grid of small blocks."""
    return BlockGrid(block_zyx, grid_zyx)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def guide_of(grid: BlockGrid, seed: int = 0, progress: float = 0.5) -> Guide:
    """Everything a strategy may ask for; the gland is the middle third, the lesion one voxel of it."""
    generator = seeded(1000 + seed)
    voxels = torch.randn(1, *grid.size_zyx, generator=generator)
    gland = torch.zeros(grid.size_zyx, dtype=torch.bool)
    _, height, width = grid.size_zyx
    gland[:, height // 3 : height - height // 3, width // 3 : width - width // 3] = True
    lesion = torch.zeros_like(gland)
    lesion[0, height // 2, width // 2] = True
    return Guide(voxels, gland, lesion, torch.rand(grid.grid_zyx, generator=generator), progress)


def cells_dropped(frequencies: torch.Tensor) -> int:
    """Pairs of conjugate frequencies, and frequencies that are their own conjugate, counted one by one."""
    height, width = frequencies.shape
    dropped = {(y, x) for y, x in frequencies.nonzero().tolist()}
    return len({frozenset({(y, x), (-y % height, -x % width)}) for y, x in dropped})


def cells_dropped_fast(frequencies: torch.Tensor) -> int:
    """The same number: own conjugates count once, all others in pairs."""
    height, width = frequencies.shape
    y, x = torch.arange(height)[:, None], torch.arange(width)
    own = (y == -y % height) & (x == -x % width)
    return (int(frequencies.sum()) + int((frequencies & own).sum())) // 2


def cells_in_all(height: int, width: int) -> int:
    """How many such cells there are."""
    return cells_dropped(torch.ones(height, width, dtype=torch.bool))


def neighbours(blocks: torch.Tensor) -> int:
    """Pairs of hidden blocks that share a face."""
    return sum(
        int((blocks.narrow(axis, 1, n - 1) & blocks.narrow(axis, 0, n - 1)).sum())
        for axis, n in enumerate(blocks.shape)
    )


def pieces(blocks: torch.Tensor) -> int:
    """Regions that True blocks form through their faces."""
    return int(ndimage.label(blocks.numpy())[1])


class OneByOne(BlockStrategy):
    """Broken: every block is hidden by a coin of its own, so the count is right only on average."""

    name = "random"

    def hide(self, grid, ratio, generator, guide):
        """As it says."""
        return Hiding(torch.rand(grid.grid_zyx, generator=generator) < ratio, self.name)


class Stubborn(BlockStrategy):
    """Broken: the same blocks for every seed."""

    name = "random"

    def hide(self, grid, ratio, generator, guide):
        """As it says."""
        return build_strategy("random").hide(grid, ratio, seeded(0), guide)


@dataclass
class Remembering(BlockStrategy):
    """Broken: what came before in the batch decides too."""

    name = "random"
    before: list[int] = field(default_factory=list)

    def hide(self, grid, ratio, generator, guide):
        """As it says."""
        hiding = build_strategy("random").hide(grid, ratio, generator, guide)
        self.before.append(1)
        return Hiding(hiding.blocks.roll(len(self.before), 2), self.name)


class Foreign(BlockStrategy):
    """Broken: draws from torch's global generator."""

    name = "random"

    def hide(self, grid, ratio, generator, guide):
        """As it says."""
        return Hiding(torch.rand(grid.count).argsort().reshape(grid.grid_zyx) < round(ratio * grid.count), self.name)
