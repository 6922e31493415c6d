"""AUROC and its interval. Lesions of one patient are not independent, so intervals resample patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import TrainingError


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve with a 95 % interval.

    Attributes:
        value: None where only one class is present.
        low, high: percentile bootstrap over patients; None where it cannot be had.
        lesions, positives, patients: what it was computed on.
    """

    value: float | None
    low: float | None
    high: float | None
    lesions: int
    positives: int
    patients: int

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return f"undefined ({self.positives} of {self.lesions} lesions positive)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Probability that a positive scores above a negative, ties counting half; None if a class is missing.

    Args:
        labels: (N,) 0 or 1.
        scores: (N,) any order-preserving score.

    Raises:
        TrainingError: a score is NaN.
    """
    from scipy.stats import rankdata

    truth, values = np.asarray(labels), np.asarray(scores, float)
    if np.isnan(values).any():
        raise TrainingError(f"{int(np.isnan(values).sum())} of {len(values)} scores are NaN; there is no AUROC of them")
    positives = int((truth == 1).sum())
    negatives = len(truth) - positives
    if positives == 0 or negatives == 0:
        return None
    ranks = rankdata(values)[truth == 1].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def auroc_interval(
    labels: Sequence[int],
    scores: Sequence[float],
    patients: Sequence[str],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Auroc:
    """AUROC with a 95 % percentile interval from ``samples`` bootstrap draws of patients.

    Draws without both classes are passed over; with fewer than half of them left there is no interval.
    """
    truth, values = np.asarray(labels), np.asarray(scores, float)
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    members = [np.flatnonzero(owner == index) for index in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        chosen = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        value = auroc(truth[chosen], values[chosen])
        if value is not None:
            drawn.append(value)
    enough = len(drawn) > samples / 2
    low, high = (float(v) for v in np.percentile(drawn, (2.5, 97.5))) if enough else (None, None)
    return Auroc(auroc(truth, values), low, high, len(truth), int(truth.sum()), len(names))
