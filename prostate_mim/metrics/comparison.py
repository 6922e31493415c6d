"""compare: the difference of two models on the same lesions, and the difference that could have been found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prostate_mim.errors import UsageError
from prostate_mim.metrics.bootstrap import as_batched, draw_weights, percentile_interval
from prostate_mim.metrics.delong import delong
from prostate_mim.metrics.scored import Estimate, FloatArray, Scored
from prostate_mim.metrics.table import Metric, defined
from prostate_mim.metrics.weighted import Ranked, Weighted

_ERRORS_DETECTABLE = 1.959964 + 0.841621
"""In standard errors of the difference: normal quantiles of a two-sided 5 % test and of 80 % power."""


@dataclass(frozen=True)
class Comparison:
    """First minus second, on the same rows.

    Attributes:
        metric: what was compared.
        difference: with the 95 % interval of the paired bootstrap over patients.
        p_delong: DeLong's test, clustered by patient (Obuchowski 1997); None for other metrics than AUROC, and where
            it has no standard error.
        p_bootstrap: two-sided, twice the smaller share of draws on one side of 0; never below 1 / (draws + 1).
        detectable: smallest true difference that a study of these patients would find with 80 % power in a two-sided
            test at 5 %: 2.80 standard errors of the paired bootstrap. A smaller observed difference that is "not
            significant" says little.
        rows, patients: what it rests on.
    """

    metric: str
    difference: Estimate
    p_delong: float | None
    p_bootstrap: float | None
    detectable: float | None
    rows: int
    patients: int

    def __str__(self) -> str:
        tests = [("DeLong p", self.p_delong), ("bootstrap p", self.p_bootstrap), ("detectable", self.detectable)]
        return ", ".join([str(self.difference), *(f"{name} {value:.3f}" for name, value in tests if value is not None)])

    def to_dict(self) -> dict[str, float | int | str | None]:
        """One flat row: metric, difference, low, high, the p-values, detectable, rows, patients."""
        return {
            "metric": self.metric,
            "difference": self.difference.value,
            "low": self.difference.low,
            "high": self.difference.high,
            "p_delong": self.p_delong,
            "p_bootstrap": self.p_bootstrap,
            "detectable": self.detectable,
            "rows": self.rows,
            "patients": self.patients,
        }


def compare(
    first: Scored,
    second: Scored,
    *,
    metric: str | Metric = "auroc",
    samples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Paired comparison of two models that scored the same lesions.

    Args:
        first, second: the same rows in the same order; the difference is first minus second.
        metric: a name in ``METRICS``, or a function of (labels, probabilities).
        samples: draws of patients, the same for both.
        seed: of the draws.

    Raises:
        UsageError: rows, labels or patients differ, or an unknown metric.
    """
    if not np.array_equal(first.labels, second.labels) or not np.array_equal(first.owners, second.owners):
        raise UsageError("the two models were not scored on the same rows in the same order; pair them by row first")
    measure = as_batched(metric)
    rows = [Ranked(scored.labels, scored.probabilities) for scored in (first, second)]

    def differences(weights: FloatArray) -> FloatArray:
        return measure(Weighted(rows[0], weights)) - measure(Weighted(rows[1], weights))

    value = defined(differences(np.ones((1, len(first))))[0])
    drawn = np.concatenate([differences(weights) for weights in draw_weights(first.owners, samples, seed)])
    patients = first.patient_count
    low, high = percentile_interval(drawn, patients) if value is not None else (None, None)
    known = drawn[~np.isnan(drawn)]
    usable = low is not None and len(known) > 1
    return Comparison(
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", "metric"),
        difference=Estimate(value, low, high),
        p_delong=_delong(first, second) if metric == "auroc" and value is not None else None,
        p_bootstrap=_two_sided(known) if usable else None,
        detectable=_ERRORS_DETECTABLE * float(known.std(ddof=1)) if usable else None,
        rows=len(first),
        patients=patients,
    )


def _two_sided(differences: FloatArray) -> float:
    """Draws that are exactly 0 count to both sides; the observed sample counts as one more draw."""
    ends = min(int((differences <= 0).sum()), int((differences >= 0).sum())) + 1
    return min(1.0, 2 * ends / (len(differences) + 1))


def _delong(first: Scored, second: Scored) -> float | None:
    owners = first.owners
    if min(len(np.unique(owners[first.labels == label])) for label in (0, 1)) < 2:
        return None
    return delong(first.labels, first.probabilities, second.probabilities, tuple(owners.tolist())).p
