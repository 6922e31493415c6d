"""What is reconstructed: one kind of target a file. TARGETS is the whole registry, a literal dict."""

from __future__ import annotations

from collections.abc import Callable

from prostate_mim.mim.layout import TripleMm
from prostate_mim.mim.lookup import look_up
from prostate_mim.mim.targets.base import Target, TargetSource, counted_cells
from prostate_mim.mim.targets.features import FeatureTarget
from prostate_mim.mim.targets.fourier import FourierTarget
from prostate_mim.mim.targets.gradients import GradientTarget, HogTarget
from prostate_mim.mim.targets.position import PositionTarget
from prostate_mim.mim.targets.voxels import BlockTarget, GlandTarget, VoxelTarget, block_moments
from prostate_mim.spec import InputSpec

__all__ = ["TARGETS", "Target", "TargetSource", "block_moments", "build_target", "counted_cells"]

# name -> constructor of (spacing in mm, channels of the teacher's coarsest stage).
TARGETS: dict[str, Callable[[TripleMm, int], Target]] = {
    "block": lambda _spacing, _channels: BlockTarget(),
    "voxels": lambda _spacing, _channels: VoxelTarget(),
    "gland": lambda _spacing, _channels: GlandTarget(),
    "hog": lambda spacing, _channels: HogTarget(spacing),
    "gradient": lambda spacing, _channels: GradientTarget(spacing),
    "fourier": lambda _spacing, _channels: FourierTarget(),
    "features": lambda _spacing, channels: FeatureTarget(channels),
    "position": lambda spacing, _channels: PositionTarget(spacing),
}


def build_target(
    name: str, spacing_mm_zyx: TripleMm = InputSpec.spacing_mm_zyx, *, feature_channels: int = 0
) -> Target:
    """The target called ``name``.

    Args:
        name: a key of ``TARGETS``.
        spacing_mm_zyx: voxel size of the crops; matters to ``hog``, ``gradient`` and ``position``.
        feature_channels: channels of the encoder's coarsest stage; needed by ``features`` alone.

    Raises:
        NotFoundError: unknown name; the nearest known one is suggested.
        UsageError: ``features`` without ``feature_channels``.
    """
    return look_up("target", name, TARGETS)(spacing_mm_zyx, feature_channels)
