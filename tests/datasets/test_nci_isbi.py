"""NCI-ISBI 2013: DICOM of two collections and NRRD labels of the challenge, counted by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_dicom_series
from small_volumes import SAGITTAL, ball, t2w_volume, write_itk

from prostate_mim.datasets import ImportSummary, import_dataset
from prostate_mim.errors import ManifestError
from prostate_mim.studies import Study
from prostate_mim.volume import Volume

Opened = Callable[[Path], list[Study]]
SEVERAL = "patient with several axial series of which neither labels nor descriptions single one out"
BAD_LABEL = "labels that are damaged, empty, or off the patient's series"
LABEL_ALONE = "labels of a patient whose images are not in the folder"
NO_AXIAL = "patient without an axial series"
DAMAGED = "patient whose axial series is damaged or incomplete"


def image(root: Path, patient: str, number: int = 4, volume: Volume | None = None, description: str = "") -> Path:
    """One series as TCIA's downloader places it: folders named by identifiers."""
    collection = "Prostate-3T" if patient.startswith("Prostate3T") else "PROSTATE-DIAGNOSIS"
    folder = root / collection / patient / "1.3.6.1.4.1.14519" / f"1.3.6.1.4.1.14519.{number}"
    made = volume or t2w_volume(int(patient[-4:]))
    write_dicom_series(folder, made, patient_id=patient, study=patient, series_number=number, description=description)
    return folder


def zones(volume: Volume, radius_mm: float = 6.0) -> Volume:
    """1 behind, 2 before."""
    behind = np.arange(volume.voxels.shape[1])[None, :, None] >= 16
    labels = np.where(ball(volume, (0, 0, 0), radius_mm).voxels > 0, np.where(behind, 1, 2), 0)
    return Volume(labels.astype("i2"), volume.geometry)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Seven patients; labels of the three archives; the first test counts them."""
    root = tmp_path / "manifest-1600709154662"
    for patient in ("Prostate3T-01-0001", "Prostate3T-03-0002", "ProstateDx-01-0006", "ProstateDx-01-0055"):
        image(root, patient, description="T2 TSE ax" if "3T" in patient else "T2WTSE_AX")
    image(root, "ProstateDx-01-0070", 3, t2w_volume(1, direction=SAGITTAL), "T2 SAG")
    image(root, "ProstateDx-01-0071", 3, description="T1 AX")
    image(root, "ProstateDx-01-0071", 5, t2w_volume(72), description="T2 AX")
    (image(root, "ProstateDx-01-0072", 3, description="T2 AX") / "1-03.dcm").unlink()
    write_itk(zones(t2w_volume(1)), root / "Training" / "Prostate3T-01-0001.nrrd")
    write_itk(zones(t2w_volume(2)), root / "Leaderboard" / "Prostate3T-03-0002.nrrd")
    write_itk(zones(t2w_volume(6)), root / "Training" / "ProstateDx-01-0006_correctedLabels.nrrd")
    fewer = t2w_volume(shape=(4, 32, 32), origin_mm_lps=(-8.0, -8.0, -6.0))
    write_itk(zones(fewer), root / "Test" / "ProstateDx-01-0055.nrrd")
    write_itk(zones(t2w_volume(99)), root / "Test" / "ProstateDx-03-0099.nrrd")
    return root


def rows_of(summary: ImportSummary) -> dict[str, dict[str, str]]:
    with summary.manifest.open(encoding="utf-8", newline="") as stream:
        return {row["patient_id"]: row for row in csv.DictReader(stream)}


def test_counts_are_those_counted_by_hand(tree: Path, tmp_path: Path, opened: Opened) -> None:
    """Four patients with labels, one without; sagittal only, incomplete, and labels without images are left out."""
    summary = import_dataset("nci-isbi", tree, tmp_path / "m.csv")
    assert (summary.studies, summary.patients, summary.lesions) == (5, 5, 0)
    assert summary.skipped == {NO_AXIAL: 1, DAMAGED: 1, LABEL_ALONE: 1}
    rows = rows_of(summary)
    assert {patient: (row["split"], row["centre"], bool(row["gland_mask"])) for patient, row in rows.items()} == {
        "Prostate3T-01-0001": ("train", "RUMC", True),
        "Prostate3T-03-0002": ("leaderboard", "RUMC", True),
        "ProstateDx-01-0006": ("train", "BMC", True),
        "ProstateDx-01-0055": ("test", "BMC", True),
        "ProstateDx-01-0071": ("", "BMC", False),
    }
    assert len(opened(summary.manifest)) == 5


def test_the_corrected_labels_are_taken(tree: Path, tmp_path: Path) -> None:
    """Their name goes on after the identifier; where the first file is there too, they replace it."""
    rows = rows_of(import_dataset("nci-isbi", tree, tmp_path / "m.csv"))
    assert rows["ProstateDx-01-0006"]["gland_mask"].endswith("ProstateDx-01-0006_correctedLabels.nrrd")
    write_itk(zones(t2w_volume(6), 3.0), tree / "Training" / "ProstateDx-01-0006.nrrd")
    rows = rows_of(import_dataset("nci-isbi", tree, tmp_path / "n.csv"))
    assert rows["ProstateDx-01-0006"]["gland_mask"].endswith("_correctedLabels.nrrd")


def test_labels_on_fewer_slices_lie_right_in_space(tree: Path, tmp_path: Path, opened: Opened) -> None:
    """As those of 0055: another number of slices than the series, the same places; their centre is the gland's."""
    summary = import_dataset("nci-isbi", tree, tmp_path / "m.csv")
    study = next(item for item in opened(summary.manifest) if item.row.patient_id.endswith("0055"))
    gland = study.read_mask("gland")
    assert gland is not None and gland.shape_zyx != study.volume.shape_zyx
    assert np.abs(study.centre_mm_lps).max() < 1.0


def test_of_several_axial_series_the_t2w_is_taken(tree: Path, tmp_path: Path) -> None:
    """By its description, where there are no labels."""
    rows = rows_of(import_dataset("nci-isbi", tree, tmp_path / "m.csv"))
    assert rows["ProstateDx-01-0071"]["t2w"].endswith(".5")


def test_of_two_t2w_series_the_one_that_was_drawn_on_is_taken(tree: Path, tmp_path: Path) -> None:
    """Labels have the grid of the first; without labels neither can be chosen."""
    other = t2w_volume(60, origin_mm_lps=(-8.0, -8.0, -4.0))
    for patient in ("ProstateDx-01-0006", "ProstateDx-01-0071"):
        image(tree, patient, 9, other, "T2 AX repeat")
    summary = import_dataset("nci-isbi", tree, tmp_path / "m.csv")
    assert rows_of(summary)["ProstateDx-01-0006"]["t2w"].endswith(".4")
    assert summary.skipped[SEVERAL] == 1


def test_damaged_labels_leave_the_images_in(tree: Path, tmp_path: Path) -> None:
    """The series is still good for pre-training; the label is counted as left out."""
    path = tree / "Training" / "Prostate3T-01-0001.nrrd"
    path.write_bytes(path.read_bytes()[:-40])
    summary = import_dataset("nci-isbi", tree, tmp_path / "m.csv")
    assert summary.skipped[BAD_LABEL] == 1
    assert rows_of(summary)["Prostate3T-01-0001"]["gland_mask"] == ""


def test_labels_may_lie_elsewhere(tree: Path, tmp_path: Path) -> None:
    """TCIA's images and the zip archives of labels are separate downloads."""
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in ("Training", "Leaderboard", "Test"):
        (tree / name).rename(labels / name)
    summary = import_dataset("nci-isbi", tree, tmp_path / "m.csv", labels=labels)
    assert sum(bool(row["gland_mask"]) for row in rows_of(summary).values()) == 4
    assert summary.label_source == "NCI-ISBI 2013"


def test_a_folder_of_something_else_is_an_error(tmp_path: Path) -> None:
    """No patient of either collection: no manifest."""
    image(tmp_path / "other", "ProstateX-0000")
    with pytest.raises(ManifestError, match="no study of NCI-ISBI"):
        import_dataset("nci-isbi", tmp_path / "other", tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()
