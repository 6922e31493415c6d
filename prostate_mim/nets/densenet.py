"""DenseNet-121 (Huang et al. 2017, table 1) from MONAI, under MONAI's names, strided in-plane first."""

from __future__ import annotations

from monai.networks.nets.densenet import DenseNet121
from torch import Tensor, nn

from prostate_mim.nets.encoder import PYRAMID_ZYX, Between, Encoder, unchanged


def densenet121() -> DenseNetEncoder:
    """densenet121: 11.2 M parameters, the ``features.*`` keys of MONAI's 3D DenseNet121."""
    return DenseNetEncoder()


# Transitions average two voxels by two: half a stride of what came before, each time.
_BEGINS_ZYX = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.5, 2.0, 2.0), (1.5, 6.0, 6.0))


class DenseNetEncoder(Encoder):
    """MONAI's DenseNet121 without its head.

    Strides: conv0, pool0, transition1, transition2. Transition 3 keeps its resolution (the last of the net's five
    strides, so that everything before it is strided as usual). No weight's shape depends on strides. Features: after
    relu0 at 1 x 2 x 2, after the dense blocks 1 at 1 x 4 x 4 and 2 at 2 x 8 x 8, and the rectified end at 4 x 16 x 16.
    """

    def __init__(self) -> None:
        super().__init__(PYRAMID_ZYX, (64, 256, 512, 1024), _BEGINS_ZYX)
        parts: nn.Sequential = DenseNet121(spatial_dims=3, in_channels=1, out_channels=1).features
        for name, stride in zip(("conv0", "pool0"), PYRAMID_ZYX, strict=False):
            vars(parts.get_submodule(name))["stride"] = stride
        del parts.get_submodule("transition3").pool
        self.features = parts
        self.act = nn.ReLU()  # what MONAI's head begins with: norm5 alone is not an activation

    def forward(self, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        """(N, 1, D, H, W) -> one (N, C, D/s, H/s, W/s) per resolution, coarse last."""
        given: list[Tensor] = []
        for name, part in self.features.named_children():
            voxels = part(voxels)
            if name in ("relu0", "denseblock1", "denseblock2"):
                voxels = between(len(given), voxels)
                given.append(voxels)
        return [*given, between(3, self.act(voxels))]
