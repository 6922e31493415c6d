"""What the decoder must reconstruct: voxels normalised within their block."""

from __future__ import annotations

import torch
from torch import Tensor

# A block of z-scored tissue has variance about 0.1 to 1; blocks of padding or air have almost none, and must
# not have their noise blown up to unit variance.
VARIANCE_FLOOR = 1e-3


def block_moments(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each block: two (N, blocks, 1). The variance is biased and floored."""
    variance, mean = torch.var_mean(blocks, dim=2, keepdim=True, unbiased=False)
    return mean, (variance + VARIANCE_FLOOR).sqrt()
