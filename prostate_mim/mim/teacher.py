"""A slowly following copy of the model, which gives targets (data2vec), and for which blocks are hard (AnatoMask)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

# The mean of the last 1 / (1 - momentum) steps; it grows with training (Li et al. 2024, AnatoMask, section 3.2).
FIRST_MOMENTUM, LAST_MOMENTUM = 0.999, 0.9999


class EmaTeacher(nn.Module):
    """Exponential moving average of an encoding and its decoder; never trained, always in evaluation mode.

    Its state is part of the model's, so a resumed run has the same teacher.
    """

    def __init__(self, encoding: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoding, self.decoder = copy.deepcopy(encoding), copy.deepcopy(decoder)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> EmaTeacher:
        """Stays in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def follow(self, encoding: nn.Module, decoder: nn.Module, progress: float) -> None:
        """Move towards the student.

        Args:
            progress: share of the training that is done, 0 to 1.
        """
        momentum = FIRST_MOMENTUM + (LAST_MOMENTUM - FIRST_MOMENTUM) * progress
        for own, student in ((self.encoding, encoding), (self.decoder, decoder)):
            for mine, theirs in zip(own.parameters(), student.parameters(), strict=True):
                mine.lerp_(theirs.to(mine.dtype), 1 - momentum)
            for kept, current in zip(own.buffers(), student.buffers(), strict=True):
                kept.copy_(current)

    @torch.no_grad()
    def features(self, voxels: Tensor) -> Tensor:
        """The coarsest stage of everything: (N, 1, D, H, W) -> (N, C, d, h, w)."""
        found: Tensor = self.encoding.encoder(voxels)[-1]  # type: ignore[operator]
        return found
