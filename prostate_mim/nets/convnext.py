"""ConvNeXt-V2 in 3D (Woo et al. 2023, section 3.3 and appendix A.1): channels-first, anisotropic.

The 2D net's stem strides by 4 and ends at 32; the one here strides by 1 x 2 x 2 (non-overlapping, as there) and ends at
4 x 16 x 16, so that each of the four stages keeps a resolution of its own. Depthwise kernels are 3 x 7 x 7: at 3 x 1 x
1 mm, where they first act, 9 x 7 x 7 mm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from prostate_mim.nets.encoder import PYRAMID_ZYX, StageChain

_KERNEL_ZYX = (3, 7, 7)
_EXPANSION = 4
_EPSILON = 1e-6
_INITIAL_DEVIATION = 0.02


def convnext_a() -> StageChain:
    """convnext-a ("atto"): 3.8 M parameters."""
    return _convnext(channels=(40, 80, 160, 320), depths=(2, 2, 6, 2))


def convnext_t() -> StageChain:
    """convnext-t ("tiny"): 30.0 M parameters."""
    return _convnext(channels=(96, 192, 384, 768), depths=(3, 3, 9, 3))


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of each voxel (Ba et al. 2016): statistics never leave the voxel.

    Args:
        channels: C of (N, C, D, H, W).
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = _EPSILON) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, D, H, W) -> the same shape."""
        last = features.movedim(1, -1)
        normed = functional.layer_norm(last, (self.channels,), self.weight, self.bias, self.eps)
        return normed.movedim(-1, 1).contiguous()  # a layout handed on with dynamic sizes breaks torch's ONNX export

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.channels}, eps={self.eps}"


class GlobalResponseNorm(nn.Module):
    """Channels compete: each is scaled by its norm over space relative to the mean norm (Woo et al. 2023, eq. 1-3).

    x + weight * x * n / (mean over channels of n + eps) + bias, with n the L2 norm over (D, H, W) of each channel.

    Args:
        channels: C of (N, C, D, H, W).
        eps: added to the mean norm.
    """

    def __init__(self, channels: int, eps: float = _EPSILON) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, D, H, W) -> the same shape and type; the sums over space are at least float32."""
        wide = torch.promote_types(features.dtype, torch.float32)
        norm: Tensor = torch.linalg.vector_norm(features, dim=(2, 3, 4), keepdim=True, dtype=wide)
        scale = (norm / (norm.mean(1, keepdim=True) + self.eps)).to(features.dtype)
        weight, bias = (value.to(features.dtype)[:, None, None, None] for value in (self.weight, self.bias))
        return features + weight * (features * scale) + bias

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.channels}, eps={self.eps}"


class ConvNextBlock(nn.Module):
    """Depthwise convolution, layer norm, widen, GELU, response norm, narrow; added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        z, y, x = _KERNEL_ZYX
        inside = _EXPANSION * channels
        self.depthwise = nn.Conv3d(channels, channels, _KERNEL_ZYX, padding=(z // 2, y // 2, x // 2), groups=channels)
        self.norm = ChannelLayerNorm(channels)
        self.widen = nn.Conv3d(channels, inside, 1)
        self.act = nn.GELU()
        self.response = GlobalResponseNorm(inside)
        self.narrow = nn.Conv3d(inside, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, d, h, w) -> the same shape."""
        inside = self.act(self.widen(self.norm(self.depthwise(features))))
        change: Tensor = self.narrow(self.response(inside))
        return features + change


# Kernels as wide as their strides: a cell looks at the middle of its voxels.
_BEGINS_ZYX = ((0.0, 0.5, 0.5), (0.0, 1.5, 1.5), (0.5, 3.5, 3.5), (1.5, 7.5, 7.5))


def _convnext(channels: tuple[int, ...], depths: tuple[int, ...]) -> StageChain:
    stages: list[nn.Module] = []
    inputs = 1
    for outputs, depth, stride in zip(channels, depths, PYRAMID_ZYX, strict=True):
        # The kernel is the stride: cells do not overlap. The stem normalises after it, later stages before.
        strided = nn.Conv3d(inputs, outputs, stride, stride)
        entry = [strided, ChannelLayerNorm(outputs)] if inputs == 1 else [ChannelLayerNorm(inputs), strided]
        stages.append(nn.Sequential(*entry, *(ConvNextBlock(outputs) for _ in range(depth))))
        inputs = outputs
    encoder = StageChain(stages, PYRAMID_ZYX, channels, _BEGINS_ZYX)
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d) and module.bias is not None:
            nn.init.trunc_normal_(module.weight, std=_INITIAL_DEVIATION)
            nn.init.zeros_(module.bias)
    return encoder
