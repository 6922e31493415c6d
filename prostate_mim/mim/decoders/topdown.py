"""The light decoder of masked pretraining: top-down over the coarser stages, then a linear map to voxels.

After SparK (Tian et al. 2023): each level adds the encoder's features of that stage to the upsampled coarser ones.
Decoding the coarsest stage alone (ConvNeXt-V2's FCMAE) was tried first with the zero-filled encoder and hardly learned
in the steps a CPU can afford.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from prostate_mim.mim.layout import Triple, cells_to_voxels, repeat_cells
from prostate_mim.nets.encoder import StageInfo

LEVELS = 3


class TopDownDecoder(nn.Module):
    """The coarsest stages -> voxels.

    Args:
        stages: all stages of the encoder; the last three are decoded.
        width: channels inside.
    """

    def __init__(self, stages: Sequence[StageInfo], width: int = 64) -> None:
        super().__init__()
        levels = list(stages[-LEVELS:])[::-1]
        self.voxels_zyx = levels[-1].stride_zyx
        self.growth_zyx = [_ratio(coarse, fine) for coarse, fine in pairwise(levels)]
        self.hidden_token = nn.Parameter(torch.zeros(1, width, 1, 1, 1))
        self.laterals = nn.ModuleList(nn.Conv3d(level.channels, width, 1) for level in levels)
        self.blocks = nn.ModuleList(_block(width, level) for level in levels)
        z, y, x = self.voxels_zyx
        self.to_voxels = nn.Conv3d(width, z * y * x, 1)

    def forward(self, features: list[Tensor], hidden_cells: Tensor) -> Tensor:
        """Features (N, C, d, h, w) per stage, hidden_cells (N, 1, d, h, w) bool at the coarsest -> (N, 1, D, H, W)."""
        values = self.laterals[0](features[-1]) + self.hidden_token * hidden_cells
        values = self.blocks[0](values)
        for level, growth in enumerate(self.growth_zyx, 1):
            values = repeat_cells(values, growth) + self.laterals[level](features[-1 - level])
            values = self.blocks[level](values)
        return cells_to_voxels(self.to_voxels(values), self.voxels_zyx)


def _block(width: int, level: StageInfo) -> nn.Sequential:
    # Stages that have not yet been strided through-plane are convolved in-plane only, like the encoder's.
    depth = 3 if level.stride_zyx[0] > 1 else 1
    convolution = nn.Conv3d(width, width, (depth, 3, 3), padding=(depth // 2, 1, 1), bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, width), nn.LeakyReLU(0.01, inplace=True))


def _ratio(coarse: StageInfo, fine: StageInfo) -> Triple:
    z, y, x = (a // b for a, b in zip(coarse.stride_zyx, fine.stride_zyx, strict=True))
    return z, y, x
