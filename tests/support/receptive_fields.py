"""Where a cell of a feature map looks, found by running a network: the oracle of ``StageInfo.begin_zyx``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prostate_mim.nets.encoder import Encoder
from prostate_mim.nets.modes import evaluating

_STRIDED = (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d)


@torch.no_grad()
def cell_centres(encoder: Encoder) -> list[tuple[float, float, float]]:
    """Centre (z, y, x) of the receptive field of each stage's first cell, in input voxels; cell k is k strides on.

    It is not the middle of the voxels that a cell replaces. A convolution with kernel 3, stride 2 and one voxel of
    padding looks at voxels 2k - 1 to 2k + 1 around voxel 2k, so that after strides of 16 the last cell lies 7.5 voxels
    before the middle of its share of the image; a convolution whose kernel is its stride lies in the middle. Found by
    running the encoder once on zeros and adding up kernels, paddings and strides (Araujo et al. 2019, section 2).

    Args:
        encoder: any network whose strided layers are torch's convolutions and poolings with symmetric padding.
    """
    found: list[tuple[float, float, float]] = []
    shifts: dict[tuple[int, ...], npt.NDArray[np.float64]] = {}
    size = [2 * stride for stride in encoder.total_stride_zyx]

    def between(resolution: int, features: Tensor) -> Tensor:
        z, y, x = np.sum([np.zeros(3), *shifts.values()], axis=0)
        found.append((float(z), float(y), float(x)))
        return features

    def note(module: nn.Module, arguments: Any) -> None:
        given = tuple(arguments[0].shape[2:])  # branches beside each other begin at one size and have one centre
        stride, kernel, padding, dilation = (_three(module, name) for name in ("stride", "kernel_size", "padding", ""))
        if (stride > 1).any() and given not in shifts:
            shifts[given] = np.asarray(size) / given * (dilation * (kernel - 1) / 2 - padding)

    hooks = [module.register_forward_pre_hook(note) for module in encoder.modules() if isinstance(module, _STRIDED)]
    example = next(encoder.parameters())
    try:
        with evaluating(encoder):
            encoder(torch.zeros(1, encoder.in_channels, *size, device=example.device, dtype=example.dtype), between)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _three(module: nn.Module, name: str) -> npt.NDArray[np.float64]:
    """A setting of a layer along z, y, x; its dilation for an empty name (averaging has none)."""
    value = getattr(module, name or "dilation", 1)
    return np.asarray(np.broadcast_to(np.asarray(value, float), 3))
