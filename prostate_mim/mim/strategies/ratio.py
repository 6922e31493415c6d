"""The share that is hidden: a number, or a distribution that every sample draws from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import Strategy, uniform

_SEPARATORS = {"fixed": "", "uniform": "..", "choice": "|"}


@dataclass(frozen=True)
class Ratio:
    """A mask ratio or a distribution of mask ratios; ``str()`` gives what ``parse_ratio`` reads.

    Attributes:
        kind: "fixed", "uniform" (between two numbers) or "choice" (one of several, equally often).
        values: the number; the two ends; or the numbers to choose from.
    """

    kind: Literal["fixed", "uniform", "choice"]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        for value in self.values:
            if not 0 < value < 1:
                raise UsageError(f"mask ratio {value} is not between 0 and 1; use for example 0.6")
        if self.kind == "uniform" and not (len(self.values) == 2 and self.values[0] < self.values[1]):
            raise UsageError(f"mask ratio {self} is no range; write the smaller number first, as in 0.5..0.9")
        if self.kind == "fixed" and len(self.values) != 1:
            raise UsageError(f"mask ratio {self.values} is not one number; use parse_ratio for a distribution")
        if self.kind == "choice" and len(self.values) < 2:
            raise UsageError(f"mask ratio {self.values} leaves no choice; use two numbers or more, as in 0.6|0.75")

    def draw(self, generator: torch.Generator) -> float:
        """The ratio of one sample. A fixed one takes nothing from the generator."""
        if self.kind == "fixed":
            return self.values[0]
        if self.kind == "choice":
            return self.values[int(uniform(generator) * len(self.values))]
        low, high = self.values
        return low + uniform(generator) * (high - low)

    def __str__(self) -> str:
        return _SEPARATORS[self.kind].join(str(value) for value in self.values)


def parse_ratio(given: str | float | Ratio) -> Ratio:
    """Read ``0.75``, ``0.5..0.9`` (uniform) or ``0.6|0.75|0.9`` (one of them).

    Raises:
        UsageError: no number, one outside 0 to 1, or a range without extent.
    """
    if isinstance(given, Ratio):
        return given
    text = str(given)
    kind: Literal["fixed", "uniform", "choice"] = "fixed"
    if "|" in text:
        kind = "choice"
    elif ".." in text:
        kind = "uniform"
    separator = _SEPARATORS[kind]
    words = text.split(separator) if kind == "choice" else text.partition(separator)[::2] if separator else [text]
    try:
        values = tuple(float(word) for word in words)
    except ValueError:
        raise UsageError(
            f"mask ratio {text!r} is not understood; write 0.75, a range 0.5..0.9 or a choice 0.6|0.75|0.9"
        ) from None
    return Ratio(kind, values)


def check_ratio(strategy: Strategy, grid: BlockGrid, ratio: Ratio) -> None:
    """Find out before training whether every ratio that may be drawn hides something, and not all.

    Raises:
        UsageError: what ``Strategy.hidden_count`` says about the first that does not.
    """
    for value in ratio.values:
        strategy.hidden_count(grid, value)
