"""The reference of the benchmark: an encoder as the 3D ports of SparK compute it (Tian et al. 2023, section 3.2).

Dense kernels everywhere, and what that family of implementations does around them: every convolution and pool is
followed by a multiplication with the visible map, which each layer builds anew from the coarsest one; every norm
gathers visible positions with ``nonzero``, runs torch's kernel on them, and scatters them into zeros.

Written for this benchmark, and kept as lean as the structure allows, so that beating it means something: products in
place; activations out of place, because after a scatter an activation in place makes autograd copy; group norm on a
channels-last view of the gathered rows; no product where the next layer makes one. The visible map belongs to the
encoder, not to the module, so two encoders may interleave.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.encoding import Encoding
from prostate_mim.nets.convnext import ChannelLayerNorm, GlobalResponseNorm
from prostate_mim.nets.encoder import Encoder

Places = tuple[Tensor, ...]


class VisibleMap:
    """What is visible in the present batch, at the coarsest resolution.

    Attributes:
        coarsest: (N, 1, gz, gy, gx) bool, True = visible.
    """

    coarsest: Tensor

    def at(self, features: Tensor) -> Tensor:
        """(N, 1, d, h, w) bool at the resolution of (N, C, d, h, w) features; built anew on every call."""
        visible = self.coarsest
        for axis in (2, 3, 4):
            repeats = features.shape[axis] // visible.shape[axis]
            if repeats > 1:
                visible = visible.repeat_interleave(repeats, axis)
        return visible

    def places(self, features: Tensor) -> Places:
        """(n, z, y, x) of visible positions, each (V,), samples first."""
        return self.at(features)[:, 0].nonzero(as_tuple=True)


def gather(features: Tensor, places: Places) -> Tensor:
    """(N, C, d, h, w) -> (V, C)."""
    return features.permute(0, 2, 3, 4, 1)[places]


def scatter(rows: Tensor, places: Places, like: Tensor) -> Tensor:
    """(V, C) -> (N, C, d, h, w) in the layout of ``like``, zeros elsewhere."""
    out = torch.zeros_like(like.detach().permute(0, 2, 3, 4, 1), dtype=rows.dtype)
    out[places] = rows
    return out.permute(0, 4, 1, 2, 3)


class SparkConv3d(nn.Conv3d):
    """Dense convolution, then the product."""

    seen: VisibleMap

    def forward(self, features: Tensor) -> Tensor:
        """(N, Ci, d, h, w) -> (N, Co, d/s, h/s, w/s)."""
        out = super().forward(features)
        return out.mul_(self.seen.at(out))


class SparkMaxPool3d(nn.MaxPool3d):
    """Dense pool of rectified features, for which a hidden zero is never larger than a visible value."""

    seen: VisibleMap

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, d, h, w) -> (N, C, d/s, h/s, w/s)."""
        out: Tensor = super().forward(features)
        return out.mul_(self.seen.at(out))


class SparkAvgPool3d(nn.AvgPool3d):
    """Dense mean of windows without neighbours (a kernel of 1, or the stride): they are visible as a whole."""

    seen: VisibleMap

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, d, h, w) -> (N, C, d/s, h/s, w/s)."""
        out = super().forward(features)
        return out.mul_(self.seen.at(out))


class SparkBatchNorm(nn.BatchNorm1d):
    """Gathered rows through the kernel of a batch norm."""

    seen: VisibleMap

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, d, h, w) -> the same shape."""
        places = self.seen.places(features)
        return scatter(super().forward(gather(features, places)), places, features)


class SparkGroupNorm(nn.GroupNorm):
    """Gathered rows, sample by sample, through the kernel of a group norm."""

    seen: VisibleMap

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, d, h, w) -> the same shape."""
        places = self.seen.places(features)
        normed = _per_sample(features, places, self.num_groups, self.weight, self.bias, self.eps)
        return scatter(normed, places, features)


class SparkInstanceNorm(nn.InstanceNorm3d):
    """Gathered rows, sample by sample, through the kernel of a group norm with one channel a group."""

    seen: VisibleMap

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, d, h, w) -> the same shape."""
        places = self.seen.places(features)
        normed = _per_sample(features, places, self.num_features, self.weight, self.bias, self.eps)
        return scatter(normed, places, features)


def _per_sample(
    features: Tensor, places: Places, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Gather and normalise; like the ports, for equally many visible positions per sample only."""
    rows = gather(features, places)
    samples, channels = features.shape[:2]
    image = rows.view(samples, -1, 1, channels).permute(0, 3, 1, 2)
    return torch.group_norm(image, groups, weight, bias, eps).permute(0, 2, 3, 1).reshape(rows.shape)


class SparkLayerNorm(ChannelLayerNorm):
    """Gathered rows through the kernel of a layer norm."""

    seen: VisibleMap

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, d, h, w) -> the same shape."""
        places = self.seen.places(features)
        normed = nn.functional.layer_norm(gather(features, places), (self.channels,), self.weight, self.bias, self.eps)
        return scatter(normed, places, features)


# A response norm needs nothing: the convolution before it zeroed what is hidden, the one behind zeroes its bias.
AS_IT_IS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Identity, nn.Dropout, GlobalResponseNorm)
SPARK: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv3d: SparkConv3d,
    nn.MaxPool3d: SparkMaxPool3d,
    nn.AvgPool3d: SparkAvgPool3d,
    nn.BatchNorm3d: SparkBatchNorm,
    nn.GroupNorm: SparkGroupNorm,
    nn.InstanceNorm3d: SparkInstanceNorm,
    ChannelLayerNorm: SparkLayerNorm,
}


def spark_style(encoder: Encoder) -> tuple[Encoder, VisibleMap]:
    """A copy of the encoder, with copies of its weights, that computes as SparK does, and its visible map.

    Raises:
        TypeError: a part of the encoder that is not known here.
    """
    twin, seen = copy.deepcopy(encoder), VisibleMap()
    for name, module in twin.named_modules():
        if type(module) in SPARK:
            module.__class__ = SPARK[type(module)]
            vars(module)["seen"] = seen
        elif isinstance(module, nn.ReLU | nn.LeakyReLU):
            module.inplace = False
        elif not any(module.children()) and not isinstance(module, AS_IT_IS):
            raise TypeError(f"{name}: the reference does not know {type(module).__name__}")
    return twin, seen


class SparkEncoding(Encoding):
    """Stands in for ``Encoding`` in a ``MaskedImageModel``, whose decoder and loss stay the same.

    Args:
        encoder: copied.
        grid: how crops divide into blocks.
    """

    def __init__(self, encoder: Encoder, grid: BlockGrid) -> None:
        super().__init__(encoder, grid, "filled")
        self.encoder, self.seen = spark_style(encoder)

    def forward(self, voxels: Tensor, hidden_blocks: Tensor, levels: int) -> list[Tensor]:
        """As ``Encoding.forward``."""
        self.seen.coarsest = ~hidden_blocks[:, None]
        features: list[Tensor] = self.encoder(voxels * self.seen.at(voxels))
        return features[-levels:]
