"""The top-down decoder: the coarser stages added up from coarse to fine, then a linear map to voxels.

After SparK (Tian et al. 2023): each level adds the encoder's features of that stage to the upsampled coarser ones.
Decoding the coarsest stage alone (ConvNeXt-V2's FCMAE) was tried first with the zero-filled encoder and hardly learned
in the steps a CPU can afford. The bundled weights were trained with this decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from prostate_mim.mim.decoders.base import Decoder, convolution_block, growth_between, require_voxels
from prostate_mim.mim.layout import cells_to_voxels, repeat_cells, voxels_to_cells
from prostate_mim.nets.encoder import StageInfo

LEVELS = 3


class TopDownDecoder(Decoder):
    """The three coarsest stages -> the voxels of each cell.

    Args:
        stages: all stages of the encoder; the last three are decoded.
        outputs: F, the voxels of a cell.
        width: channels inside.

    Raises:
        UsageError: F is not the voxels of a cell.
    """

    needs_voxelwise: ClassVar[bool] = True

    def __init__(self, stages: Sequence[StageInfo], outputs: int, width: int = 64) -> None:
        super().__init__()
        self.cell_zyx = require_voxels("topdown", stages, outputs)
        levels = list(stages[-LEVELS:])[::-1]
        self.levels = len(levels)
        self.voxels_zyx = levels[-1].stride_zyx
        self.growth_zyx = [growth_between(coarse, fine) for coarse, fine in pairwise(levels)]
        self.hidden_token = nn.Parameter(torch.zeros(1, width, 1, 1, 1))
        self.laterals = nn.ModuleList(nn.Conv3d(level.channels, width, 1) for level in levels)
        self.blocks = nn.ModuleList(convolution_block(width, level) for level in levels)
        z, y, x = self.voxels_zyx
        self.to_voxels = nn.Conv3d(width, z * y * x, 1)

    def forward(self, features: list[Tensor], visible: list[Tensor], hidden_cells: Tensor) -> Tensor:
        """As ``Decoder`` says: (N, z*y*x, d, h, w)."""
        values = self.laterals[0](features[-1]) + self.hidden_token * hidden_cells
        values = self.blocks[0](values)
        for level, growth in enumerate(self.growth_zyx, 1):
            values = repeat_cells(values, growth) + self.laterals[level](features[-1 - level])
            values = self.blocks[level](values)
        return voxels_to_cells(cells_to_voxels(self.to_voxels(values), self.voxels_zyx), self.cell_zyx)
