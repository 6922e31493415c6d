"""The light decoder of masked pretraining: one residual block at the coarsest grid, then a linear map to voxels.

After ConvNeXt-V2's FCMAE (Woo et al. 2023): because only the coarsest features are decoded, meaning must gather
in the last stage, which is the one a classifier pools.
"""

from __future__ import annotations

import torch
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor, nn


class LightDecoder(nn.Module):
    """Coarse features -> voxels.

    Args:
        channels: channels of the encoder's last stage.
        stride_zyx: voxels per coarse cell; the linear map has as many outputs.
        width: channels inside.
    """

    def __init__(self, channels: int, stride_zyx: tuple[int, int, int], width: int = 88) -> None:
        super().__init__()
        self.stride_zyx = stride_zyx
        z, y, x = stride_zyx
        self.hidden_token = nn.Parameter(torch.zeros(1, channels, 1, 1, 1))
        self.project = nn.Conv3d(channels, width, 1)
        self.block = UnetResBlock(3, width, width, kernel_size=3, stride=1, norm_name=("group", {"num_groups": 8}))
        self.to_voxels = nn.Conv3d(width, z * y * x, 1)

    def forward(self, features: Tensor, hidden_cells: Tensor) -> Tensor:
        """features (N, C, d, h, w), hidden_cells (N, 1, d, h, w) bool -> (N, 1, D, H, W)."""
        marked = features + self.hidden_token * hidden_cells
        return cells_to_voxels(self.to_voxels(self.block(self.project(marked))), self.stride_zyx)


def cells_to_voxels(cells: Tensor, stride_zyx: tuple[int, int, int]) -> Tensor:
    """(N, z*y*x, d, h, w) -> (N, 1, d*z, h*y, w*x): each cell's channels become its voxels, in (z, y, x) order."""
    n, _, d, h, w = cells.shape
    z, y, x = stride_zyx
    split = cells.reshape(n, z, y, x, d, h, w)
    return split.permute(0, 4, 1, 5, 2, 6, 3).reshape(n, 1, d * z, h * y, w * x)
