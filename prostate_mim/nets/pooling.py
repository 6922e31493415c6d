"""Stages -> one vector: what lies at the centre of the crop, beside what lies around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prostate_mim.nets.encoder import StageInfo

STAGES_POOLED = 2
SIGMA_MM = 10.0


class CentrePool(nn.Module):
    """Global mean and centre-weighted mean of the coarsest stages, concatenated.

    Crops are centred on the lesion, which fills a small part of them; a plain mean would drown it. The weight is
    a Gaussian in mm, so that it means the same at every spacing and crop size.

    Args:
        stages: all stages of the encoder.
        spacing_mm_zyx: voxel size of the network's input.
        sigma_mm: deviation of the Gaussian.
    """

    def __init__(
        self,
        stages: Sequence[StageInfo],
        spacing_mm_zyx: tuple[float, float, float],
        sigma_mm: float = SIGMA_MM,
    ) -> None:
        super().__init__()
        self._pooled = tuple(stages[-STAGES_POOLED:])
        self.spacing_mm_zyx = spacing_mm_zyx
        self.sigma_mm = sigma_mm

    @property
    def channels(self) -> int:
        """Length C of the vector."""
        return 2 * sum(stage.channels for stage in self._pooled)

    def forward(self, features: list[Tensor]) -> Tensor:
        """One (N, C_k, d, h, w) per stage, coarse last -> (N, C)."""
        parts = []
        for stage, values in zip(self._pooled, features[-STAGES_POOLED:], strict=True):
            parts += [values.mean((2, 3, 4)), self._centre_mean(stage, values)]
        return torch.cat(parts, 1)

    def _centre_mean(self, stage: StageInfo, values: Tensor) -> Tensor:
        for axis in (4, 3, 2):
            count = values.shape[axis]
            step = stage.stride_zyx[axis - 2] * self.spacing_mm_zyx[axis - 2]
            place = torch.arange(count, device=values.device, dtype=values.dtype)
            weight = torch.exp(-0.5 * ((place - (count - 1) / 2) * (step / self.sigma_mm)) ** 2)
            values = torch.tensordot(values, weight / weight.sum(), dims=([axis], [0]))
        return values
