"""Paired comparison of two AUROCs without resampling (DeLong et al. 1988), for several lesions per patient too."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.metrics.scored import FloatArray, IntArray, Scored, checked


@dataclass(frozen=True)
class DeLong:
    """A difference of two AUROCs on the same rows.

    Attributes:
        difference: first minus second.
        standard_error: of the difference.
        p: two-sided, from the normal distribution; None where the standard error is 0 and the difference is not.
    """

    difference: float
    standard_error: float
    p: float | None


def delong(
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    patients: Sequence[Hashable] | None = None,
) -> DeLong:
    """Compare the AUROCs of two scores of the same rows.

    Without ``patients`` rows are taken as independent, which lesions of one patient are not: the standard error is
    then too small. With them, the components are summed within patients (Obuchowski 1997), who may have lesions of
    both labels; with one row per patient the two are equal. Midranks (Sun and Xu 2014) make it N log N.

    Args:
        labels: (N,) 0 or 1, both present.
        first, second: (N,) any order-preserving scores.
        patients: N names; rows with one name are one patient's.

    Raises:
        UsageError: lengths differ, or fewer than two rows (patients) of either label.
        TrainingError: a score is NaN.
    """
    areas, covariance = _areas(labels, [first, second], patients)
    difference = float(areas[0] - areas[1])
    # the variance is a sum of squares; rounding may leave it a little below 0
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(variance) if variance > 1e-18 else 0.0
    if error:
        return DeLong(difference, error, math.erfc(abs(difference) / error / math.sqrt(2)))
    return DeLong(difference, 0.0, 1.0 if abs(difference) < 1e-12 else None)


def auroc_standard_error(
    labels: npt.ArrayLike, scores: npt.ArrayLike, patients: Sequence[Hashable] | None = None
) -> float:
    """Standard error of one AUROC, from the same components and with the same arguments as ``delong``."""
    covariance = _areas(labels, [scores], patients)[1]
    return math.sqrt(max(0.0, float(covariance[0, 0])))


def _areas(
    labels: npt.ArrayLike, scores: Sequence[npt.ArrayLike], patients: Sequence[Hashable] | None
) -> tuple[FloatArray, FloatArray]:
    """(K,) areas and their (K, K) covariance."""
    truth, values = checked(labels, scores[0])
    owners = Scored(truth, values, tuple(range(len(truth)) if patients is None else patients)).owners
    positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    clusters = [len(np.unique(owners[rows])) for rows in (positive, negative)]
    if min(clusters) < 2:
        raise UsageError("a standard error of AUROC needs 2 patients of each label; there are too few")
    components = [_components(checked(labels, values)[1], positive, negative) for values in scores]
    areas = np.array([over.mean() for over, _ in components])
    # Deviations of each patient's sum from what its number of lesions would make it (Obuchowski 1997).
    over = np.stack([_sums(v - v.mean(), owners[positive], owners) for v, _ in components])
    under = np.stack([_sums(v - v.mean(), owners[negative], owners) for _, v in components])
    m, n, patients_all = len(positive), len(negative), int(owners.max()) + 1
    a, b = (count / (count - 1) for count in clusters)
    both = over @ under.T
    crossed = patients_all / (patients_all - 1) * (both + both.T) / (m * n)
    return areas, a * over @ over.T / m**2 + b * under @ under.T / n**2 + crossed


def _components(values: FloatArray, positive: IntArray, negative: IntArray) -> tuple[FloatArray, FloatArray]:
    """(m,) share of negatives below each positive and (n,) share of positives above each negative, ties half."""
    from scipy.stats import rankdata

    together = rankdata(np.concatenate([values[positive], values[negative]]))
    m, n = len(positive), len(negative)
    over = (together[:m] - rankdata(values[positive])) / n
    under = 1 - (together[m:] - rankdata(values[negative])) / m
    return over, under


def _sums(values: FloatArray, owners: IntArray, everyone: IntArray) -> FloatArray:
    """(P,) sum of each patient's values, 0 for those without."""
    return np.asarray(np.bincount(owners, values, minlength=int(everyone.max()) + 1), np.float64)
