"""Attentive pooling: one learned query looks at every cell of the last stages (as in Bardes et al. 2024, V-JEPA)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prostate_mim.nets.encoder import StageInfo
from prostate_mim.nets.pooling import SIGMA_MM

STAGES = 2  # a crop of 16 x 96 x 96 has 1,296 cells in the last two, 10,512 in the last three
HEADS = 4
WIDTH = 128
_FLAT_MM = 1000.0


class AttentivePool(nn.Module):
    """Cross-attention of one learned query to the cells of the two coarsest stages.

    A cell's weight is the softmax, over all cells of both stages, of key times query, plus the logarithm of the cell's
    volume (so that a stage does not count for more because its cells are smaller), plus a Gaussian of its distance to
    the crop's middle, where the lesion is. The width of the Gaussian is learned for each head.

    Args:
        stages: all stages of the encoder.
        spacing_mm_zyx: voxel size of the network's input.
        centred: the Gaussian begins at 5 mm, as in ``CentrePool``; else so wide that it is flat.
    """

    def __init__(
        self, stages: Sequence[StageInfo], spacing_mm_zyx: tuple[float, float, float], centred: bool = True
    ) -> None:
        super().__init__()
        self._stages = tuple(stages[-STAGES:])
        self.spacing_mm_zyx = spacing_mm_zyx
        self.norms = nn.ModuleList(nn.LayerNorm(stage.channels) for stage in self._stages)
        self.keys = nn.ModuleList(nn.Linear(stage.channels, WIDTH) for stage in self._stages)
        self.values = nn.ModuleList(nn.Linear(stage.channels, WIDTH) for stage in self._stages)
        self.query = nn.Parameter(torch.zeros(HEADS, WIDTH // HEADS))
        self.log_sigma = nn.Parameter(torch.full((HEADS,), math.log(SIGMA_MM if centred else _FLAT_MM)))
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.trunc_normal_(self.query, std=0.02)

    @property
    def channels(self) -> int:
        """Length C of the vector."""
        return WIDTH

    def forward(self, features: list[Tensor]) -> Tensor:
        """One (N, C_k, d, h, w) per stage, coarse last -> (N, C)."""
        scores, values = [], []
        for number, maps in enumerate(features[-STAGES:]):
            cells = self.norms[number](maps.flatten(2).transpose(1, 2))
            keys, found = (part[number](cells).unflatten(2, (HEADS, -1)) for part in (self.keys, self.values))
            fit = (keys * self.query).sum(3) / math.sqrt(WIDTH // HEADS)
            scores.append(fit + self._prior(self._stages[number], maps))
            values.append(found)
        weights = torch.cat(scores, 1).softmax(1)
        pooled = (weights[..., None] * torch.cat(values, 1)).sum(1).flatten(1)
        vector: Tensor = self.norm(pooled)
        return vector

    def _prior(self, stage: StageInfo, maps: Tensor) -> Tensor:
        """(N, C, d, h, w) -> (d * h * w, heads): what a cell's size and place say before its content."""
        squares = maps.new_zeros(())
        volume = 1.0
        for axis in range(3):
            count = maps.shape[2 + axis]
            step = stage.stride_zyx[axis] * self.spacing_mm_zyx[axis]
            place = torch.arange(count, device=maps.device, dtype=self.log_sigma.dtype)
            squares = squares[..., None] + ((place - stage.middle(axis, count)) * step) ** 2
            volume *= step
        return math.log(volume) - 0.5 * squares.flatten()[:, None] * torch.exp(-2 * self.log_sigma)
