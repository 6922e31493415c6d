"""Early stopping: the weights with the lowest loss on rows that were held out, and no more steps when it stays higher.

What has been seen so far travels in the checkpoint, best weights included, so that a resumed run ends at the same step
with the same weights as one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prostate_mim.engine.checkpoint import Checkpoint

_KEY = "early"


@dataclass(frozen=True)
class EarlyStop:
    """When to stop.

    Attributes:
        loss: whole weights by name, on the CPU (the moving average where there is one) -> loss on held-out rows. It
            must change no generator. Every rank calls it and must get the same number.
        every: steps between two looks.
        patience: looks without a lower loss after which the run ends; 0 = it goes on to the last step, and the best
            weights are taken all the same.
    """

    loss: Callable[[dict[str, Tensor]], float]
    every: int
    patience: int


class BestSoFar:
    """What has been seen of a run.

    Args:
        rule: when to stop.

    Attributes:
        weights: with the lowest loss; empty before the first look.
    """

    def __init__(self, rule: EarlyStop) -> None:
        self.rule = rule
        self.weights: dict[str, Tensor] = {}
        self._lowest: float | None = None
        self._since = 0

    @classmethod
    def of(cls, rule: EarlyStop | None, checkpoint: Checkpoint | None) -> BestSoFar | None:
        """What a checkpoint says of it, or the beginning; None where nothing stops the run."""
        if rule is None:
            return None
        made = cls(rule)
        if checkpoint is not None and _KEY in checkpoint.state["settled"]:
            kept = checkpoint.state["settled"][_KEY]
            made._lowest, made._since, made.weights = kept["lowest"], kept["since"], checkpoint.part("best")
        return made

    def write_into(self, tensors: dict[str, Tensor], settled: dict[str, Any]) -> None:
        """Into a checkpoint's tensors (``best.NAME``) and plain values."""
        tensors |= {f"best.{name}": value for name, value in self.weights.items()}
        settled[_KEY] = {"lowest": self._lowest, "since": self._since}

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return 0 < self.rule.patience <= self._since

    def due(self, done: int, steps: int) -> bool:
        """Whether to look after ``done`` of ``steps`` steps."""
        return done % self.rule.every == 0 or done == steps

    def look(self, weights: dict[str, Tensor]) -> float:
        """Take in the loss with these weights. One that is not finite is never the lowest."""
        loss = self.rule.loss(weights)
        if math.isfinite(loss) and (self._lowest is None or loss < self._lowest):
            self._lowest, self._since, self.weights = loss, 0, weights
        else:
            self._since += 1
        return loss
