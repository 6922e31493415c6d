"""The U-Net decoder with densified skips, up to full resolution: an ablation, several times the light one's cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from prostate_mim.mim.decoders.base import Decoder, convolution_block, densify, growth_between, require_voxels
from prostate_mim.mim.layout import voxels_to_cells
from prostate_mim.nets.encoder import StageInfo

# Group norm in the blocks has eight groups.
NARROWEST = 16


class UNetDecoder(Decoder):
    """All stages -> voxels (Tian et al. 2023, SparK, section 3.3).

    At every stage, hidden positions get a learned token of that stage and a projection (3 x 3 x 3 at the coarsest,
    1 x 1 x 1 elsewhere); from coarse to fine, values are upsampled by a transposed convolution, the projection is
    added, and one convolution block follows; the last step reaches single voxels.

    Args:
        stages: all stages of the encoder; all are decoded.
        outputs: F, the voxels of a cell.
        width: channels at the coarsest stage; halved at each finer one, but at least 16. A multiple of 16 per stage.

    Raises:
        UsageError: F is not the voxels of a cell.
    """

    needs_voxelwise: ClassVar[bool] = True

    def __init__(self, stages: Sequence[StageInfo], outputs: int, width: int = 128) -> None:
        super().__init__()
        self.levels = len(stages)
        self.cell_zyx = require_voxels("unet", stages, outputs)
        coarse_first = list(stages)[::-1]
        widths = [max(NARROWEST, width >> level) for level in range(len(coarse_first) + 1)]
        self.tokens = nn.ParameterList(torch.zeros(1, stage.channels, 1, 1, 1) for stage in coarse_first)
        self.projections = nn.ModuleList(
            nn.Conv3d(stage.channels, inside, 1 if level else 3, padding=0 if level else 1)
            for level, (stage, inside) in enumerate(zip(coarse_first, widths, strict=False))
        )
        finer = [*coarse_first[1:], StageInfo(1, (1, 1, 1))]
        growths = [growth_between(coarse, fine) for coarse, fine in pairwise([coarse_first[0], *finer])]
        self.upsample = nn.ModuleList(
            nn.ConvTranspose3d(wide, narrow, growth, growth)
            for (wide, narrow), growth in zip(pairwise(widths), growths, strict=True)
        )
        self.blocks = nn.ModuleList(
            convolution_block(inside, fine) for inside, fine in zip(widths[1:], finer, strict=True)
        )
        self.to_voxels = nn.Conv3d(widths[-1], 1, 1)
        for token in self.tokens:
            nn.init.normal_(token, std=0.02)

    def forward(self, features: list[Tensor], visible: list[Tensor], hidden_cells: Tensor) -> Tensor:
        """As ``Decoder`` says: (N, z*y*x, d, h, w)."""
        skips = [
            projection(densify(values, seen, token))
            for projection, token, values, seen in zip(
                self.projections, self.tokens, features[::-1], visible[::-1], strict=True
            )
        ]
        values = skips[0]
        for level, (upsample, block) in enumerate(zip(self.upsample, self.blocks, strict=True), 1):
            values = upsample(values)
            values = block(values + skips[level] if level < len(skips) else values)
        return voxels_to_cells(self.to_voxels(values), self.cell_zyx)
