"""ContrastiveModel: views -> encoder -> embedding -> projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prostate_mim.contrastive.config import ContrastiveConfig
from prostate_mim.nets.encoder import Encoder
from prostate_mim.nets.pooling import POOLINGS


class ContrastiveModel(nn.Module):
    """An encoder with the projection head of SimCLR (Chen et al. 2020, section 2.1).

    Args:
        encoder: what is pretrained.
        config: pooling and widths of the head.
        spacing_mm_zyx: voxel size of the views.
    """

    def __init__(self, encoder: Encoder, config: ContrastiveConfig, spacing_mm_zyx: tuple[float, float, float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = POOLINGS[config.pooling](encoder.stage_info, spacing_mm_zyx)
        self.head = ProjectionHead(self.pool.channels, config.hidden, config.projection)

    @property
    def cell_zyx(self) -> tuple[int, int, int]:
        """Voxels per cell of the coarsest stage."""
        return self.encoder.total_stride_zyx

    def forward(self, voxels: Tensor) -> Tensor:
        """(N, C, D, H, W) float32, z-scored -> (N, P) float32 projections, not normalised."""
        stages: list[Tensor] = self.encoder(voxels)
        with torch.autocast(voxels.device.type, enabled=False):  # a loss of exponentials wants its digits
            wide = [stage.to(torch.promote_types(stage.dtype, torch.float32)) for stage in stages]
            projections: Tensor = self.head(self.pool(wide))
        return projections


class ProjectionHead(nn.Module):
    """Linear, batch norm, ReLU, linear.

    Args:
        inputs: length of the embedding.
        hidden: width between.
        outputs: P.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.widen = nn.Linear(inputs, hidden, bias=False)
        self.norm = nn.BatchNorm3d(hidden)  # the kind that is shared over ranks
        self.narrow = nn.Linear(hidden, outputs)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(N, C) -> (N, P)."""
        wide = self.norm(self.widen(embeddings)[:, :, None, None, None]).flatten(1)
        out: Tensor = self.narrow(wide.relu())
        return out
