"""bfloat16 on CPUs: convolutions that torch 2.13 gets wrong, made right."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PaddedAhead(nn.Conv3d):
    """``nn.Conv3d`` that puts its zeros along z in place before the kernel runs.

    In bfloat16 on CPUs torch 2.13's weight gradient reads memory nobody wrote where few planes meet zero padding along
    z: NaN, infinity or rubbish. With the zeros in place it does not. See ``masked.convolution`` for masked networks.
    """

    def forward(self, voxels: Tensor) -> Tensor:
        """(N, C, D, H, W) -> the same numbers."""
        z, y, x = (int(count) for count in self.padding)
        padded = functional.pad(voxels, (0, 0, 0, 0, z, z))
        return functional.conv3d(padded, self.weight, self.bias, self.stride, (0, y, x), self.dilation, self.groups)


def pad_ahead(model: nn.Module) -> None:
    """Let every plain convolution of a model that pads with a number of zeros along z do so ahead, in place."""
    for part in model.modules():
        if type(part) is not nn.Conv3d or part.padding_mode != "zeros" or isinstance(part.padding, str):
            continue
        if part.padding[0]:
            part.__class__ = PaddedAhead  # the same attributes and names
