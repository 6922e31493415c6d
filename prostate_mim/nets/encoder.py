"""The interface every encoder offers: a list of stages, and what each stage is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class StageInfo:
    """One resolution of an encoder: its channels and its cumulative stride in input voxels (z, y, x)."""

    channels: int
    stride_zyx: tuple[int, int, int]


class Encoder(nn.Module):
    """A 3D CNN as a chain of stages, each one resolution.

    Args:
        stages: modules applied in order; stage k maps (N, C[k-1], ...) to (N, C[k], ...).
        strides_zyx: stride of each stage relative to the one before.
        channels: output channels of each stage.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        strides_zyx: Sequence[tuple[int, int, int]],
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        infos: list[StageInfo] = []
        z = y = x = 1
        for count, (dz, dy, dx) in zip(channels, strides_zyx, strict=True):
            z, y, x = z * dz, y * dy, x * dx
            infos.append(StageInfo(count, (z, y, x)))
        self.stage_info: tuple[StageInfo, ...] = tuple(infos)

    @property
    def total_stride_zyx(self) -> tuple[int, int, int]:
        """Input voxels per voxel of the coarsest stage."""
        return self.stage_info[-1].stride_zyx

    def forward(self, voxels: Tensor) -> list[Tensor]:
        """(N, 1, D, H, W) -> one (N, C, D/s, H/s, W/s) per stage, coarse last."""
        features: list[Tensor] = []
        for stage in self.stages:
            voxels = stage(voxels)
            features.append(voxels)
        return features
