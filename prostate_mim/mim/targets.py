"""What the decoder must reconstruct: voxels normalised within their block."""

from __future__ import annotations

import torch
from torch import Tensor

Triple = tuple[int, int, int]

# A block of z-scored tissue has variance about 0.1 to 1; blocks of padding or air have almost none, and must
# not have their noise blown up to unit variance.
VARIANCE_FLOOR = 1e-3


def to_blocks(voxels: Tensor, block_zyx: Triple) -> Tensor:
    """(N, 1, D, H, W) -> (N, blocks, voxels per block), blocks and voxels both in (z, y, x) order."""
    n, _, d, h, w = voxels.shape
    z, y, x = block_zyx
    split = voxels.reshape(n, d // z, z, h // y, y, w // x, x).permute(0, 1, 3, 5, 2, 4, 6)
    return split.reshape(n, (d // z) * (h // y) * (w // x), z * y * x)


def from_blocks(blocks: Tensor, block_zyx: Triple, grid_zyx: Triple) -> Tensor:
    """The inverse of ``to_blocks``."""
    n = blocks.shape[0]
    (z, y, x), (gz, gy, gx) = block_zyx, grid_zyx
    split = blocks.reshape(n, gz, gy, gx, z, y, x).permute(0, 1, 4, 2, 5, 3, 6)
    return split.reshape(n, 1, gz * z, gy * y, gx * x)


def block_moments(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each block: two (N, blocks, 1). The variance is biased and floored."""
    variance, mean = torch.var_mean(blocks, dim=2, keepdim=True, unbiased=False)
    return mean, (variance + VARIANCE_FLOOR).sqrt()
