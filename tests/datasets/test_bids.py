"""BIDS: subjects with and without sessions, participants.tsv, masks among the derivatives."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from small_volumes import CORONAL, SAGITTAL, ball, t2w_volume, write_csv

from prostate_mim.datasets import import_dataset
from prostate_mim.errors import ManifestError
from prostate_mim.studies import Study
from prostate_mim.volume import write_volume

Opened = Callable[[Path], list[Study]]
Skipped = Callable[[Path], list[tuple[str, str]]]


def put(root: Path, name: str, volume: object) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(volume, path)  # type: ignore[arg-type]
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three subjects with five usable images; sagittal ones with and without a label; one subject without T2w."""
    root = tmp_path / "bids"
    put(root, "sub-01/anat/sub-01_T2w.nii.gz", t2w_volume(1))
    put(root, "sub-01/anat/sub-01_acq-sagittal_T2w.nii.gz", t2w_volume(2, direction=SAGITTAL))
    put(root, "sub-01/anat/sub-01_acq-cor_T2w.nii.gz", t2w_volume(3, direction=CORONAL))
    put(root, "sub-01/anat/sub-01_T1w.nii.gz", t2w_volume(4))
    for session in ("a", "b"):
        put(root, f"sub-02/ses-{session}/anat/sub-02_ses-{session}_T2w.nii", t2w_volume(ord(session)))
    for run in (1, 2):
        put(root, f"sub-03/anat/sub-03_acq-tra_run-{run}_T2w.nii.gz", t2w_volume(10 + run))
    put(root, "sub-03/anat/sub-03_run-3_T2w.nii.gz", t2w_volume(20, direction=SAGITTAL))  # says nothing of it
    made = root / "derivatives" / "reader"
    image = t2w_volume()
    put(made, "sub-01/anat/sub-01_desc-gland_mask.nii.gz", ball(image, radius_mm=6))
    put(made, "sub-01/anat/sub-01_label-lesion_mask.nii.gz", ball(image, (3, 0, 0), 2))
    put(made, "sub-01/anat/sub-01_label-bladder_mask.nii.gz", ball(image, (0, 5, 0), 2))
    put(made, "sub-02/ses-b/anat/sub-02_ses-b_label-prostate_mask.nii.gz", ball(image, radius_mm=6))
    put(made, "sub-03/anat/sub-03_acq-tra_run-2_label-prostate_mask.nii.gz", ball(image, radius_mm=6))
    put(made, "sub-03/anat/sub-03_run-2_desc-gland_mask.nii.gz", ball(image, radius_mm=5))
    put(made, "sub-01/anat/sub-01_T2w.nii.gz", t2w_volume(1))  # a processed copy is no study of its own
    write_csv(
        root / "participants.tsv",
        "participant_id\tage\tsite\tlabel\nsub-01\t66\tNorth\tcase\nsub-02\tn/a\tSouth\tn/a\nsub-04\t70\tNorth\tcase",
    )
    (root / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.9.0"}')
    return tmp_path


def rows_of(manifest: Path) -> dict[str, dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as stream:
        return {row["study_id"]: row for row in csv.DictReader(stream)}


def test_counts(tree: Path, opened: Opened, skipped: Skipped) -> None:
    """Five studies of three subjects, one lesion, no labels; four things left out for three reasons."""
    summary = import_dataset("bids", tree / "bids", tree / "bids.csv")
    assert (summary.studies, summary.patients, summary.lesions) == (5, 3, 1)
    assert (summary.positives, summary.negatives) == (0, 0)
    assert summary.skipped == {
        "image not readable as an axial volume": 1,
        "in participants.tsv, but without a T2w image": 1,
        "sagittal or coronal, says the acq label": 2,
    }
    assert set(summary.notes) == {
        "2 studies: not in participants.tsv",
        "1 study: several masks of one kind; the first by name was taken",
    }
    assert {item for item, _ in skipped(tree / "bids.csv")} == {
        "sub-01_acq-sagittal_T2w", "sub-01_acq-cor_T2w", "sub-03_run-3_T2w", "sub-04",
    }  # fmt: skip
    assert len(opened(tree / "bids.csv")) == 5


def test_columns_and_masks(tree: Path) -> None:
    """A mask belongs to its own session and run; participants' columns never overwrite a manifest's."""
    import_dataset("bids", tree / "bids", tree / "bids.csv")
    rows = rows_of(tree / "bids.csv")
    assert {name: (row["patient_id"], Path(row["gland_mask"]).name) for name, row in rows.items()} == {
        "sub-01": ("sub-01", "sub-01_desc-gland_mask.nii.gz"),
        "sub-02_ses-a": ("sub-02", ""),
        "sub-02_ses-b": ("sub-02", "sub-02_ses-b_label-prostate_mask.nii.gz"),
        "sub-03_acq-tra_run-1": ("sub-03", ""),
        "sub-03_acq-tra_run-2": ("sub-03", "sub-03_acq-tra_run-2_label-prostate_mask.nii.gz"),
    }
    assert Path(rows["sub-01"]["lesion_mask"]).name == "sub-01_label-lesion_mask.nii.gz"
    assert (rows["sub-01"]["age"], rows["sub-01"]["centre"], rows["sub-01"]["participants_label"]) == (
        "66", "North", "case",
    )  # fmt: skip
    assert (rows["sub-02_ses-a"]["age"], rows["sub-02_ses-a"]["participants_label"]) == ("", "")
    assert "label" not in rows["sub-01"]


def test_without_participants_and_with_a_damaged_mask(tree: Path) -> None:
    """The table is optional; a damaged mask leaves its image out rather than without a lesion."""
    (tree / "bids/participants.tsv").unlink()
    lesion = tree / "bids/derivatives/reader/sub-01/anat/sub-01_label-lesion_mask.nii.gz"
    lesion.write_bytes(lesion.read_bytes()[:-4])
    summary = import_dataset("bids", tree / "bids", tree / "bids.csv")
    assert (summary.studies, summary.lesions, summary.skipped["mask damaged, or off its image"]) == (4, 0, 1)


def test_a_folder_that_is_not_bids(tmp_path: Path) -> None:
    """No subject: refused, with what was looked for."""
    (tmp_path / "in").mkdir()
    write_volume(t2w_volume(), tmp_path / "in" / "t2.nii.gz")
    with pytest.raises(ManifestError, match="no study of a BIDS folder"):
        import_dataset("bids", tmp_path / "in", tmp_path / "bids.csv")
