"""Metrics of rank: AUROC, average precision, sensitivity at a specificity and the reverse, and the ROC curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prostate_mim.metrics.scored import FloatArray, checked
from prostate_mim.metrics.weighted import Batched, Ranked, Weighted, share

_ROUNDING = 1e-9
"""Rates are quotients of sums; a specificity of 18/20 must count as 90 %."""


def auroc_of(drawn: Weighted) -> FloatArray:
    """(S,) probability that a positive scores above a negative, ties counting half."""
    positives, negatives = drawn.positives, drawn.negatives
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(1) * negatives.sum(1)
    return share((positives * below).sum(1), pairs)


def average_precision_of(drawn: Weighted) -> FloatArray:
    """(S,) sum over thresholds of precision times the gain in recall: the step function, nothing interpolated."""
    positives, negatives = drawn.positives[:, ::-1], drawn.negatives[:, ::-1]
    found = np.cumsum(positives, axis=1)
    called = found + np.cumsum(negatives, axis=1)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return share((positives * precision).sum(1), positives.sum(1))


def sensitivity_at(specificity: float) -> Batched:
    """The best sensitivity among the thresholds whose specificity is at least this one."""

    def measured(drawn: Weighted) -> FloatArray:
        false, true = drawn.curve
        allowed = false <= 1 - specificity + _ROUNDING
        return np.asarray(np.where(allowed, true, 0.0).max(1) * drawn.nan_without_both)

    return measured


def specificity_at(sensitivity: float) -> Batched:
    """The best specificity among the thresholds whose sensitivity is at least this one."""

    def measured(drawn: Weighted) -> FloatArray:
        false, true = drawn.curve
        allowed = true >= sensitivity - _ROUNDING
        return np.asarray((1 - np.where(allowed, false, 1.0).min(1)) * drawn.nan_without_both)

    return measured


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The ROC curve with a point for every distinct score.

    Args:
        labels: (N,) 0 or 1, both present.
        scores: (N,) any order-preserving score.

    Returns:
        (G + 1,) false positive rates, ascending from 0 to 1, and (G + 1,) sensitivities. Straight lines between the
        points have the area ``auroc``: equal scores of both classes make a sloping line. NaN where a class is missing.
    """
    truth, values = checked(labels, scores)
    false, true = Weighted(Ranked(truth, values), np.ones((1, len(truth)))).curve
    return false[0], true[0]
