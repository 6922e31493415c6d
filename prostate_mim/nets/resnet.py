"""3D ResNets from MONAI's blocks, under MONAI's names, so that a MedicalNet file fits key by key.

He et al. 2016 (Deep Residual Learning), table 1; MedicalNet: Chen et al. 2019 (Med3D). Depths 10 and 50 project their
shortcuts (option B of He et al., section 3.3), 18 and 34 pad them with zero channels (option A), as the MedicalNet
weights of each depth were trained. MONAI's own option A cuts the gradient of the shortcut; the one here does not.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

from prostate_mim.nets.encoder import PYRAMID_ZYX, Between, Encoder, unchanged

_WIDTHS = (64, 128, 256, 512)
# Layer 4 keeps its resolution: the strides before it already make cells of 12 x 8 x 8 mm. No weight's shape depends on
# strides.
_LAYER_STRIDES_ZYX = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1))


def resnet10() -> ResNetEncoder:
    """resnet10: 14.4 M parameters, MedicalNet-10 names and shapes."""
    return ResNetEncoder(ResNetBlock, (1, 1, 1, 1), project=True)


def resnet18() -> ResNetEncoder:
    """resnet18: 33.0 M parameters, MedicalNet-18 names and shapes."""
    return ResNetEncoder(ResNetBlock, (2, 2, 2, 2), project=False)


def resnet34() -> ResNetEncoder:
    """resnet34: 63.3 M parameters, MedicalNet-34 names and shapes."""
    return ResNetEncoder(ResNetBlock, (3, 4, 6, 3), project=False)


def resnet50() -> ResNetEncoder:
    """resnet50: 46.2 M parameters, MedicalNet-50 names and shapes."""
    return ResNetEncoder(ResNetBottleneck, (3, 4, 6, 3), project=True)


class ZeroPadShortcut(nn.Module):
    """Subsample, then double the channels with zeros: no parameters (option A of He et al. 2016, section 3.3)."""

    def __init__(self, stride_zyx: tuple[int, int, int]) -> None:
        super().__init__()
        self.pool = nn.AvgPool3d(kernel_size=1, stride=stride_zyx)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, d, h, w) -> (N, 2 C, d/s, h/s, w/s)."""
        features = self.pool(features)
        return torch.cat([features, features * 0], dim=1)  # a product, so that it works on masked features too


class ResNetEncoder(Encoder):
    """conv1, bn1, maxpool, layer1 to layer4 as in MONAI, strided in-plane first, without average pool and head.

    Features: after conv1 at 1 x 2 x 2, after layer1 at 1 x 4 x 4, after layer2 at 2 x 8 x 8, after layer4 at 4 x 16 x
    16 (layers 3 and 4 share a resolution).

    Args:
        block: MONAI's basic or bottleneck block.
        depths: blocks per layer.
        project: shortcuts that change shape are 1 x 1 x 1 convolutions (B), else padded with zero channels (A), which
            needs a block that does not expand.
    """

    def __init__(self, block: type[Any], depths: tuple[int, int, int, int], *, project: bool) -> None:
        first, second, _, last = (width * block.expansion for width in _WIDTHS)
        super().__init__(PYRAMID_ZYX, (_WIDTHS[0], first, second, last))
        self.conv1 = nn.Conv3d(1, _WIDTHS[0], 7, stride=PYRAMID_ZYX[0], padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(_WIDTHS[0])
        self.act = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=PYRAMID_ZYX[1], padding=1)
        layers: list[nn.Sequential] = []
        inputs = _WIDTHS[0]
        for width, depth, stride in zip(_WIDTHS, depths, _LAYER_STRIDES_ZYX, strict=True):
            layers.append(_layer(block, inputs, width, depth, stride, project))
            inputs = width * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        for module in self.modules():
            if isinstance(module, nn.Conv3d):  # He et al. 2015, as in MONAI
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        """(N, 1, D, H, W) -> one (N, C, D/s, H/s, W/s) per resolution, coarse last."""
        stem = between(0, self.act(self.bn1(self.conv1(voxels))))
        first = between(1, self.layer1(self.maxpool(stem)))
        second = between(2, self.layer2(first))
        return [stem, first, second, between(3, self.layer4(self.layer3(second)))]


def _layer(
    block: type[Any], inputs: int, width: int, depth: int, stride: tuple[int, int, int], project: bool
) -> nn.Sequential:
    outputs = width * block.expansion
    shortcut: nn.Module | None = None
    if inputs != outputs:
        shortcut = ZeroPadShortcut(stride)
        if project:
            convolution = nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False)
            shortcut = nn.Sequential(convolution, nn.BatchNorm3d(outputs))
    blocks = [block(inputs, width, stride=stride, downsample=shortcut)]
    blocks += [block(outputs, width) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)
