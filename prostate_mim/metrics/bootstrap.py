"""95 % percentile intervals from draws of patients: lesions of one patient are not independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.metrics.scored import Estimate, FloatArray, IntArray, Scored, checked
from prostate_mim.metrics.table import Metric, defined, find_metric
from prostate_mim.metrics.weighted import Batched, Ranked, Weighted

PERCENTILES = (2.5, 97.5)
_ELEMENTS = 100_000
"""Draws times rows that are held at once: 0.8 MB, so that a metric's passes over them stay in the cache."""
_FEW = 10  # patients, or rows of a class, below which an interval without width is no sign of certainty


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve with a 95 % interval.

    As text, an interval without width is not shown where a class is small: every draw of few patients ranks them alike,
    which says nothing of other patients.

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
        if self.value is None:
            return f"undefined ({self.positives} of {self.lesions} lesions positive)"
        few = min(self.patients, self.positives, self.lesions - self.positives) < _FEW
        if self.low is None or self.high is None or (self.low == self.high and few):
            return f"{self.value:.3f} (too few patients for an interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, eq=False)
class RocBand:
    """An ROC curve with a 95 % band, pointwise: at each false positive rate by itself, not for the curve as a whole.

    Attributes:
        false_positive_rate: (P,) from 0 to 1.
        sensitivity: (P,) of all rows.
        low, high: (P,) percentiles over draws of patients.
    """

    false_positive_rate: FloatArray
    sensitivity: FloatArray
    low: FloatArray
    high: FloatArray


def draw_weights(owners: IntArray, samples: int, seed: int) -> Iterator[FloatArray]:
    """How often each row is in each draw of as many patients as there are, with replacement.

    Args:
        owners: (N,) patient of each row, 0 to P - 1.
        samples: how many draws.
        seed: of the draws; one seed and one P give the same patients, whatever is computed on them.

    Yields:
        (S, N) counts, S draws at a time.

    Raises:
        UsageError: no draws.
    """
    if samples < 1:
        raise UsageError(f"{samples} bootstrap samples give no interval; use 1000 or more")
    rng = np.random.default_rng(seed)
    patients = int(owners.max()) + 1
    at_once = max(1, _ELEMENTS // max(len(owners), patients))
    for start in range(0, samples, at_once):
        size = min(at_once, samples - start)
        drawn = rng.integers(0, patients, (size, patients)) + np.arange(size)[:, None] * patients
        counts = np.bincount(drawn.ravel(), minlength=size * patients).reshape(size, patients)
        yield counts.astype(np.float64)[:, owners]


def as_batched(metric: str | Metric) -> Batched:
    """A metric by name, or any function of labels and probabilities, called once for each draw: slower.

    Raises:
        UsageError: no metric has this name.
    """
    if isinstance(metric, str):
        return find_metric(metric)

    def each(drawn: Weighted) -> FloatArray:
        values = []
        for weights in drawn.weights:
            rows = np.repeat(np.arange(len(weights)), weights.astype(np.int64))
            value = metric(drawn.rows.labels[rows], drawn.rows.scores[rows])
            values.append(np.nan if value is None else value)
        return np.array(values, np.float64)

    return each


def bootstrap(
    labels: IntArray, scores: FloatArray, owners: IntArray, metrics: Sequence[Batched], samples: int, seed: int
) -> FloatArray:
    """(M, S) values of M metrics on the same draws of patients; NaN where undefined."""
    rows = Ranked(labels, scores)
    parts = []
    for weights in draw_weights(owners, samples, seed):
        drawn = Weighted(rows, weights)
        parts.append(np.stack([metric(drawn) for metric in metrics]))
    return np.concatenate(parts, axis=1)


def percentile_interval(values: FloatArray, patients: int) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval of (S,) draws, undefined ones passed over.

    None with fewer than half of them defined, or with one patient, whom every draw repeats.
    """
    known = values[~np.isnan(values)]
    if patients < 2 or len(known) <= len(values) / 2:
        return None, None
    low, high = np.percentile(known, PERCENTILES)
    return float(low), float(high)


def intervals(scored: Scored, metrics: Sequence[str | Metric], samples: int, seed: int) -> list[Estimate]:
    """One estimate for each metric, all from the same draws."""
    batched = [as_batched(metric) for metric in metrics]
    owners = scored.owners
    whole = Weighted(Ranked(scored.labels, scored.probabilities), np.ones((1, len(scored))))
    drawn = bootstrap(scored.labels, scored.probabilities, owners, batched, samples, seed)
    found = []
    for metric, values in zip(batched, drawn, strict=True):
        value = defined(metric(whole)[0])
        low, high = percentile_interval(values, scored.patient_count) if value is not None else (None, None)
        found.append(Estimate(value, low, high))
    return found


def interval(
    scored: Scored,
    metric: str | Metric,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A metric with its 95 % percentile bootstrap interval over patients.

    A draw in which the metric is undefined (AUROC of one class) is passed over; with fewer than half of them left
    there is no interval. ECE is never negative, so that noise adds to it: in small samples its draws lie above its
    value, and the interval can miss the value itself.

    Args:
        scored: the predictions.
        metric: a name in ``METRICS``, or a function of (labels, probabilities), called once for each draw.
        samples: draws.
        seed: of the draws.

    Raises:
        UsageError: an unknown metric, or probabilities outside 0 to 1 where it needs them.
    """
    return intervals(scored, [metric], samples, seed)[0]


def roc_band(scored: Scored, grid: int = 101, *, samples: int = 2000, seed: int = 0) -> RocBand:
    """The ROC curve on an even grid of false positive rates, with the spread of its sensitivity over draws of patients.

    Args:
        scored: the predictions, both classes among them.
        grid: how many false positive rates from 0 to 1.
        samples: draws; those with one class only are passed over.
        seed: of the draws.

    Raises:
        UsageError: a class is missing, or fewer than 2 points.
    """
    if grid < 2 or len(np.unique(scored.labels)) < 2:
        raise UsageError("an ROC curve needs both labels, and a grid of 2 points or more")
    rates = np.linspace(0, 1, grid)
    rows = Ranked(scored.labels, scored.probabilities)
    curves = [_sensitivities(Weighted(rows, weights), rates) for weights in draw_weights(scored.owners, samples, seed)]
    known = np.concatenate(curves)
    known = known[~np.isnan(known).any(1)]
    if not len(known):
        raise UsageError("no draw of patients holds both labels; there is no band")
    whole = _sensitivities(Weighted(rows, np.ones((1, len(scored)))), rates)[0]
    low, high = np.percentile(known, PERCENTILES, axis=0)
    return RocBand(rates, whole, low, high)


def _sensitivities(drawn: Weighted, rates: FloatArray) -> FloatArray:
    """(S, P) sensitivity at each rate; at a vertical step, its upper end."""
    false, true = drawn.curve
    return np.stack([np.interp(rates + 1e-12, x, y) for x, y in zip(false, true, strict=True)])


def auroc_interval(
    labels: Sequence[int] | npt.NDArray[np.int64],
    scores: Sequence[float] | FloatArray,
    patients: Sequence[str],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Auroc:
    """AUROC with a 95 % percentile interval from ``samples`` bootstrap draws of patients, and the counts behind it.

    Draws without both classes are passed over; with fewer than half of them left there is no interval. Patients are
    numbered by the order of their names, so that the order of rows does not matter.
    """
    truth, values = checked(labels, scores)
    names, owners = np.unique(np.asarray(patients), return_inverse=True)
    area = find_metric("auroc")
    drawn = bootstrap(truth, values, owners.astype(np.int64), [area], samples, seed)[0]
    value = defined(area(Weighted(Ranked(truth, values), np.ones((1, len(truth)))))[0])
    low, high = percentile_interval(drawn, len(names))
    return Auroc(value, low, high, len(truth), int(truth.sum()), len(names))
