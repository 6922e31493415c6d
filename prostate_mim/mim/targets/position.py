"""Where in the body one is: regressed in mm, from context (Zhai et al. 2022, MP3; Lei et al. 2021, RPR-Loc)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import Triple, TripleMm
from prostate_mim.mim.targets.base import TargetSource

SCALE_MM = 30.0  # values of about 1 for crops that wander over a field of view of 15 to 20 cm


class PositionTarget:
    """Three values a cell: where its middle lies from the middle of its study along z, y and x, in units of 30 mm.

    Scans of one organ are planned alike: their middle is the organ's, so a network that tells places apart has learnt
    anatomy without a label. MP3 takes positions from a transformer's tokens and asks for them back, as classes;
    RPR-Loc regresses, from two crops of one volume, how far apart they are. A convolutional network has no positions
    to take away, but crops do not tell where they were cut from: it is regressed, as in RPR-Loc, for every cell, as
    in MP3.

    Crops must wander: those from one place have one answer, which zero padding tells without a look at the image.

    Args:
        spacing_mm_zyx: voxel size of the crops.
    """

    name: ClassVar[str] = "position"
    voxelwise: ClassVar[bool] = False

    def __init__(self, spacing_mm_zyx: TripleMm) -> None:
        self.spacing_mm_zyx = spacing_mm_zyx

    def channels(self, cell_zyx: Triple) -> int:
        """3: z, y, x."""
        return 3

    def values(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor:
        """(N, 3, d, h, w), in units of ``SCALE_MM``.

        Raises:
            UsageError: the source's place is no affine map of each sample.
        """
        voxels = source.voxels
        axes = [
            (torch.arange(size // cell, device=voxels.device, dtype=voxels.dtype) + 0.5) * cell - size / 2
            for size, cell in zip(voxels.shape[2:], cell_zyx, strict=True)
        ]
        within = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        placed = within.expand(len(voxels), *within.shape)
        if source.place is not None:
            if tuple(source.place.shape) != (len(voxels), 3, 4):
                raise UsageError(
                    f"target 'position' expects a place of shape {(len(voxels), 3, 4)}, found "
                    f"{tuple(source.place.shape)}; pass one affine map a sample"
                )
            place = source.place.to(voxels)
            placed = torch.einsum("nij,jzyx->nizyx", place[:, :, :3], within) + place[:, :, 3, None, None, None]
        in_mm = voxels.new_tensor(self.spacing_mm_zyx)[:, None, None, None]
        return (placed * in_mm / SCALE_MM).contiguous()

    def to_voxels(self, prediction: Tensor, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor | None:
        """None: a place does not determine voxels."""
        return None
