"""Features of a teacher to be predicted (Baevski et al. 2022, data2vec)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import Triple
from prostate_mim.mim.targets.base import TargetSource


class FeatureTarget:
    """The coarsest features of an EMA teacher, layer-normalised over the channels of each cell.

    The normalisation, without learned scale, is what keeps teacher and student from agreeing on a constant
    (data2vec, section 3.3). data2vec averages several transformer blocks; the stages of a CNN differ in resolution,
    so only the coarsest is used.

    Args:
        feature_channels: C of the teacher's coarsest stage.

    Raises:
        UsageError: no channel count was given.
    """

    name: ClassVar[str] = "features"
    voxelwise: ClassVar[bool] = False

    def __init__(self, feature_channels: int) -> None:
        if feature_channels < 1:
            raise UsageError("target 'features' needs feature_channels, the channels of the encoder's coarsest stage")
        self.feature_channels = feature_channels

    def channels(self, cell_zyx: Triple) -> int:
        """C, whatever the cell."""
        return self.feature_channels

    def values(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor:
        """(N, C, d, h, w), without gradient to the teacher.

        Raises:
            UsageError: the source holds no teacher features, or of another shape.
        """
        if source.teacher is None:
            raise UsageError("target 'features' needs the features of an EMA teacher, but the source has none")
        n, _, *size = source.voxels.shape
        wanted = (n, self.feature_channels, *(a // b for a, b in zip(size, cell_zyx, strict=True)))
        if tuple(source.teacher.shape) != wanted:
            raise UsageError(
                f"target 'features' expects teacher features of shape {wanted}, found {tuple(source.teacher.shape)}; "
                "pass the teacher's coarsest stage of the same crops"
            )
        rows = source.teacher.detach().movedim(1, -1)
        return functional.layer_norm(rows, (self.feature_channels,)).movedim(-1, 1).contiguous()

    def to_voxels(self, prediction: Tensor, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor | None:
        """None: features do not determine voxels."""
        return None
