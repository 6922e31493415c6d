"""Out-of-fold predictions of a frozen probe: every row by a model that saw nobody of its fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.classifier import SIGNIFICANT
from prostate_mim.errors import UsageError
from prostate_mim.finetuning.config import FinetuneConfig
from prostate_mim.finetuning.linear import LinearProbe, fit_linear_probe
from prostate_mim.finetuning.subsets import labelled_subset

Array = npt.NDArray[np.float64]


def cross_fit(
    features: Array,
    labels: npt.NDArray[Any],
    patients: Sequence[str],
    folds: Sequence[int] | npt.NDArray[Any],
    *,
    fraction: float = 1.0,
    seed: int = 0,
    config: FinetuneConfig | None = None,
) -> Array:
    """(N,) probabilities. All decisions (standardisation, penalty, temperature) are made within the training rows.

    Args:
        features: (N, F) of a frozen encoder.
        labels: (N,) 0 or 1.
        patients: (N,) whose row it is.
        folds: (N,) outer folds.
        fraction: share of the training patients whose labels are used (``labelled_subset``).
        seed: of the share and of the inner folds.
        config: penalties, inner folds, class weighting, calibration and so on.

    Raises:
        UsageError: sizes differ, one fold only, a patient is in two folds, or a training part lacks a class.
    """
    parts = np.asarray(folds)
    if len(parts) != len(patients) or len(set(parts.tolist())) < 2:
        raise UsageError(f"{len(parts)} folds for {len(patients)} rows; every row needs one, and there must be two")
    owned = {(patient, int(fold)) for patient, fold in zip(patients, parts, strict=True)}
    if len(owned) > len({patient for patient, _ in owned}):
        raise UsageError("a patient is in two folds; give all rows of a patient one fold")
    probabilities = np.zeros(len(parts))
    for fold in sorted(set(parts.tolist())):
        rows = np.flatnonzero(parts != fold).tolist()
        training = labelled_subset(labels, patients, rows, fraction, seed)
        probe = fit_rows(features, labels, patients, training, config or FinetuneConfig(), seed)
        probabilities[parts == fold] = probe.probabilities(features[parts == fold])
    return probabilities


def fit_rows(
    features: Array,
    labels: npt.NDArray[Any],
    patients: Sequence[str],
    rows: Sequence[int],
    config: FinetuneConfig,
    seed: int,
) -> LinearProbe:
    """A probe fitted to some rows as the configuration says.

    Args:
        features: (N, F) of all rows.
        labels: (N,) of all rows; ISUP grades where that is the target.
        patients: (N,) whose row it is.
        rows: those that are fitted to. Of the others' labels one number is used, the same for every fold and row, so
            that it ranks nothing: the share of positives among all rows, which every fold's probe is brought to
            (``LinearProbe.at_prevalence``). Not where classes are weighted, as there all have one already; nor where
            the probe is the beginning of a training, which moves it anyway.
        config, seed: as ``cross_fit`` takes them.

    Raises:
        UsageError, TrainingError: as ``fit_linear_probe``.
    """
    ordinal = config.target == "isup"
    probe = fit_linear_probe(
        features[rows], np.asarray(labels)[rows], [patients[row] for row in rows], penalties=config.penalties,
        inner_folds=config.inner_folds, seed=seed, calibrate=config.calibrate, class_weight=config.class_weight,
        ordinal=ordinal,
    )  # fmt: skip
    positive = np.asarray(labels) >= (SIGNIFICANT if ordinal else 1)
    if config.class_weight or config.mode != "linear":
        return probe
    return probe.at_prevalence(float(positive.mean()))
