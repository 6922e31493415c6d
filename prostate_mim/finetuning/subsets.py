"""Which patients: a labelled share of them, and inner folds among those that are left to train on.

A patient's class is positive if any of its rows is. Patients of a class are taken in the order of a hash of seed and
name, so that neither the order of the rows nor other patients decide who is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError

FEWEST = 2  # patients of each class that a share of them keeps


def labelled_subset(
    labels: Sequence[int] | npt.NDArray[Any],
    patients: Sequence[str],
    rows: Sequence[int],
    fraction: float,
    seed: int,
) -> list[int]:
    """The rows of a share of the patients, stratified by class; a smaller share lies within every larger one.

    Args:
        labels: (N,) 0 or 1 of all rows.
        patients: (N,) whose row it is.
        rows: places in ``labels`` to choose among, such as the training rows of one fold.
        fraction: share of the patients of each class, above 0 and at most 1; at least two of each, if there are two.
        seed: of the order in which patients are taken.

    Returns:
        Chosen places, in the order of ``rows``.

    Raises:
        UsageError: an impossible fraction, or a share whose rows have one label.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"fraction is {fraction}; it must be above 0 and at most 1, for example 0.1")
    if fraction == 1:
        return list(rows)
    chosen: set[str] = set()
    for members in _by_class(labels, patients, rows, seed):
        chosen.update(members[: max(FEWEST, round(fraction * len(members)))])
    taken = [row for row in rows if patients[row] in chosen]
    if len({int(labels[row]) for row in taken}) < 2:
        raise UsageError(
            f"a labelled share of {fraction} of {len(set(chosen))} patients has one label only; use a larger fraction, "
            "fewer folds, or more patients"
        )
    return taken


def inner_folds(
    labels: Sequence[int] | npt.NDArray[Any], patients: Sequence[str], count: int, seed: int
) -> npt.NDArray[np.int64]:
    """(N,) fold of every row: whole patients, balanced by class; fewer folds where a class has fewer patients.

    Args:
        labels: (N,) 0 or 1.
        patients: (N,) whose row it is.
        count: folds wanted.
        seed: of the order in which patients are placed.

    Returns:
        Folds from 0. All 0 (there is one fold, so nothing can be held out) where without one fold or the other a label
        would be missing.
    """
    truth = np.asarray(labels)
    classes = _by_class(labels, patients, range(len(patients)), seed)
    # The rarer class first, the other going on where it ended: sizes differ by one patient at most.
    ordered = [patient for members in sorted(classes, key=len) for patient in members]
    most = min(count, max(2, min(len(members) for members in classes)))
    for folds in range(most, 1, -1):
        place = {patient: number % folds for number, patient in enumerate(ordered)}
        made = np.asarray([place[patient] for patient in patients], np.int64)
        if all(len(set(truth[made != fold].tolist())) == 2 for fold in range(folds)):
            return made
    return np.zeros(len(patients), np.int64)


def _by_class(
    labels: Sequence[int] | npt.NDArray[Any], patients: Sequence[str], rows: Sequence[int], seed: int
) -> tuple[list[str], list[str]]:
    """Patients of label 0 and of label 1, each in the order in which they are taken."""
    truth: dict[str, int] = {}
    for row in rows:
        truth[patients[row]] = max(truth.get(patients[row], 0), int(labels[row]))
    ordered = sorted(truth, key=lambda patient: hashlib.sha256(f"{seed}\0{patient}".encode()).digest())
    return [p for p in ordered if truth[p] == 0], [p for p in ordered if truth[p] == 1]
