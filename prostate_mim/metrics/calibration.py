"""Whether probabilities mean what they say: Brier, ECE, calibration slope and intercept, bins, decision curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.metrics.logistic import fit_intercept, fit_line
from prostate_mim.metrics.scored import FloatArray, IntArray, checked, require_probabilities
from prostate_mim.metrics.weighted import Weighted, share

BINS = 10
CLIP = 1e-6
"""Logits of probabilities nearer to 0 or 1 are those of this one: 0 and 1 have none."""


@dataclass(frozen=True, eq=False)
class Bins:
    """A reliability diagram.

    Attributes:
        predicted: (B,) mean probability of each bin, NaN in an empty one.
        observed: (B,) share of label 1, NaN in an empty one.
        counts: (B,) rows.
    """

    predicted: FloatArray
    observed: FloatArray
    counts: IntArray


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit over thresholds (Vickers and Elkin 2006); treating nobody has 0.

    Attributes:
        thresholds: (T,) probability from which on a biopsy is taken.
        net_benefit: (T,) true positives minus false positives times t / (1 - t), per row.
        treat_all: (T,) the same for calling everything positive.
    """

    thresholds: FloatArray
    net_benefit: FloatArray
    treat_all: FloatArray


def brier_of(drawn: Weighted) -> FloatArray:
    """(S,) mean squared difference of probability and label."""
    wrong = (require_probabilities(drawn.rows.scores) - drawn.rows.labels) ** 2
    return share(drawn.weights @ wrong, drawn.total)


def ece_of(drawn: Weighted, bins: int = BINS) -> FloatArray:
    """(S,) expected calibration error: mean over rows of their bin's |observed - predicted|.

    Bins are of equal width and closed above, ((b - 1) / B, b / B], as in Guo et al. 2017; the probability is that of
    label 1, not of the likelier label.
    """
    excess = require_probabilities(drawn.rows.scores) - drawn.rows.labels
    gaps = np.stack([drawn.weights[:, chosen] @ excess[chosen] for chosen in _members(drawn.rows.scores, bins)], 1)
    return share(np.abs(gaps).sum(1), drawn.total)


def slope_of(drawn: Weighted) -> FloatArray:
    """(S,) b of logit P(y = 1) = a + b logit(p); below 1, probabilities are too extreme (Cox 1958).

    NaN where no finite b is best: one class, one probability, or classes that a threshold separates.
    """
    return fit_line(logits(drawn.rows.scores), drawn.rows.labels, drawn.weights)[1]


def intercept_of(drawn: Weighted) -> FloatArray:
    """(S,) a of logit P(y = 1) = a + logit(p), the slope held at 1: calibration in the large.

    Above 0, probabilities are too low on the whole. NaN where a class is missing.
    """
    return fit_intercept(logits(drawn.rows.scores), drawn.rows.labels, drawn.weights)


def logits(probabilities: FloatArray) -> FloatArray:
    """log(p / (1 - p)) of (N,) probabilities, p held within ``CLIP`` of 0 and 1."""
    inside = np.clip(require_probabilities(probabilities), CLIP, 1 - CLIP)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _members(probabilities: FloatArray, bins: int) -> list[IntArray]:
    """Rows of each bin. Edges are b / bins in floating point, so that 0.7 is the upper edge of the seventh of ten."""
    edges = np.arange(1, bins) / bins
    place = np.searchsorted(edges, probabilities, side="left")
    return [np.flatnonzero(place == index) for index in range(bins)]


def reliability_bins(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = BINS) -> Bins:
    """Mean probability and share of positives in bins of equal width, those that ``ece`` uses.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) 0 to 1.
        bins: how many.

    Raises:
        UsageError: probabilities outside 0 to 1, or no bin.
    """
    truth, values = checked(labels, probabilities)
    require_probabilities(values)
    if bins < 1:
        raise UsageError(f"{bins} bins cannot be filled; use 1 or more")
    chosen = _members(values, bins)
    counts = np.array([len(rows) for rows in chosen], np.int64)
    predicted = share(np.array([values[rows].sum() for rows in chosen]), counts.astype(float))
    observed = share(np.array([float(truth[rows].sum()) for rows in chosen]), counts.astype(float))
    return Bins(predicted, observed, counts)


def decision_curve(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, thresholds: Sequence[float] | FloatArray
) -> DecisionCurve:
    """Net benefit of calling a row positive from a probability of t on (p >= t), for every t.

    Args:
        labels: (N,) 0 or 1; N > 0.
        probabilities: (N,) 0 to 1.
        thresholds: (T,) from 0 up to, not including, 1.

    Raises:
        UsageError: no rows, or a probability or threshold outside its range.
    """
    truth, values = checked(labels, probabilities)
    require_probabilities(values)
    cuts = np.asarray(thresholds, np.float64)
    if cuts.ndim != 1 or not ((cuts >= 0) & (cuts < 1)).all():
        raise UsageError("a threshold of the decision curve is below 0, or 1 and above; use probabilities below 1")
    if not len(truth):
        raise UsageError("there are no predictions for a decision curve; give at least one row")
    odds = cuts / (1 - cuts)
    called = values[None, :] >= cuts[:, None]
    true, false = (called & (truth == 1)).mean(1), (called & (truth == 0)).mean(1)
    share_positive = truth.mean()
    return DecisionCurve(cuts, true - false * odds, share_positive - (1 - share_positive) * odds)
