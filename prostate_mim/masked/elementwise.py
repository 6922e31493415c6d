"""Modules that treat every position alone: activations, dropout, layer norm over channels, padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prostate_mim.errors import UsageError
from prostate_mim.masked.features import DenseFeatures, MaskedFeatures

# Activations of 0 are 0, so masked features stay masked.
_KEEPS_ZERO = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh)


def of_positions(module: Any, features: MaskedFeatures) -> MaskedFeatures:
    """A module whose output at a position depends on the channels of that position only, run as it is."""
    features.refuse_padding(type(module).__name__)
    if isinstance(features, DenseFeatures):
        clean = features.clean and isinstance(module, _KEEPS_ZERO)
        return features.with_values(module.ordinary(features.values), clean=clean)
    rows = features.values[:, :, None, None, None]
    return features.with_values(module.ordinary(rows).flatten(1))


def silu(module: nn.Module, features: MaskedFeatures) -> MaskedFeatures:
    """MONAI's memory-efficient swish, whose own autograd function takes tensors only."""
    return features.map(functional.silu)


def dropout(module: nn.Dropout, features: MaskedFeatures) -> MaskedFeatures:
    """The noise of the full dense tensor, so that both paths and the plain network draw the same."""
    features.refuse_padding("dropout")
    if not module.training or module.p == 0:
        return features
    noise = functional.dropout(torch.ones(features.shape, dtype=features.dtype, device=features.device), module.p)
    return features.with_values(features.values * features.select(noise))


def channel_dropout(module: nn.Dropout3d, features: MaskedFeatures) -> MaskedFeatures:
    """Whole channels of a sample at once (Tompson et al. 2015)."""
    features.refuse_padding("channel_dropout")
    if not module.training or module.p == 0:
        return features
    noise = torch.ones((*features.shape[:2], 1, 1, 1), dtype=features.dtype, device=features.device)
    return features * functional.dropout3d(noise, module.p)


def pad(module: Any, features: MaskedFeatures) -> MaskedFeatures:
    """Zeros around: remembered, and taken into the next convolution's or pool's own padding."""
    if getattr(module, "value", 0.0) != 0:
        raise UsageError(
            f"{type(module).__name__} pads with {module.value}; masked features are padded with zeros only"
        )
    return features.padded(tuple(module.padding))


def pass_on(module: nn.Module, features: MaskedFeatures) -> MaskedFeatures:
    """``nn.Identity``."""
    return features


def plain_only(module: nn.Module, features: MaskedFeatures) -> Tensor:
    """Modules of a classification head, which come after global pooling."""
    raise UsageError(
        f"{type(module).__name__} was given masked features; it takes vectors, so it must follow global pooling"
    )
