"""Which parameters are decayed, and at which share of the learning rate each is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, depths: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Groups for AdamW: kernels and matrices are decayed; biases, norms and tokens are not.

    Args:
        layer_decay: factor on the learning rate for each resolution further from the head (Clark et al. 2020,
            ELECTRA; Bao et al. 2022, BEiT); 1 = one rate for all.
        depths: parameter name -> resolution, 0 at the input; parameters that are not named are the head's, and are
            trained at the full rate.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``scale``, in a fixed order.
    """
    known = depths or {}
    levels = max(known.values(), default=-1) + 1
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kernel = name.endswith("weight") and parameter.ndim > 1  # a token has a kernel's shape, not its name
            decay = weight_decay if kernel else 0.0
            scale = layer_decay ** (levels - known.get(name, levels))
            groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": found, "weight_decay": decay, "scale": scale} for (scale, decay), found in groups.items()]
