"""METRICS: the table of metrics by name, each a function of labels and probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.metrics.calibration import brier_of, ece_of, intercept_of, slope_of
from prostate_mim.metrics.ranking import auroc_of, average_precision_of, sensitivity_at, specificity_at
from prostate_mim.metrics.scored import FloatArray, IntArray, checked
from prostate_mim.metrics.weighted import Batched, Ranked, Weighted

Metric = Callable[[IntArray, FloatArray], float | None]
"""(labels (N,), probabilities (N,)) -> value; None where it is undefined. What ``interval`` and ``compare`` take."""
CheckedMetric = Callable[[npt.ArrayLike, npt.ArrayLike], float | None]
"""The same for lists too, checked: what ``METRICS`` holds."""

BATCHED: Mapping[str, Batched] = {
    "auroc": auroc_of,
    "average_precision": average_precision_of,
    "brier": brier_of,
    "ece": ece_of,
    "calibration_slope": slope_of,
    "calibration_intercept": intercept_of,
    "sensitivity_at_specificity_80": sensitivity_at(0.80),
    "sensitivity_at_specificity_90": sensitivity_at(0.90),
    "sensitivity_at_specificity_95": sensitivity_at(0.95),
    "specificity_at_sensitivity_80": specificity_at(0.80),
    "specificity_at_sensitivity_90": specificity_at(0.90),
    "specificity_at_sensitivity_95": specificity_at(0.95),
}


def defined(value: float | np.float64) -> float | None:
    """A number, or None for NaN."""
    return None if np.isnan(value) else float(value)


def _plain(name: str, batched: Batched) -> CheckedMetric:
    def metric(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float | None:
        truth, values = checked(labels, probabilities)
        if not len(truth):
            return None
        return defined(batched(Weighted(Ranked(truth, values), np.ones((1, len(truth)))))[0])

    metric.__name__ = metric.__qualname__ = name
    metric.__doc__ = batched.__doc__
    return metric


METRICS: Mapping[str, CheckedMetric] = {name: _plain(name, batched) for name, batched in BATCHED.items()}


def find_metric(name: str) -> Batched:
    """The batched form of a metric.

    Raises:
        UsageError: no metric has this name.
    """
    if name not in BATCHED:
        raise UsageError(f"metric {name!r} is unknown; choose one of {', '.join(BATCHED)}")
    return BATCHED[name]


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Probability that a positive scores above a negative, ties counting half; None if a class is missing.

    Args:
        labels: (N,) 0 or 1.
        scores: (N,) any order-preserving score.

    Raises:
        TrainingError: a score is NaN.
    """
    return METRICS["auroc"](labels, scores)
