"""Bands of k-space are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import Guide, Hiding, exact_count, voxels_of


@dataclass(frozen=True)
class FrequencyBands:
    """Hides frequencies, not blocks: rings of the in-plane spectrum of every slice (Xie et al. 2023, MFM, section 3.2).

    MFM keeps a disc or its outside. Here the spectrum is ``bands`` rings of equally many cells and rings are dropped in
    random order, the last one in part, until the count is reached: low, middle and high frequencies all go missing.
    One draw holds for all slices of a sample, or a slice would be told from its neighbours. A cell is a frequency
    together with its conjugate, so that images stay real; the unit of the exact count is the cell. Radii are in cycles
    per voxel.

    Attributes:
        bands: rings of the spectrum.
    """

    bands: int = 16
    name: ClassVar[str] = "frequency"
    self_supervised: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"voxels"})

    def __post_init__(self) -> None:
        if self.bands < 2:
            raise UsageError(f"strategy frequency has {self.bands} bands; use 2 or more")

    def hidden_count(self, grid: BlockGrid, ratio: float) -> int:
        """No block is hidden: 0. The ratio is checked against the cells."""
        self.dropped_count(grid, ratio)
        return 0

    def dropped_count(self, grid: BlockGrid, ratio: float) -> int:
        """``round(ratio * cells)``: the exact number of dropped cells."""
        _, height, width = grid.size_zyx
        return exact_count(ratio, len(frequency_cells(height, width)[0]), "frequency cells")

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """All blocks visible; ``voxels`` without the dropped frequencies, ``frequencies`` (H, W) True = dropped.

        Raises:
            UsageError: also where the guide holds no voxels.
        """
        _, height, width = grid.size_zyx
        voxels = voxels_of(guide, grid, self.name)
        dropped = self.draw(height, width, ratio, generator)
        found = torch.promote_types(voxels.dtype, torch.float32)  # there is no half-precision transform on a CPU
        spectrum = torch.fft.rfft2(voxels.to(found))
        half = dropped[:, : spectrum.shape[-1]].to(voxels.device)
        kept = torch.fft.irfft2(spectrum.masked_fill(half, 0), s=(height, width)).to(voxels.dtype)
        return Hiding(torch.zeros(grid.grid_zyx, dtype=torch.bool), self.name, kept, dropped)

    def draw(self, height: int, width: int, ratio: float, generator: torch.Generator) -> Tensor:
        """(H, W) bool in the order of ``torch.fft.fft2``, True = dropped; equal at conjugate frequencies."""
        first, second = frequency_cells(height, width)
        cells = len(first)
        count = exact_count(ratio, cells, "frequency cells")
        bands = min(self.bands, cells)
        turns = torch.randperm(bands, generator=generator)
        ring = torch.arange(cells) * bands // cells
        taken = turns[ring].argsort(stable=True)[:count]
        dropped = torch.zeros(height * width, dtype=torch.bool)
        dropped[first[taken]] = True
        dropped[second[taken]] = True
        return dropped.reshape(height, width)


def frequency_cells(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cells of an (H, W) spectrum from low to high: flat indices of a frequency and of its conjugate (maybe itself)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    index = (y * width + x).flatten()
    conjugate = ((-y) % height * width + (-x) % width).flatten()
    radius = torch.fft.fftfreq(height, dtype=torch.float64)[:, None].square()
    radius = (radius + torch.fft.fftfreq(width, dtype=torch.float64).square()).flatten()
    once = index <= conjugate
    order = radius[once].argsort(stable=True)
    return index[once][order], conjugate[once][order]
