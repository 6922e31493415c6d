"""2D convolution weights as 3D ones, and colours as one grey channel."""

from __future__ import annotations

import torch
from torch import Tensor

from prostate_mim.errors import UsageError

HOWS = ("spread", "centre")
COLOURS = 3


def inflate_convolution(weight2d: Tensor, depth: int, how: str = "spread") -> Tensor:
    """The kernel of a 2D convolution as one of a 3D convolution.

    On a volume that is the same in every slice, both ways give in each slice what the 2D convolution gives, as long as
    the kernel lies inside the volume. Beyond its first and last slice, padding with zeros takes part of a spread
    kernel's weight away, so there ``spread`` is exact only with replicated borders; ``centre`` is exact with either.

    Args:
        weight2d: (outputs, inputs per group, y, x).
        depth: slices z of the 3D kernel.
        how: ``spread``, each slice 1/depth of the 2D kernel (Carreira and Zisserman 2017, section 2.4.1), so that what
            lies in the neighbouring slices counts from the beginning; or ``centre``, the 2D kernel in the middle slice
            and zeros around it, so that every slice is at first looked at by itself.

    Returns:
        (outputs, inputs per group, z, y, x).

    Raises:
        UsageError: not a 2D kernel, an unknown ``how``, no slice, or an even number of slices with ``centre``.
    """
    if weight2d.ndim != 4:
        raise UsageError(f"a 2D kernel has 4 axes (out, in, y, x), this one {weight2d.ndim}; give a Conv2d's weight")
    if how not in HOWS:
        raise UsageError(f"inflation {how!r} is unknown; choose one of {', '.join(HOWS)}")
    if depth < 1 or (how == "centre" and depth % 2 == 0):
        raise UsageError(f"a {how!r} kernel of {depth} slices: give at least one, and an odd number for 'centre'")
    if how == "spread":
        return (weight2d / depth).unsqueeze(2).repeat(1, 1, depth, 1, 1)
    weight = weight2d.new_zeros((*weight2d.shape[:2], depth, *weight2d.shape[2:]))
    weight[:, :, depth // 2] = weight2d
    return weight


def sum_colours(weight: Tensor, in_channels: int) -> Tensor:
    """The first convolution's weight for other inputs than red, green and blue.

    One grey channel gets the sum over the colours: the output is then what the colour network gives for a grey image.
    Further channels (masks beside the T2w image) begin at zero. With as many inputs as there are, nothing changes.

    Args:
        weight: (outputs, 3, ...).
        in_channels: inputs wanted.

    Raises:
        UsageError: the weight is not of three colours and not of ``in_channels`` inputs.
    """
    if weight.shape[1] == in_channels:
        return weight
    if weight.shape[1] != COLOURS:
        raise UsageError(
            f"the first convolution takes {weight.shape[1]} channels; only the {COLOURS} colours of a photograph can "
            f"be turned into {in_channels}"
        )
    summed = weight.sum(1, keepdim=True)
    rest = weight.new_zeros((weight.shape[0], in_channels - 1, *weight.shape[2:]))
    return torch.cat([summed, rest], 1)
