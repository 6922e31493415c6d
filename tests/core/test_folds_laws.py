"""Laws of folds, each on 500 made-up manifests: who is where depends on patients, labels, centres and the seed only."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.folds import complete_folds, leave_one_centre_out, patient_strata
from prostate_mim.manifest import Manifest, ManifestRow

Patient = tuple[str, list[int]]
Assignment = dict[str, int]
LAW = settings(max_examples=500, deadline=None)
COHORTS = st.lists(
    st.tuples(st.sampled_from(["", "A", "B", "C"]), st.lists(st.integers(0, 1), min_size=1, max_size=3)),
    min_size=6,
    max_size=20,
)
COUNTS, SEEDS = st.integers(2, 6), st.integers(0, 9)


def listed(patients: Sequence[Patient], recorded: Assignment | None = None) -> Manifest:
    """One study a patient, one row a label."""
    rows = [
        ManifestRow(
            0, f"s{p}", f"p{p}", Path(f"{p}.nii"), str(n), label, centre=centre, fold=(recorded or {}).get(f"p{p}")
        )
        for p, (centre, labels) in enumerate(patients)
        for n, label in enumerate(labels)
    ]
    return numbered(rows)


def numbered(rows: Sequence[ManifestRow]) -> Manifest:
    """Rows with their numbers."""
    return Manifest(Path("list.csv"), tuple(dataclasses.replace(row, number=n) for n, row in enumerate(rows, 1)))


def owners(manifest: Manifest, folds: Sequence[int]) -> Assignment:
    """Patient -> fold; fails where a patient has two."""
    found: Assignment = {}
    for row, fold in zip(manifest.rows, folds, strict=True):
        assert found.setdefault(row.patient_id, fold) == fold
    return found


def placed(manifest: Manifest, count: int | None, seed: int) -> Assignment:
    return owners(manifest, complete_folds(manifest, count, seed))


def spreads(manifest: Manifest, found: Assignment, count: int) -> tuple[int, int, int]:
    """Largest difference between two folds in patients of a stratum, of a label, and in all."""
    strata = patient_strata(manifest.rows)

    def spread(groups: Sequence[object]) -> int:
        counts = Counter(zip(groups, found.values(), strict=True))
        each = [[counts[group, fold] for fold in range(count)] for group in set(groups)]
        return max(max(one) - min(one) for one in each)

    own = [strata[patient] for patient in found]
    return spread(own), spread([label for label, _ in own]), spread([None] * len(own))


# ---------------------------------------------------------------------------------------------- from nothing


@LAW
@given(COHORTS, COUNTS, SEEDS)
def test_folds_differ_by_one_patient_at_most(patients, count, seed):
    """In every stratum, in every label and in all: no two folds differ by more than one patient; none is empty."""
    manifest = listed(patients)
    found = placed(manifest, count, seed)
    assert set(found.values()) == set(range(count))
    assert max(spreads(manifest, found, count)) <= 1


def test_folds_by_lot_differ_by_more():
    """The control: patients drawn into folds one by one break each of the three bounds."""
    manifest = listed([("AB"[p % 2], [p % 3 == 0]) for p in range(60)])
    drawn = {f"p{p}": int(fold) for p, fold in enumerate(np.random.default_rng(0).integers(0, 3, 60))}
    assert min(spreads(manifest, drawn, 3)) > 1
    assert max(spreads(manifest, placed(manifest, 3, 0), 3)) <= 1


@LAW
@given(COHORTS, COUNTS, SEEDS, st.randoms(use_true_random=False))
def test_order_and_names_of_files_do_not_matter(patients, count, seed, shuffler):
    """Rows in another order, other files, studies, lesions, positions and zones: the same folds."""
    manifest = listed(patients)
    rows = list(manifest.rows)
    shuffler.shuffle(rows)
    other = numbered(
        [
            dataclasses.replace(
                row, t2w=Path(f"{n}.mha"), study_id=f"{row.patient_id} {n}", lesion_id=f"x{n}", zone="PZ",
                position_mm_lps=(n, 0.0, 0.0),
            )
            for n, row in enumerate(rows)
        ]
    )  # fmt: skip
    assert placed(other, count, seed) == placed(manifest, count, seed)


@LAW
@given(COHORTS, COUNTS, SEEDS, st.data())
def test_another_study_of_a_known_patient_moves_nobody(patients, count, seed, data):
    """Studies and lesions that leave their patients in the same stratum: everybody stays."""
    manifest = listed(patients)
    more = []
    for p in data.draw(st.lists(st.integers(0, len(patients) - 1), min_size=1, max_size=8)):
        centre, labels = patients[p]
        label = data.draw(st.integers(0, max(labels)))
        more.append(ManifestRow(0, f"new{len(more)}", f"p{p}", Path("new.nii"), "1", label, centre=centre))
    assert placed(numbered([*more, *manifest.rows]), count, seed) == placed(manifest, count, seed)


def test_scikit_learn_moves_patients_when_a_study_is_added():
    """The control: its folds, grouped and stratified alike, move others for a study of a known patient."""

    def theirs(manifest: Manifest) -> Assignment:
        labels = [row.label for row in manifest.rows]
        groups = [row.patient_id for row in manifest.rows]
        found = np.zeros(len(labels), int)
        for fold, (_, held_out) in enumerate(StratifiedGroupKFold(3).split(labels, labels, groups)):
            found[held_out] = fold
        return owners(manifest, found.tolist())

    moved = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        manifest = listed([("A", rng.integers(0, 2, rng.integers(1, 4)).tolist()) for _ in range(20)])
        first = manifest.rows[0]
        longer = numbered([*manifest.rows, dataclasses.replace(first, study_id="new")])
        moved += theirs(longer) != theirs(manifest)
        assert placed(longer, 3, 0) == placed(manifest, 3, 0)
    assert moved > 0


def test_the_seed_decides():
    """Two seeds, two assignments; the same seed, the same one. By hand: 2 patients of a stratum in 2 folds, 1 each."""
    manifest = listed([("", [0]), ("", [0]), ("", [0]), ("", [0])] * 5)
    assert placed(manifest, 4, 1) == placed(manifest, 4, 1) != placed(manifest, 4, 2)
    small = listed([("", [0]), ("", [0]), ("", [1]), ("", [1])])
    found = placed(small, 2, 0)
    assert found["p0"] != found["p1"] and found["p2"] != found["p3"]


# ------------------------------------------------------------------------------------------ from recorded ones


@LAW
@given(COHORTS, COUNTS, SEEDS, st.data())
def test_whoever_has_a_fold_stays(patients, count, seed, data):
    """Any part of a cohort with any folds: they keep them, and who is new goes where its stratum is smallest."""
    own = data.draw(st.lists(st.integers(-1, count - 1), min_size=len(patients), max_size=len(patients)))
    recorded = {f"p{p}": fold for p, fold in enumerate(own) if fold >= 0}
    assume(len(set(recorded.values())) == count)
    manifest = listed(patients, recorded)
    found = placed(manifest, None, seed)
    assert {patient: found[patient] for patient in recorded} == recorded
    assert found == placed(numbered(manifest.rows[::-1]), count, seed)
    strata = patient_strata(manifest.rows)
    for stratum in set(strata.values()):
        counts = Counter(fold for patient, fold in found.items() if strata[patient] == stratum)
        received = {fold for patient, fold in found.items() if strata[patient] == stratum and patient not in recorded}
        # Nobody was added to a fold that already had more of the stratum than another ends up with.
        assert all(counts[fold] <= min(counts[other] for other in range(count)) + 1 for fold in received)


@settings(max_examples=100, deadline=None)
@given(COHORTS, COUNTS, SEEDS, st.data())
def test_a_cohort_that_grows_keeps_its_folds(patients, count, seed, data):
    """Recorded folds, then new patients and new lesions that change strata: nobody of before moves."""
    before = placed(listed(patients), count, seed)
    grown = [(centre, [*labels, 1]) for centre, labels in patients]
    grown += data.draw(st.lists(st.tuples(st.sampled_from(["A", "D"]), st.just([0])), min_size=1, max_size=8))
    after = placed(listed(grown, before), None, seed)
    assert {patient: after[patient] for patient in before} == before
    assert len(after) == len(grown)


def test_unrecorded_folds_may_move_when_strata_change():
    """The control of the test above: without a record, a lesion that makes a patient positive moves others."""
    patients: list[Patient] = [("", [p % 2]) for p in range(12)]
    changed = [("", [1]), *patients[1:]]
    recorded = placed(listed(patients), 3, 0)
    assert any(placed(listed(changed), 3, seed) != placed(listed(patients), 3, seed) for seed in range(5))
    assert placed(listed(changed, recorded), 3, 0) == recorded


def test_a_new_study_of_a_patient_with_a_fold_gets_that_fold():
    """A patient with a recorded fold in one row and none in another."""
    rows = list(listed([("", [0]), ("", [0])], {"p0": 4, "p1": 7}).rows)
    rows.append(dataclasses.replace(rows[0], study_id="later", fold=None))
    assert complete_folds(numbered(rows), None, 0) == [4, 7, 4]


def test_numbers_of_folds_are_those_recorded():
    """Recorded as 1 and 2, with one more asked for: 0 is the next free number; fewer than recorded are refused."""
    manifest = listed([("", [0])] * 6, {"p0": 1, "p1": 2})
    assert set(complete_folds(manifest, None, 0)) == {1, 2}
    assert set(complete_folds(manifest, 3, 0)) == {0, 1, 2}
    with pytest.raises(UsageError, match="1 folds were asked for; at least 2"):
        complete_folds(manifest, 1, 0)
    with pytest.raises(UsageError, match="2 folds were asked for, but 3 are recorded; use --folds 3 or more"):
        complete_folds(listed([("", [0])] * 6, {"p0": 1, "p1": 2, "p2": 5}), 2, 0)
    with pytest.raises(UsageError, match="1 fold is recorded; give --folds"):
        complete_folds(listed([("", [0])] * 6, {"p0": 1}), None, 0)
    with pytest.raises(UsageError, match="there are only 3 patients"):
        complete_folds(listed([("", [0])] * 3), 4, 0)


# --------------------------------------------------------------------------------------------- one centre out


@LAW
@given(COHORTS)
def test_leave_one_centre_out(patients):
    """One fold a centre, in alphabetical order; every centre lies in one fold only."""
    patients = [(centre or "Z", labels) for centre, labels in patients]
    names = sorted({centre for centre, _ in patients})
    assume(len(names) > 1)
    manifest = listed(patients)
    folds = leave_one_centre_out(manifest)
    assert [names[fold] for fold in folds] == [row.centre for row in manifest.rows]
    owners(manifest, folds)


def test_leave_one_centre_out_refuses():
    """A patient at two centres, a row without one, a single centre: each names its row, and no patient."""
    rows = listed([("A", [0]), ("B", [0]), ("A", [1])]).rows
    assert leave_one_centre_out(numbered(rows)) == [0, 1, 0]
    moved = dataclasses.replace(rows[2], patient_id="p1")
    with pytest.raises(ManifestError, match="row 3: its patient has another centre in row 2") as caught:
        leave_one_centre_out(numbered([*rows[:2], moved]))
    assert "p1" not in str(caught.value)
    with pytest.raises(ManifestError, match="row 2: centre is empty"):
        leave_one_centre_out(numbered([rows[0], dataclasses.replace(rows[1], centre="")]))
    with pytest.raises(ManifestError, match="every row has one centre"):
        leave_one_centre_out(numbered([rows[0], rows[2]]))
