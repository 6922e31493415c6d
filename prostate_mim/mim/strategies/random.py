"""Random blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.layout import Triple


def random_hidden_blocks(batch: int, grid_zyx: Triple, ratio: float, generator: torch.Generator) -> Tensor:
    """Hide exactly ``round(ratio * blocks)`` blocks of every sample, uniformly at random (He et al. 2022, MAE).

    Args:
        batch: samples N.
        grid_zyx: blocks per axis.
        ratio: mask ratio, strictly between 0 and 1.
        generator: the only source of randomness.

    Returns:
        hidden: (N, gz, gy, gx) bool, True = hidden.

    Raises:
        UsageError: the ratio would hide no block or all of them.
    """
    z, y, x = grid_zyx
    blocks = z * y * x
    count = round(ratio * blocks) if math.isfinite(ratio) else 0
    if not 0 < count < blocks:
        raise UsageError(f"mask ratio {ratio} hides {count} of {blocks} blocks; choose one that hides some, not all")
    order = torch.rand(batch, blocks, generator=generator).argsort(dim=1)
    hidden = torch.zeros(batch, blocks, dtype=torch.bool)
    hidden.scatter_(1, order[:, :count], True)
    return hidden.reshape(batch, z, y, x)
