"""A moving average of a model's weights, published instead of the last ones (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prostate_mim.errors import UsageError


class WeightAverage:
    """An exponential moving average of the trainable parameters.

    Args:
        model: where it begins.
        momentum: share that stays at each step; smaller in the first steps, where the beginning would linger.

    Attributes:
        values: by the model's own names.
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        self.momentum = momentum
        self.values = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def follow(self, model: nn.Module, step: int) -> None:
        """Take in the weights after the 0-based ``step``."""
        momentum = min(self.momentum, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.detach(), 1 - momentum)

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Go on from saved values.

        Raises:
            UsageError: one is missing.
        """
        missing = sorted(self.values.keys() - values.keys())
        if missing:
            raise UsageError(
                f"the checkpoint holds no moving average of {missing[0]} (of {len(missing)} in all); a run that began "
                "without one (loop.ema 0) cannot go on with one: leave loop.ema as it was, or choose a new --out"
            )
        for name, own in self.values.items():
            own.copy_(values[name])
