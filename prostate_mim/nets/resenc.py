"""Anisotropic residual encoders from MONAI's DynUNet blocks.

T2w prostate voxels are about six times longer through-plane, so the first stages convolve and stride in-plane
only; through-plane kernels begin where voxels have become roughly isotropic (the nnU-Net rule, Isensee 2021).
"""

from __future__ import annotations

from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import nn

from prostate_mim.nets.encoder import PYRAMID_ZYX, StageChain

# Group norm, not instance norm: instance norm makes every channel's spatial mean constant, which is exactly
# what average pooling hands to a classifier.
_NORM = ("group", {"num_groups": 8})
_KERNELS_ZYX = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))


def resenc_s() -> StageChain:
    """resenc-s: 5.4 M parameters, four stages, total stride 4 x 16 x 16 (12 x 8 x 8 mm at 3.0 x 0.5 x 0.5 mm)."""
    return _residual_encoder(channels=(32, 64, 128, 192), blocks=(1, 2, 2, 2))


def resenc_b() -> StageChain:
    """resenc-b: 19.4 M parameters; float16 weights stay below 40 MB."""
    return _residual_encoder(channels=(48, 96, 192, 320), blocks=(1, 2, 2, 3))


def resenc_l() -> StageChain:
    """resenc-l: 61.2 M parameters."""
    return _residual_encoder(channels=(64, 128, 256, 480), blocks=(2, 3, 4, 4))


def _residual_encoder(channels: tuple[int, ...], blocks: tuple[int, ...]) -> StageChain:
    stages: list[nn.Module] = []
    inputs = 1
    for outputs, count, kernel, stride in zip(channels, blocks, _KERNELS_ZYX, PYRAMID_ZYX, strict=True):
        steps: list[nn.Module] = []
        for position in range(count):
            step = stride if position == 0 else (1, 1, 1)
            steps.append(UnetResBlock(3, inputs, outputs, kernel_size=kernel, stride=step, norm_name=_NORM))
            inputs = outputs
        stages.append(nn.Sequential(*steps))
    return StageChain(stages, PYRAMID_ZYX, channels)
