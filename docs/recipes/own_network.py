"""A network of one's own, and the command line that knows it: ``python own_network.py pretrain --help``."""

from __future__ import annotations

from torch import Tensor, nn

from prostate_mim import register_encoder
from prostate_mim.nets import Encoder
from prostate_mim.nets.encoder import Between, unchanged


# ---------------------------------------------------------------------------- your network, as it is in your project
class OrganNet(nn.Module):
    """A small 3D classifier; stands for yours."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(1, 16, 3, padding=1), nn.InstanceNorm3d(16, affine=True), nn.LeakyReLU())
        self.middle = nn.Sequential(nn.Conv3d(16, 32, 3, 2, padding=1), nn.BatchNorm3d(32), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv3d(32, 64, 3, 2, padding=1), nn.BatchNorm3d(64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, voxels: Tensor) -> Tensor:
        """(N, 1, D, H, W) -> (N, classes) logits."""
        return self.head(self.deep(self.middle(self.stem(voxels))).mean((2, 3, 4)))


# -------------------------------------------------------------------------------------- what prostate-mim has to know
class OrganEncoder(Encoder):
    """Your network as features at several resolutions."""

    def __init__(self) -> None:
        # of each resolution: stride relative to the one before (z, y, x), and channels
        super().__init__(strides_zyx=[(1, 1, 1), (2, 2, 2), (2, 2, 2)], channels=[16, 32, 64])
        self.network = OrganNet()

    def forward(self, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        """(N, 1, D, H, W) -> one (N, C, d, h, w) per resolution, coarse last."""
        stem = between(0, self.network.stem(voxels))
        middle = between(1, self.network.middle(stem))
        return [stem, middle, between(2, self.network.deep(middle))]


register_encoder("organ-net", OrganEncoder)

if __name__ == "__main__":
    from prostate_mim.cli import main

    main()  # every command of prostate-mim, in a process that has registered the network
