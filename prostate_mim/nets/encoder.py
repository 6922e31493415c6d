"""The interface every encoder offers: features at several resolutions, and what each of them is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

# Strides of the four resolutions of every registered encoder, each relative to the one before. At 3.0 x 0.5 x 0.5 mm
# voxels become 3 x 1 x 1, 3 x 2 x 2, 6 x 4 x 4 and 12 x 8 x 8 mm: through-plane strides begin where through-plane and
# in-plane spacing have come close, and one coarse cell is one default hidden block.
PYRAMID_ZYX = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))


@dataclass(frozen=True)
class StageInfo:
    """One resolution of an encoder: its channels and its cumulative stride in input voxels (z, y, x)."""

    channels: int
    stride_zyx: tuple[int, int, int]


# (number of the resolution, its features) -> the features that go on to the next resolution.
Between = Callable[[int, Tensor], Tensor]


def unchanged(resolution: int, features: Tensor) -> Tensor:
    """The ordinary ``Between``."""
    return features


class Encoder(nn.Module):
    """A 3D CNN that gives features at several resolutions; subclasses write ``forward``.

    Args:
        strides_zyx: stride of each resolution relative to the one before (the first: to the input).
        channels: channels of the features at each resolution.

    Attributes:
        in_channels: C of the input; 1 until ``stem.widen_stem`` makes it more.
        stage_info: what each resolution is.
    """

    def __init__(self, strides_zyx: Sequence[tuple[int, int, int]], channels: Sequence[int]) -> None:
        super().__init__()
        self.in_channels = 1
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

    def forward(self, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        """(N, ``in_channels``, D, H, W) -> one (N, C, D/s, H/s, W/s) per resolution, coarse last.

        Args:
            between: may replace the features of a resolution before the next is computed from them (a mask token in
                the middle of the network).
        """
        raise NotImplementedError


class StageChain(Encoder):
    """An encoder that is a chain of stages, each one resolution.

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
        super().__init__(strides_zyx, channels)
        self.stages = nn.ModuleList(stages)

    def forward(self, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        """(N, ``in_channels``, D, H, W) -> one (N, C, D/s, H/s, W/s) per stage, coarse last."""
        features: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            voxels = between(number, stage(voxels))
            features.append(voxels)
        return features
