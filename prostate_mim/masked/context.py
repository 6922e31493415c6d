"""Which positions are visible at every resolution, computed once per batch and carried by the features themselves.

Nothing here is global: two networks, or one network twice, may run with different contexts at the same time.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.masked.windows import Triple, WindowKey, Windows

if TYPE_CHECKING:
    from prostate_mim.masked.features import MaskedFeatures


class Level:
    """One resolution of a masked network.

    A position i along an axis covers input voxels from ``i * stride`` on and lies in block ``(i * stride) // block``.
    Rows list the visible positions, sample by sample, within a sample block by block, within a block in (z, y, x)
    order; so the rows of a sample, and of a block, lie together.

    Attributes:
        stride_zyx: input voxels per position.
        size_zyx: positions per axis.
        cells_zyx: positions per block.
        whole: True where whole blocks tile the level, so that every block has the same number of rows.
        visible: (N, 1, d, h, w) bool.
    """

    def __init__(self, hidden_blocks: Tensor, block_zyx: Triple, stride_zyx: Triple, size_zyx: Triple) -> None:
        self.stride_zyx, self.size_zyx = stride_zyx, size_zyx
        z, y, x = (block // stride for block, stride in zip(block_zyx, stride_zyx, strict=True))
        self.cells_zyx: Triple = (z, y, x)
        grid = hidden_blocks.shape[1:]
        self.whole = all(n == g * c for n, g, c in zip(size_zyx, grid, self.cells_zyx, strict=True))
        shown = ~hidden_blocks
        for axis, (size, cells) in enumerate(zip(size_zyx, self.cells_zyx, strict=True), 1):
            block_of = torch.arange(size, device=shown.device) // cells
            shown = shown.index_select(axis, block_of)
        self.visible = shown[:, None]
        self._blocks = hidden_blocks
        self._counts: dict[torch.dtype, Tensor] = {}
        self._windows: dict[WindowKey, Windows] = {}

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Visible positions of each sample. Waits for the device, so dense kernels use ``count_of_sample``."""
        return tuple(self.visible.flatten(1).sum(1).tolist())

    @cached_property
    def rows(self) -> int:
        """Visible positions of the batch, the sum of ``counts``."""
        return sum(self.counts)

    @property
    def uniform(self) -> bool:
        """Whether every sample has the same number of visible positions, and some."""
        return min(self.counts) == max(self.counts) > 0

    def count_of_sample(self, like: Tensor) -> Tensor:
        """(N, 1) visible positions of every sample, in the type of ``like``."""
        if like.dtype not in self._counts:
            self._counts[like.dtype] = self.visible.flatten(1).sum(1, keepdim=True).to(like.dtype)
        return self._counts[like.dtype]

    @cached_property
    def blocks(self) -> Tensor:
        """(V, 4) visible blocks: sample and block position (n, z, y, x), in row order."""
        return (~self._blocks).nonzero()

    @cached_property
    def places(self) -> Tensor:
        """(rows, 4) int64: sample and position (n, z, y, x) of every row."""
        steps = [torch.arange(cells, device=self.blocks.device) for cells in self.cells_zyx]
        within = torch.cartesian_prod(*steps).reshape(-1, 3)
        corner = self.blocks[:, 1:] * torch.tensor(self.cells_zyx, device=within.device)
        position = (corner[:, None] + within).reshape(-1, 3)
        sample = self.blocks[:, :1].repeat_interleave(len(within), 0)
        places = torch.cat([sample, position], 1)
        if not self.whole:
            size = torch.tensor(self.size_zyx, device=within.device)
            places = places[(position < size).all(1)]
        return places

    @cached_property
    def flat(self) -> Tensor:
        """(rows,) int64: index of every row in a flattened (N, d, h, w) array."""
        d, h, w = self.size_zyx
        n, z, y, x = self.places.unbind(1)
        return ((n * d + z) * h + y) * w + x

    @cached_property
    def row_of(self) -> Tensor:
        """(N, d, h, w) int32: the row of every position, ``rows`` where it is hidden."""
        table = torch.full(self.visible.shape, self.rows, dtype=torch.int32, device=self.flat.device)
        table.view(-1)[self.flat] = torch.arange(self.rows, dtype=torch.int32, device=self.flat.device)
        return table[:, 0]

    @cached_property
    def block_row_of(self) -> Tensor:
        """(N, gz, gy, gx) int32: the number of every visible block in row order, their count where it is hidden."""
        table = torch.full(self._blocks.shape, len(self.blocks), dtype=torch.int32, device=self._blocks.device)
        table[tuple(self.blocks.unbind(1))] = torch.arange(
            len(self.blocks), dtype=torch.int32, device=self._blocks.device
        )
        return table

    @cached_property
    def sample_of(self) -> Tensor:
        """(rows,) int64: the sample of every row."""
        return self.places[:, 0]

    def windows(self, target: Level, key: WindowKey) -> Windows:
        """The windows that ``target``'s rows see of this level; built once, shared by every layer alike."""
        if key not in self._windows:
            self._windows[key] = Windows(self, target, key)
        return self._windows[key]


class MaskContext:
    """What is hidden in one batch, at every resolution.

    Args:
        hidden_blocks: (N, gz, gy, gx) bool, True = hidden.
        block_zyx: voxels per block.
        size_zyx: voxels per crop. Where it is no multiple of the block, the last block is cut.

    Raises:
        UsageError: the blocks do not cover the crop.
    """

    def __init__(self, hidden_blocks: Tensor, block_zyx: Triple, size_zyx: Triple) -> None:
        if min(*block_zyx, *size_zyx) < 1:
            raise UsageError(f"blocks of {block_zyx} voxels in a crop of {size_zyx}: sizes must be positive")
        expected = tuple(-(-size // block) for size, block in zip(size_zyx, block_zyx, strict=True))
        if hidden_blocks.dtype != torch.bool or hidden_blocks.shape[1:] != expected:
            raise UsageError(
                f"hidden blocks are {tuple(hidden_blocks.shape)} {hidden_blocks.dtype}; blocks of {block_zyx} voxels "
                f"in a crop of {size_zyx} need (N, {', '.join(map(str, expected))}) bool"
            )
        self.hidden_blocks, self.block_zyx, self.size_zyx = hidden_blocks, block_zyx, size_zyx
        self._levels: dict[tuple[Triple, Triple], Level] = {}

    @property
    def samples(self) -> int:
        """N."""
        return len(self.hidden_blocks)

    def level(self, stride_zyx: Triple, size_zyx: Triple) -> Level:
        """The resolution with this cumulative stride.

        Raises:
            UsageError: the stride does not divide the block; names both.
        """
        key = (stride_zyx, size_zyx)
        if key not in self._levels:
            for axis, stride, block in zip("zyx", stride_zyx, self.block_zyx, strict=True):
                if block % stride:
                    raise UsageError(
                        f"cumulative stride {stride} along {axis} does not divide the block of {block} voxels; hidden "
                        f"blocks must be multiples of the network's stride, here {stride_zyx} (z, y, x)"
                    )
            self._levels[key] = Level(self.hidden_blocks, self.block_zyx, stride_zyx, size_zyx)
        return self._levels[key]

    def hide(self, voxels: Tensor, path: str = "dense") -> MaskedFeatures:
        """Voxels (N, C, D, H, W) -> features without the hidden ones, whatever those hold (NaN included).

        Args:
            path: ``dense`` computes at every position and masks; ``rows`` computes at visible positions only.

        Raises:
            UsageError: unknown path, or voxels of another size than the context's.
        """
        from prostate_mim.masked.features import hide

        return hide(self, voxels, path)
