"""Folds divide patients, never a patient."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.folds import assign_folds, leave_out_fold, recorded_folds
from prostate_mim.manifest import Manifest, ManifestRow


def manifest(patients: list[list[int]], order: list[int] | None = None) -> Manifest:
    """One study per patient, one row per label in its list; rows in another order if given."""
    pairs = [(p, n, label) for p, labels in enumerate(patients) for n, label in enumerate(labels)]
    rows = [ManifestRow(i, f"s{p}", f"p{p}", Path("x.nii"), str(n), label) for i, (p, n, label) in enumerate(pairs, 1)]
    return Manifest(Path("list.csv"), tuple(rows[i] for i in order) if order else tuple(rows))


COHORTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=4, max_size=25)


@settings(max_examples=300, deadline=None)
@given(COHORTS, st.integers(2, 5), st.integers(0, 99), st.randoms(use_true_random=False))
def test_folds_are_a_partition_of_patients(patients, count, seed, shuffler):
    """Every row has one fold, a patient's rows the same, no fold is empty; row order and file names do not matter."""
    assume(all(sum(label in labels for labels in patients) >= count for label in (0, 1)))
    listed = manifest(patients)
    folds = assign_folds(listed, count, seed)
    assert len(folds) == len(listed.rows)
    assert set(folds) == set(range(count))
    owner = {row.patient_id: fold for row, fold in zip(listed.rows, folds, strict=True)}
    assert [owner[row.patient_id] for row in listed.rows] == folds
    order = list(range(len(listed.rows)))
    shuffler.shuffle(order)
    renamed = [dataclasses.replace(row, t2w=Path(f"{row.number}.mha")) for row in manifest(patients, order).rows]
    assert assign_folds(Manifest(Path("b.csv"), tuple(renamed)), count, seed) == [folds[i] for i in order]


def test_folds_depend_on_the_seed_and_balance_labels():
    """40 patients in 4 folds: 5 positive patients in each, whatever the seed, but not the same ones."""
    listed = manifest([[p % 2] for p in range(40)])
    found = [assign_folds(listed, 4, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    for folds in found:
        positives = [fold for fold, row in zip(folds, listed.rows, strict=True) if row.label]
        assert np.bincount(positives).tolist() == [5] * 4


def test_the_fold_column_wins():
    """Folds given in the manifest are used as they are, whatever count and seed say."""
    rows = manifest([[0], [1], [0], [1]]).rows
    given_folds = [7, 3, 3, 7]
    listed = Manifest(
        Path("a.csv"), tuple(dataclasses.replace(r, fold=f) for r, f in zip(rows, given_folds, strict=True))
    )
    assert assign_folds(listed, 5, 0) == given_folds


@pytest.mark.parametrize(("folds", "words"), [([0, 0, None, 1], "row 3: fold is empty"), ([2] * 4, "fold is 2 in")])
def test_half_a_fold_column_is_refused(folds, words):
    """Folds in some rows only, or one fold for all (nothing to train on), are refused."""
    rows = manifest([[0], [1], [0], [1]]).rows
    listed = Manifest(Path("a.csv"), tuple(dataclasses.replace(r, fold=f) for r, f in zip(rows, folds, strict=True)))
    with pytest.raises(ManifestError, match=words):
        assign_folds(listed, 2, 0)


def test_a_row_without_label_is_refused():
    """Folds are balanced by label, so a row without one is refused by its number."""
    rows = manifest([[0], [1], [0], [1], [0]]).rows
    listed = Manifest(Path("a.csv"), (*rows[:4], dataclasses.replace(rows[4], label=None)))
    with pytest.raises(ManifestError, match="row 5: label is empty"):
        assign_folds(listed, 2, 0)


def test_too_few_patients_says_what_would_work():
    """5 folds of 3 positive patients are refused with --folds 3, and 3 folds then work."""
    listed = manifest([[0]] * 9 + [[1]] * 3)
    with pytest.raises(UsageError, match="only 3 patients have a lesion of label 1; use --folds 3 or fewer"):
        assign_folds(listed, 5, 0)
    assert set(assign_folds(listed, 3, 0)) == {0, 1, 2}
    with pytest.raises(UsageError, match="only 2 patients have a lesion of label 0; use --folds 2 or fewer"):
        assign_folds(manifest([[0]] * 2 + [[1]] * 3), 5, 0)  # the rarer label decides
    for few in ([[0]] * 9 + [[1]], [[0]] * 9):
        with pytest.raises(UsageError, match="label 1; add patients, 2 at least"):
            assign_folds(manifest(few), 5, 0)
    with pytest.raises(UsageError, match="at least 2"):
        assign_folds(listed, 1, 0)


def with_folds(*folds: int | None) -> Manifest:
    """A row a patient."""
    rows = manifest([[n % 2] for n in range(len(folds))]).rows
    return Manifest(Path("a.csv"), tuple(dataclasses.replace(r, fold=f) for r, f in zip(rows, folds, strict=True)))


def test_leaving_out_a_fold_keeps_the_other_rows_as_they_are():
    """Rows keep their numbers and their order."""
    listed = with_folds(2, 0, 2, 7, 0)
    assert recorded_folds(listed, 0) == [2, 0, 2, 7, 0]
    left = leave_out_fold(listed, 0)
    assert left.path == listed.path
    assert left.rows == (listed.rows[0], listed.rows[2], listed.rows[3])
    assert [row.number for row in leave_out_fold(listed, 2).rows] == [2, 4, 5]


@pytest.mark.parametrize(
    ("folds", "kind", "message"),
    [
        ((None, None), ManifestError, r"a\.csv: no row has a fold, so fold 1 .*'prostate-mim data split'"),
        ((1, None, 0), ManifestError, r"a\.csv row 2: fold is empty; where fold 1 is left out every row needs one"),
        ((0, 2, 5), UsageError, r"a\.csv: no row is in fold 1; its folds are 0, 2, 5; choose one of them"),
        ((*range(2, 40),), UsageError, r"its folds are 2, 3, .*, 21, \.\.\.; choose"),
        ((1, 1), ManifestError, r"a\.csv: fold is 1 in every row; without it nothing is left"),
    ],
)
def test_a_fold_that_cannot_be_left_out(folds, kind, message):
    """One line that says why, and what the folds are."""
    for verb in (recorded_folds, leave_out_fold):
        with pytest.raises(kind, match=message) as caught:
            verb(with_folds(*folds), 1)
        assert "\n" not in str(caught.value)
