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
    """One resolution of an encoder.

    Attributes:
        channels: C of its (N, C, d, h, w).
        stride_zyx: cumulative stride, in input voxels.
        begin_zyx: the input voxel that the first cell looks at; cell k looks k strides on. It is not the middle of the
            voxels that a cell replaces: a convolution with kernel 3, stride 2 and one voxel of padding looks at voxels
            2k - 1 to 2k + 1, so that after strides of 16 a cell lies 7.5 voxels before the middle of its share of the
            image. Where kernels are as wide as their strides it is the middle (Araujo et al. 2019, section 2).
    """

    channels: int
    stride_zyx: tuple[int, int, int]
    begin_zyx: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def middle(self, axis: int, count: int) -> float:
        """Where the middle of the input lies, in cells, along one of z, y, x with ``count`` cells."""
        stride = self.stride_zyx[axis]
        return ((count * stride - 1) / 2 - self.begin_zyx[axis]) / stride


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
        begins_zyx: see ``StageInfo``; 0 everywhere if None, which is right for odd kernels padded by half.

    Attributes:
        in_channels: C of the input; 1 until ``stem.widen_stem`` makes it more.
        stage_info: what each resolution is.
    """

    def __init__(
        self,
        strides_zyx: Sequence[tuple[int, int, int]],
        channels: Sequence[int],
        begins_zyx: Sequence[tuple[float, float, float]] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = 1
        begins = begins_zyx or [(0.0, 0.0, 0.0)] * len(channels)
        infos: list[StageInfo] = []
        z = y = x = 1
        for count, (dz, dy, dx), begin in zip(channels, strides_zyx, begins, strict=True):
            z, y, x = z * dz, y * dy, x * dx
            infos.append(StageInfo(count, (z, y, x), begin))
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
        begins_zyx: as of ``Encoder``.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        strides_zyx: Sequence[tuple[int, int, int]],
        channels: Sequence[int],
        begins_zyx: Sequence[tuple[float, float, float]] | None = None,
    ) -> None:
        super().__init__(strides_zyx, channels, begins_zyx)
        self.stages = nn.ModuleList(stages)

    def forward(self, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        """(N, ``in_channels``, D, H, W) -> one (N, C, D/s, H/s, W/s) per stage, coarse last."""
        features: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            voxels = between(number, stage(voxels))
            features.append(voxels)
        return features
