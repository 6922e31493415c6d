"""The ResNets of MedicalNet with the strides and dilations that its published weights were trained with.

MedicalNet: Chen et al. 2019 (Med3D, arXiv 1904.00625), the 3D ResNets of its published code. Stem and max pool each
halve all three axes, layer 2 halves them again, and layers 3 and 4 keep their resolution and widen their kernels
instead: dilation 2 and 4. Names, shapes and shortcuts are those of ``nets.resnet`` (depths 10 and 50 project theirs,
18 and 34 pad them with zero channels and so have no parameters there), so that the same file fits both; which geometry
reads its weights is the choice of the architecture.
"""

from __future__ import annotations

from typing import Any

from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import nn

from prostate_mim.nets.encoder import Encoder
from prostate_mim.nets.resnet import ResNetEncoder, ZeroPadShortcut

# Relative strides of stem, layer 1, layer 2 and layer 4, the same along every axis.
MEDICALNET_STRIDES_ZYX = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1))
_UNSTRIDED = (1, 1, 1)


def medicalnet_resnet10() -> ResNetEncoder:
    """medicalnet-resnet10: 14.4 M parameters."""
    return MedicalNetEncoder(ResNetBlock, (1, 1, 1, 1), project=True)


def medicalnet_resnet18() -> ResNetEncoder:
    """medicalnet-resnet18: 33.0 M parameters."""
    return MedicalNetEncoder(ResNetBlock, (2, 2, 2, 2), project=False)


def medicalnet_resnet34() -> ResNetEncoder:
    """medicalnet-resnet34: 63.3 M parameters."""
    return MedicalNetEncoder(ResNetBlock, (3, 4, 6, 3), project=False)


def medicalnet_resnet50() -> ResNetEncoder:
    """medicalnet-resnet50: 46.2 M parameters."""
    return MedicalNetEncoder(ResNetBottleneck, (3, 4, 6, 3), project=True)


class MedicalNetEncoder(ResNetEncoder):
    """A ``ResNetEncoder`` with MedicalNet's geometry: cells of 8 x 8 x 8 voxels, whatever a voxel measures.

    Features: after conv1 at 2 x 2 x 2, after layer 1 at 4 x 4 x 4, after layer 2 and after layer 4, both at 8 x 8 x 8.
    At 3.0 x 0.5 x 0.5 mm a cell is 24 x 4 x 4 mm; the weights were trained on nearly isotropic voxels, so a spec of
    similar spacing along all axes suits them better.

    Args:
        block: MONAI's basic or bottleneck block.
        depths: blocks per layer.
        project: as in ``ResNetEncoder``.
    """

    def __init__(self, block: type[Any], depths: tuple[int, int, int, int], *, project: bool) -> None:
        super().__init__(block, depths, project=project)
        channels = [stage.channels for stage in self.stage_info]
        self.stage_info = Encoder(MEDICALNET_STRIDES_ZYX, channels).stage_info
        vars(self.conv1)["stride"] = MEDICALNET_STRIDES_ZYX[0]
        vars(self.maxpool)["stride"] = MEDICALNET_STRIDES_ZYX[1]
        for layer, dilation in ((self.layer3, 2), (self.layer4, 4)):
            _dilate(layer, dilation)


def _dilate(layer: nn.Module, dilation: int) -> None:
    """No stride; 3 x 3 x 3 kernels dilated and padded by as much, in every block of the layer."""
    for module in layer.modules():
        if isinstance(module, ZeroPadShortcut):
            vars(module.pool)["stride"] = _UNSTRIDED
        elif isinstance(module, nn.Conv3d):
            vars(module)["stride"] = _UNSTRIDED
            if module.kernel_size == (3, 3, 3):
                vars(module)["dilation"] = vars(module)["padding"] = (dilation,) * 3
