"""What every target offers: values per cell, made of the clean crop, and which of them are counted.

A *cell* is one position of the encoder's coarsest stage, ``cell_zyx`` voxels; a *block*, the unit of hiding, is a
whole number of cells. Targets, decoders and losses all speak (N, F, d, h, w): F values for each of d x h x w cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import Triple, voxels_to_cells


@dataclass(frozen=True)
class TargetSource:
    """What a target may look at; it never reaches the encoder that is being trained.

    Attributes:
        voxels: (N, 1, D, H, W) float, z-scored, the clean crop.
        inside: (N, 1, D, H, W) bool, True = measured; the rest is padding.
        gland: (N, 1, D, H, W) bool, True = prostate gland; None where no gland is known.
        teacher: (N, C, d, h, w) coarsest features of a slowly following (EMA) encoder that saw everything, or None.
        place: (N, 3, 4) where the crops lie in their studies, see ``MimBatch``; None: in the middle.
    """

    voxels: Tensor
    inside: Tensor
    gland: Tensor | None = None
    teacher: Tensor | None = None
    place: Tensor | None = None


class Target(Protocol):
    """One kind of reconstruction target.

    Attributes:
        name: as in ``TARGETS``.
        voxelwise: the F values of a cell are one for each of its voxels, in (z, y, x) order.
    """

    name: ClassVar[str]
    voxelwise: ClassVar[bool]

    def channels(self, cell_zyx: Triple) -> int:
        """F, the number of values per cell."""

    def values(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor:
        """What should be predicted, for every cell, hidden or not: (N, F, d, h, w), without gradient.

        Raises:
            UsageError: the source lacks something this target needs, or sizes do not divide.
        """

    def to_voxels(self, prediction: Tensor, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor | None:
        """Undo the normalisation with the truth's own moments, for pictures only.

        Args:
            prediction: (N, F, d, h, w).
            source: what ``values`` was given.
            grid: how the crop divides into blocks.
            cell_zyx: voxels per cell.

        Returns:
            (N, 1, D, H, W) in the crop's z-scores, or None where the target does not determine voxels.
        """


def counted_cells(target: Target, hidden: Tensor, inside: Tensor, cell_zyx: Triple) -> Tensor:
    """Which values the loss counts: hidden ones that were measured.

    Args:
        target: decides whether voxels or whole cells are counted.
        hidden: (N, 1, D, H, W) bool, True = hidden from the encoder.
        inside: (N, 1, D, H, W) bool, True = measured.
        cell_zyx: voxels per cell.

    Returns:
        bool. Voxelwise targets: (N, F, d, h, w), each voxel for itself. Others: (N, 1, d, h, w), cells that are
        hidden throughout and at least half measured, since a vector cannot be counted in part.
    """
    if target.voxelwise:
        return voxels_to_cells(hidden & inside, cell_zyx)
    measured = voxels_to_cells(inside, cell_zyx).sum(1, keepdim=True)
    return voxels_to_cells(hidden, cell_zyx).all(1, keepdim=True) & (2 * measured >= math.prod(cell_zyx))
