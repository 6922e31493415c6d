"""Heads: from one vector to the logit of label 1, or to the cumulative logits of ISUP grades."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

GRADES = 5  # ISUP grade groups 1 to 5; 0 is no cancer
SIGNIFICANT = 2  # csPCa: ISUP grade group 2 and above


class Head(nn.Module):
    """Standardise, then one logit. The standardisation is fitted once on training features and then fixed.

    Args:
        features: length C of the vector.
        ordinal: cumulative logits of ISUP >= 1 to ISUP >= 5: one weight for all of them, so that they are parallel,
            and a bias each (Cao et al. 2020, CORAL; cumulative targets as in Frank and Hall 2001).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, ordinal: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.offsets = nn.Parameter(torch.linspace(1, -1, GRADES)) if ordinal else None

    def cumulative(self, features: Tensor) -> Tensor:
        """(N, C) -> (N, K) logits: of label 1 (K = 1), or of ISUP >= 1 to ISUP >= 5 (K = 5)."""
        logits: Tensor = self.linear((features - self.mean) / self.scale)
        return logits if self.offsets is None else logits + self.offsets

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) -> (N,) logits of label 1, or of ISUP >= 2."""
        return self.cumulative(features)[:, self.reported]

    @property
    def reported(self) -> int:
        """Which of the cumulative logits is the classifier's."""
        return 0 if self.offsets is None else SIGNIFICANT - 1


def pooled_logit(logits: Sequence[Tensor]) -> Tensor:
    """The logit of the mean of several models' probabilities; exact where a sigmoid would round to 0 or 1.

    Args:
        logits: of each model, all of one shape.
    """
    stacked = torch.stack(list(logits))
    above = nn.functional.logsigmoid(stacked).logsumexp(0)
    below = nn.functional.logsigmoid(-stacked).logsumexp(0)
    return above - below
