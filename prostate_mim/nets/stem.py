"""More input channels for an encoder that was made, or trained, for fewer."""

from __future__ import annotations

import torch
from torch import nn

from prostate_mim.errors import UsageError
from prostate_mim.nets.encoder import Encoder


def widen_stem(encoder: Encoder, in_channels: int) -> None:
    """Let an encoder take more channels, in place; its features are those it gave before.

    Every convolution that reads the voxels (a residual stem has two) keeps its weights for the channels there were and
    gets zeros for the new ones, so the new channels count for nothing until training says otherwise. Names and order
    of the weights stay; nothing is drawn at random. An encoder that has so many channels already is left as it is.

    Args:
        encoder: any registered one; its ``in_channels`` is changed.
        in_channels: channels of (N, C, D, H, W) from now on.

    Raises:
        UsageError: fewer channels than it has; weights are never thrown away.
    """
    if in_channels < encoder.in_channels:
        raise UsageError(
            f"the encoder takes {encoder.in_channels} channels and cannot be narrowed to {in_channels}; start from an "
            "encoder with fewer"
        )
    if in_channels == encoder.in_channels:
        return
    for convolution in stem_convolutions(encoder):
        old = convolution.weight
        new = old.new_zeros((old.shape[0], in_channels, *old.shape[2:]))
        with torch.no_grad():
            new[:, : old.shape[1]] = old
        convolution.weight = nn.Parameter(new, requires_grad=old.requires_grad)
        convolution.in_channels = in_channels
    encoder.in_channels = in_channels


def stem_convolutions(encoder: Encoder) -> list[nn.Conv3d]:
    """The convolutions that read the voxels themselves: those of so few channels; all later ones have many."""
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv3d)]
    return [one for one in convolutions if one.in_channels == encoder.in_channels and one.groups == 1]
