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
        ManifestError: ``fold`` is given in some rows only, or is the same in all; a label is missing.
    """
    given = [row.fold for row in manifest.rows]
    known = [fold for fold in given if fold is not None]
    if len(known) == len(given):
        if len(set(known)) < 2:
            raise ManifestError(f"{manifest.path}: fold is {known[0]} in every row; at least 2 folds are needed")
        return known
    if known:
        row = manifest.rows[given.index(None)]
        raise ManifestError(f"{manifest.where(row)}: fold is empty; give it in every row or in none")
    for row in manifest.rows:
        if row.label is None:
            raise ManifestError(f"{manifest.where(row)}: label is empty; folds are balanced by it")
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
    if count < 2:
        raise UsageError(f"{count} folds were asked for; at least 2 are needed to estimate anything")
    counts = [len({row.patient_id for row in rows if row.label == label}) for label in (0, 1)]
    patients = min(counts)
    if patients < count:
        remedy = f"use --folds {patients} or fewer, or add patients" if patients > 1 else "add patients, 2 at least"
        raise UsageError(
            f"{count} folds were asked for, but only {patients} patients have a lesion of label "
            f"{counts.index(patients)}; {remedy}"
        )
