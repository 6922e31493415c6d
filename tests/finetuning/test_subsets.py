"""Labelled shares: whole patients, both classes, nested. Inner folds: whole patients, balanced."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim.errors import UsageError
from prostate_mim.finetuning import labelled_subset
from prostate_mim.finetuning.subsets import inner_folds


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Labels and patients of rows; at least two patients of each class."""
    counts = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1)), min_size=0, max_size=40))
    rows = [(f"p{n}", label) for n, (count, label) in enumerate([(1, 0), (2, 0), (1, 1), (2, 1), *counts])
            for _ in range(count)]  # fmt: skip
    rows = draw(st.permutations(rows))
    return [label for _, label in rows], [patient for patient, _ in rows]


def classes(labels: list[int], patients: list[str], rows: list[int]) -> Counter[int]:
    truth: dict[str, int] = {}
    for row in rows:
        truth[patients[row]] = max(truth.get(patients[row], 0), labels[row])
    return Counter(truth.values())


@settings(max_examples=50, deadline=None)
@given(table=tables(), seed=st.integers(0, 99), small=st.floats(0.01, 1), large=st.floats(0.01, 1))
def test_shares_are_whole_stratified_and_nested(
    table: tuple[list[int], list[str]], seed: int, small: float, large: float
) -> None:
    """All rows of a patient or none; round(fraction * patients) of each class, never below two; 5 % within 10 %."""
    labels, patients = table
    rows = list(range(len(labels)))
    small, large = sorted((small, large))
    few, many = (labelled_subset(labels, patients, rows, share, seed) for share in (small, large))
    assert set(few) <= set(many)
    chosen = {patients[row] for row in few}
    assert few == [row for row in rows if patients[row] in chosen]
    everyone, found = classes(labels, patients, rows), classes(labels, patients, few)
    for label in (0, 1):
        wanted = everyone[label] if small == 1 else max(2, round(small * everyone[label]))
        assert found[label] == wanted


def test_who_is_taken_depends_on_the_seed_and_on_nothing_else() -> None:
    """Another order of rows takes the same patients; another seed takes others; all of them at 1."""
    patients = [f"p{n}" for n in range(40)]
    labels = [n % 2 for n in range(40)]
    rows = list(range(40))
    first = labelled_subset(labels, patients, rows, 0.25, 0)
    assert sorted(labelled_subset(labels, patients, rows[::-1], 0.25, 0)) == first
    assert labelled_subset(labels, patients, rows, 0.25, 1) != first
    assert labelled_subset(labels, patients, rows, 1.0, 0) == rows
    within = labelled_subset(labels, patients, rows[:20], 0.25, 0)
    assert set(within) <= set(range(20))


def test_impossible_shares() -> None:
    """No share, more than all, or a class without two patients."""
    labels, patients = [0, 0, 0, 1, 1], ["a", "b", "c", "d", "d"]
    for fraction in (0, -0.1, 1.1):
        with pytest.raises(UsageError, match="fraction"):
            labelled_subset(labels, patients, range(5), fraction, 0)
    assert set(labelled_subset(labels, patients, range(5), 0.5, 0)) > {3, 4}  # the one patient of its class
    with pytest.raises(UsageError, match="one label only"):
        labelled_subset(labels, patients, range(3), 0.5, 0)
    assert labelled_subset(labels, patients, range(5), 1.0, 0) == [0, 1, 2, 3, 4]


@settings(max_examples=50, deadline=None)
@given(table=tables(), seed=st.integers(0, 99), count=st.integers(1, 5))
def test_inner_folds_are_of_whole_patients_and_balanced(
    table: tuple[list[int], list[str]], seed: int, count: int
) -> None:
    """A patient is in one fold; every fold has both classes; no two differ by more than one patient of a class."""
    labels, patients = table
    folds = inner_folds(labels, patients, count, seed)
    assert len({(p, f) for p, f in zip(patients, folds.tolist(), strict=True)}) == len(set(patients))
    fewest = min(classes(labels, patients, list(range(len(labels)))).values())
    used = set(folds.tolist())
    assert used == set(range(min(count, fewest)))
    sizes = [classes(labels, patients, [n for n, own in enumerate(folds) if own == fold]) for fold in sorted(used)]
    for label in (0, 1):
        counts = [size[label] for size in sizes]
        assert max(counts) - min(counts) <= 1 <= min(counts)


def test_inner_folds_of_patients_with_lesions_of_both_labels() -> None:
    """No patient is negative, but each has a negative lesion: folds can be made. With one positive patient, not."""
    labels, patients = [1, 0] * 6, [f"p{n // 2}" for n in range(12)]
    assert sorted(inner_folds(labels, patients, 3, 0).tolist()) == [0] * 6 + [1] * 6
    assert set(inner_folds([1, 0, 0, 0], ["a", "b", "c", "d"], 3, 0)) == {0}
