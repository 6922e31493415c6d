"""Patient-grouped, label-stratified folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.manifest import Manifest, ManifestRow


def assign_folds(manifest: Manifest, count: int, seed: int) -> list[int]:
    """A fold for every row; all rows of a patient share it. The manifest's own ``fold`` column wins.

    Raises:
        UsageError: more folds than patients, or than patients of the rarer label.
        ManifestError: ``fold`` is given in some rows only.
    """
    given = [row.fold for row in manifest.rows]
    known = [fold for fold in given if fold is not None]
    if len(known) == len(given):
        return known
    if known:
        row = manifest.rows[given.index(None)]
        raise ManifestError(f"{manifest.where(row)}: fold is empty; give it in every row or in none")
    _check_count(manifest.rows, count)
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.asarray([row.label for row in manifest.rows])
    patients = np.asarray([row.patient_id for row in manifest.rows])
    folds = np.zeros(len(labels), int)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for index, (_, held_out) in enumerate(splitter.split(labels, labels, patients)):
        folds[held_out] = index
    return [int(fold) for fold in folds]


def _check_count(rows: Sequence[ManifestRow], count: int) -> None:
    for label in (0, 1):
        patients = len({row.patient_id for row in rows if row.label == label})
        if patients < max(2, count):
            raise UsageError(
                f"{count} folds were asked for, but only {patients} patients have a lesion of label {label}; "
                f"use --folds {max(2, patients)} or fewer, or add patients"
            )
    if count < 2:
        raise UsageError(f"{count} folds were asked for; at least 2 are needed to estimate anything")
