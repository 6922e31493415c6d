"""Another strategy for every sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import Guide, Hiding, Strategy, uniform


@dataclass(frozen=True)
class Mixture:
    """Each sample draws which strategy hides it; the result carries that one's name.

    Attributes:
        parts: (strategy, weight) pairs; a strategy is drawn with its share of the sum of weights.
    """

    parts: tuple[tuple[Strategy, float], ...]
    name: ClassVar[str] = "mixture"

    def __post_init__(self) -> None:
        if not self.parts:
            raise UsageError("strategy mixture has no parts; write for example mixture:random=0.5,column=0.5")
        for part, weight in self.parts:
            if not (math.isfinite(weight) and weight > 0):
                raise UsageError(f"strategy mixture gives {part.name} the weight {weight}; use a positive number")
            if part.name == self.name:
                raise UsageError("strategy mixture holds a mixture; list its parts side by side")

    @property
    def self_supervised(self) -> bool:
        """True where every part is: one that looks at labels is enough."""
        return all(part.self_supervised for part, _ in self.parts)

    @property
    def needs(self) -> frozenset[str]:
        """What any part looks at."""
        return frozenset().union(*(part.needs for part, _ in self.parts))

    def hidden_count(self, grid: BlockGrid, ratio: float) -> int:
        """The most that any part hides; the sample's own count is that of the part its result names.

        Raises:
            UsageError: a part cannot hide this share of the grid.
        """
        return max(part.hidden_count(grid, ratio) for part, _ in self.parts)

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """Draw a part, and let it decide with the same generator."""
        return self._draw(generator).hide(grid, ratio, generator, guide)

    def _draw(self, generator: torch.Generator) -> Strategy:
        left = uniform(generator) * math.fsum(weight for _, weight in self.parts)
        for part, weight in self.parts:
            left -= weight
            if left < 0:
                return part
        return self.parts[-1][0]  # where rounding left a remainder
