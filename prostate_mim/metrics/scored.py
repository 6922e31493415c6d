"""What metrics are computed on: labels and probabilities of lesions, and whose lesions they are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import TrainingError, UsageError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

AGGREGATIONS = ("max", "noisy-or")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: None where the metric is undefined, such as AUROC with one class.
        low, high: ends of the interval; None where it cannot be had.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, float | None]:
        """``value``, ``low`` and ``high``, as JSON takes them."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, eq=False)
class Scored:
    """Predictions of one model; a row is a lesion or a study.

    Attributes:
        labels: (N,) 0 or 1.
        probabilities: (N,) of label 1. Metrics of rank take any score; those of calibration want 0 to 1.
        patients: N hashable names; rows with one name are one patient's. They are compared, never written out.
        zones: N names such as "PZ", "" where unknown; or empty.
        centres: N names of hospitals or scanners, "" where unknown; or empty.

    Raises:
        UsageError: no rows, another label than 0 and 1, or lengths that differ.
        TrainingError: a probability is NaN.
    """

    labels: IntArray
    probabilities: FloatArray
    patients: tuple[Hashable, ...]
    zones: tuple[str, ...] = ()
    centres: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels, probabilities = checked(self.labels, self.probabilities)
        if not len(labels):
            raise UsageError("there are no predictions to evaluate; give at least one row")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "probabilities", probabilities)
        for name in ("patients", "zones", "centres"):
            given = tuple(getattr(self, name))
            if len(given) != len(labels) and (given or name == "patients"):
                raise UsageError(f"{name} has {len(given)} entries for {len(labels)} predictions; give one for each")
            object.__setattr__(self, name, given)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def owners(self) -> IntArray:
        """(N,) running number of each row's patient, 0 for the first that appears: names do not matter, order does."""
        numbers: dict[Hashable, int] = {}
        return np.array([numbers.setdefault(name, len(numbers)) for name in self.patients], np.int64)

    @property
    def patient_count(self) -> int:
        """How many patients the rows are of."""
        return len(set(self.patients))

    def where(self, keep: npt.ArrayLike) -> Scored:
        """The rows marked in a (N,) array of booleans.

        Raises:
            UsageError: another length, or no row is left.
        """
        kept = np.asarray(keep, bool)
        if kept.shape != self.labels.shape:
            raise UsageError(f"the choice of rows has shape {kept.shape}, the predictions {self.labels.shape}")
        rows = [int(row) for row in np.flatnonzero(kept)]
        return Scored(
            self.labels[kept],
            self.probabilities[kept],
            tuple(self.patients[row] for row in rows),
            tuple(self.zones[row] for row in rows) if self.zones else (),
            tuple(self.centres[row] for row in rows) if self.centres else (),
        )

    def per_patient(self, how: str = "max") -> Scored:
        """One row per patient, in the order in which they appear.

        Args:
            how: ``max``, the highest probability of a patient's lesions; or ``noisy-or``, 1 - product of (1 - p), the
                probability that at least one is positive if lesions were independent (higher with every lesion).

        Returns:
            label 1 where any lesion is 1; a zone or a centre only where a patient's rows agree on it, else "".

        Raises:
            UsageError: another ``how``, or probabilities outside 0 to 1 for ``noisy-or``.
        """
        if how not in AGGREGATIONS:
            raise UsageError(f"aggregation {how!r} is unknown; choose {' or '.join(AGGREGATIONS)}")
        owners = self.owners
        count = self.patient_count
        labels = np.zeros(count, np.int64)
        np.maximum.at(labels, owners, self.labels)
        if how == "max":
            together = np.full(count, -np.inf)
            np.maximum.at(together, owners, self.probabilities)
        else:
            spared = np.ones(count)
            np.multiply.at(spared, owners, 1 - require_probabilities(self.probabilities))
            together = 1 - spared
        first = np.unique(owners, return_index=True)[1]
        names = tuple(self.patients[int(row)] for row in first)
        return Scored(labels, together, names, _common(self.zones, owners), _common(self.centres, owners))


def _common(values: Sequence[str], owners: IntArray) -> tuple[str, ...]:
    """The value that all rows of an owner share, else an empty string."""
    found: dict[int, set[str]] = {}
    for value, owner in zip(values, owners.tolist(), strict=False):
        found.setdefault(owner, set()).add(value)
    return tuple(next(iter(found[owner])) if len(found[owner]) == 1 else "" for owner in sorted(found))


def checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[IntArray, FloatArray]:
    """Labels and scores as (N,) arrays that metrics can rely on.

    Raises:
        UsageError: another label than 0 and 1, or lengths that differ.
        TrainingError: a score is NaN.
    """
    truth, values = np.asarray(labels), np.asarray(scores, np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise UsageError(f"labels have shape {truth.shape} and scores {values.shape}; give one score for each label")
    if np.isnan(values).any():
        raise TrainingError(f"{int(np.isnan(values).sum())} of {len(values)} scores are NaN; no metric can rank them")
    if len(truth) and not np.isin(truth, (0, 1)).all():
        raise UsageError("a label is neither 0 nor 1; say which grades count as positive first")
    return truth.astype(np.int64), values


def require_probabilities(values: FloatArray) -> FloatArray:
    """The values, if they lie within 0 to 1.

    Raises:
        UsageError: one does not.
    """
    outside = int(((values < 0) | (values > 1)).sum())
    if outside:
        raise UsageError(f"{outside} of {len(values)} values lie outside 0 to 1; calibration needs probabilities")
    return values
