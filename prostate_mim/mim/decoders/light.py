"""The light decoder: one block at the coarsest grid, then a linear map of hidden cells only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from prostate_mim.mim.decoders.base import Decoder, HiddenLinear, densify, hidden_rows
from prostate_mim.nets.encoder import StageInfo

EXPANSION = 2


class LightDecoder(Decoder):
    """Projection, learned token, one ConvNeXt block, linear map (Woo et al. 2023, ConvNeXt V2, section 3.1).

    Whatever the encoder says at hidden cells is replaced by the token. Behind the depthwise convolution every layer
    treats each cell by itself, so from there on only hidden cells are computed. The kernel is 3 x 3 x 3 where the
    paper's is 7 x 7: a crop is only about 4 x 6 x 6 cells. The block is ConvNeXt's first version, without global
    response normalisation, which would need the visible cells too.

    Args:
        stages: all stages of the encoder; the last is decoded.
        outputs: F values per cell.
        width: channels inside.
    """

    def __init__(self, stages: Sequence[StageInfo], outputs: int, width: int = 256) -> None:
        super().__init__()
        self.levels = 1
        self.project = nn.Conv3d(stages[-1].channels, width, 1)
        self.hidden_token = nn.Parameter(torch.zeros(1, width, 1, 1, 1))
        self.mix = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, EXPANSION * width)
        self.narrow = nn.Linear(EXPANSION * width, width)
        self.to_cells = HiddenLinear(width, outputs)
        nn.init.normal_(self.hidden_token, std=0.02)

    def forward(self, features: list[Tensor], visible: list[Tensor], hidden_cells: Tensor) -> Tensor:
        """As ``Decoder`` says: (N, F, d, h, w), exactly 0 at visible cells."""
        values = densify(self.project(features[-1]), visible[-1], self.hidden_token)
        mixed = self.norm(hidden_rows(self.mix(values), hidden_cells))
        # The residual path of a hidden cell holds the token; where a sample hides nothing, its own features.
        rows = hidden_rows(values, hidden_cells) + self.narrow(functional.gelu(self.widen(mixed)))
        cells: Tensor = self.to_cells(rows, hidden_cells)
        return cells
