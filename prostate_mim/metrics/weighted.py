"""Rows with weights: one bootstrap draw is how often each row was drawn, so that many draws are one matrix.

Every metric of this package is written once, for a (draws, rows) matrix of weights; the plain value is that of one
draw with all weights 1. That makes thousands of draws a few array operations, without a call per draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prostate_mim.metrics.scored import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Ranked:
    """Rows and their order by score, found once for all draws.

    Attributes:
        labels: (N,) 0 or 1.
        scores: (N,) finite.
    """

    labels: IntArray
    scores: FloatArray

    @cached_property
    def order(self) -> IntArray:
        """(N,) rows by ascending score."""
        return np.argsort(self.scores, kind="stable")

    @cached_property
    def starts(self) -> IntArray:
        """(G,) where in ``order`` each group of equal scores begins."""
        ascending = self.scores[self.order]
        return np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))


@dataclass(frozen=True, eq=False)
class Weighted:
    """Rows with a weight for each draw.

    Attributes:
        rows: N rows.
        weights: (S, N) >= 0.
    """

    rows: Ranked
    weights: FloatArray

    @cached_property
    def total(self) -> FloatArray:
        """(S,) sum of all weights."""
        return np.asarray(self.weights.sum(1))

    @cached_property
    def positives(self) -> FloatArray:
        """(S, G) weight of label 1 at each distinct score, ascending."""
        return self._by_score(self.rows.labels)

    @cached_property
    def negatives(self) -> FloatArray:
        """(S, G) weight of label 0 at each distinct score, ascending."""
        return self._by_score(1 - self.rows.labels)

    @cached_property
    def curve(self) -> tuple[FloatArray, FloatArray]:
        """(S, G + 1) false positive rates and sensitivities, from calling nothing positive to calling everything so."""
        rates = []
        for counts in (self.negatives, self.positives):
            whole = counts.sum(1, keepdims=True)
            rising = share(np.cumsum(counts[:, ::-1], axis=1), np.broadcast_to(whole, counts.shape))
            rates.append(np.concatenate([np.zeros_like(whole), rising], axis=1))
        return rates[0], rates[1]

    @cached_property
    def nan_without_both(self) -> FloatArray:
        """(S,) 1 where a draw holds both classes, else NaN: what a metric that needs both is multiplied by."""
        present = (self.positives.sum(1) > 0) & (self.negatives.sum(1) > 0)
        return np.where(present, 1.0, np.nan)

    def _by_score(self, chosen: IntArray) -> FloatArray:
        ordered = (self.weights * chosen)[:, self.rows.order]
        return np.add.reduceat(ordered, self.rows.starts, axis=1)


Batched = Callable[[Weighted], FloatArray]
"""A metric of many draws at once: Weighted -> (S,), NaN where undefined."""


def share(part: FloatArray, whole: FloatArray) -> FloatArray:
    """``part / whole``, NaN where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, np.nan), np.float64)
