"""Stages -> one vector: what lies at the centre of the crop, where the lesion is, or what the whole crop holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prostate_mim.nets.encoder import StageInfo

STAGES_POOLED = 3
SIGMA_MM = 5.0
_EPSILON = 1e-5  # keeps the gradient of the deviation finite where features are constant


class CentrePool(nn.Module):
    """Centre-weighted mean of the three coarsest stages and centre-weighted deviation of all but the coarsest.

    Crops are centred on the lesion, which fills a small part of them; a plain mean would drown it. The weight is a
    Gaussian in mm, so that it means the same at every spacing and crop size, of the distance between the crop's middle
    and where a cell looks (``StageInfo.begin_zyx``). The deviation tells homogeneous lesions from textured ones; cells
    of the coarsest stage are wider than the Gaussian, so it has none.

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
        counts = [stage.channels for stage in self._pooled]
        return sum(counts) + sum(counts[:-1])

    def forward(self, features: list[Tensor]) -> Tensor:
        """One (N, C_k, d, h, w) per stage, coarse last -> (N, C)."""
        means, deviations = [], []
        for stage, values in zip(self._pooled, features[-STAGES_POOLED:], strict=True):
            mean = self._weighted_mean(stage, values)
            means.append(mean)
            if stage is not self._pooled[-1]:
                squares = (values - mean[:, :, None, None, None]).square()
                deviations.append((self._weighted_mean(stage, squares) + _EPSILON).sqrt())
        return torch.cat(means + deviations, 1)

    def _weighted_mean(self, stage: StageInfo, values: Tensor) -> Tensor:
        """(N, C, d, h, w) -> (N, C), with a Gaussian weight for each cell.

        A product and a sum, not a matrix product along each axis: for that, engines that keep channels last copy the
        whole of the features first.
        """
        axes = []
        for axis in (2, 3, 4):
            count = values.shape[axis]
            step = stage.stride_zyx[axis - 2] * self.spacing_mm_zyx[axis - 2]
            place = torch.arange(count, device=values.device, dtype=values.dtype)
            weight = torch.exp(-0.5 * ((place - stage.middle(axis - 2, count)) * (step / self.sigma_mm)) ** 2)
            axes.append(weight / weight.sum())
        z, y, x = axes
        return (values * (z[:, None, None] * y[:, None] * x)).sum((2, 3, 4))


class MeanPool(CentrePool):
    """As ``CentrePool`` with the same weight everywhere: for what has no place in the crop, such as a whole study.

    Args:
        stages, spacing_mm_zyx, sigma_mm: as for ``CentrePool``; the last two change nothing here.
    """

    def _weighted_mean(self, stage: StageInfo, values: Tensor) -> Tensor:
        """(N, C, d, h, w) -> (N, C), every cell alike."""
        return values.mean((2, 3, 4))


POOLINGS: dict[str, type[CentrePool]] = {"centre": CentrePool, "mean": MeanPool}
