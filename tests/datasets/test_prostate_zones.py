"""ProstateZones: both layouts, two readers, and counts by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_dicom_series
from small_volumes import SAGITTAL, ball, t2w_volume, write_itk

from prostate_mim.datasets import ImportSummary, import_dataset
from prostate_mim.errors import UsageError
from prostate_mim.studies import Study
from prostate_mim.volume import Volume, read_mask

Opened = Callable[[Path], list[Study]]
NO_MASK = "patient without a segmentation of the chosen reader"
NO_IMAGE = "patient without an axial T2w image"
BAD_IMAGE = "patient whose axial T2w image is damaged or no axial stack"
BAD_MASK = "segmentation that is damaged, empty, or off its image"
SEVERAL = "patient with several axial T2w series, none or several on the segmentation's grid"


def zones(volume: Volume, radius_mm: float = 6.0) -> Volume:
    """Two zones, 1 behind and 2 before, and the urethra 5 in their middle."""
    gland, middle = ball(volume, (0, 0, 0), radius_mm).voxels, ball(volume, (0, 0, 0), 1.0).voxels
    behind = np.arange(volume.voxels.shape[1])[None, :, None] >= 16
    labels = np.where(gland > 0, np.where(behind, 1, 2), 0)
    return Volume(np.where(middle > 0, 5, labels).astype("i2"), volume.geometry)


@pytest.fixture
def arranged(tmp_path: Path) -> Path:
    """Seven patients as the publisher's script leaves them; the first test counts them."""
    root = tmp_path / "ProstateZones"
    for number, split, segmentations in (
        (0, "Train", ("Seg-0000.nrrd",)),
        (8, "Train", ()),
        (7, "Validate", ("Seg-0007.nrrd",)),
        (15, "Test", ("Seg-0015_R1.nrrd", "Seg-0015_R2.nrrd")),
        (19, "Test", ("Seg-0019_R2.nrrd",)),
    ):
        volume, name = t2w_volume(number), f"ProstateX-{number:04d}"
        write_dicom_series(root / split / name / f"tra-{number:04d}", volume, patient_id=name)
        write_dicom_series(root / "Images" / name / f"tra-{number:04d}", volume, patient_id=name)
        write_dicom_series(root / "Images" / name / f"sag-{number:04d}", t2w_volume(1, direction=SAGITTAL))
        write_itk(t2w_volume(number + 1), root / split / name / f"adc-{number:04d}.nrrd")
        for index, segmentation in enumerate(segmentations):
            write_itk(zones(volume, 6.0 - index), root / split / name / segmentation)
    write_itk(t2w_volume(20), root / "Train" / "ProstateX-0020" / "tra-0020.nrrd")
    write_itk(zones(t2w_volume(20)), root / "Train" / "ProstateX-0020" / "Seg-0020.nrrd")
    write_itk(zones(t2w_volume(21)), root / "Train" / "ProstateX-0021" / "Seg-0021.nrrd")
    return root


def rows_of(summary: ImportSummary) -> dict[str, dict[str, str]]:
    with summary.manifest.open(encoding="utf-8", newline="") as stream:
        return {row["patient_id"]: row for row in csv.DictReader(stream)}


def test_counts_are_those_counted_by_hand(arranged: Path, tmp_path: Path, opened: Opened) -> None:
    """0000, 0007, 0015 and 0020 are whole; 0008 has no segmentation, 0019 none of reader 1, 0021 no image."""
    summary = import_dataset("prostate-zones", arranged, tmp_path / "m.csv")
    assert (summary.studies, summary.patients, summary.lesions) == (4, 4, 0)
    assert summary.skipped == {NO_MASK: 2, NO_IMAGE: 1}
    assert {patient[-4:]: row["split"] for patient, row in rows_of(summary).items()} == {
        "0000": "train",
        "0007": "validation",
        "0015": "test",
        "0020": "train",
    }
    assert all(study.row.gland_mask is not None for study in opened(summary.manifest))
    assert "1 in 4, 2 in 4, 5 in 4" in summary.notes[0]


def test_the_axial_series_and_the_segmentation_of_one_patient_belong_together(
    arranged: Path, tmp_path: Path, opened: Opened
) -> None:
    """Voxels of tra-, not of adc- nor of Images/sag-; zones as drawn."""
    study = opened(import_dataset("prostate-zones", arranged, tmp_path / "m.csv").manifest)[0]
    assert study.row.patient_id == "ProstateX-0000"
    assert (study.volume.voxels == t2w_volume(0).voxels).all()
    gland = study.read_mask("gland")
    assert gland is not None and (gland.voxels == zones(t2w_volume(0)).voxels).all()


@pytest.mark.parametrize(("reader", "voxels"), [("R1", 6.0), ("R2", 5.0)])
def test_the_second_reader_can_be_asked_for(arranged: Path, tmp_path: Path, reader: str, voxels: float) -> None:
    """Reader 2 drew a smaller gland; studies with one drawing stay in either way."""
    summary = import_dataset("prostate-zones", arranged, tmp_path / "m.csv", label_source=reader)
    rows = rows_of(summary)
    mask = read_mask(tmp_path / rows["ProstateX-0015"]["gland_mask"])
    assert (mask.voxels == zones(t2w_volume(15), voxels).voxels).all()
    assert ("ProstateX-0019" in rows, "ProstateX-0000" in rows) == (reader == "R2", True)
    assert summary.label_source == f"ProstateZones, reader {reader} where there are two"


def test_an_unknown_reader_is_refused(arranged: Path, tmp_path: Path) -> None:
    """The message gives the choice."""
    with pytest.raises(UsageError, match="choose R1, R2"):
        import_dataset("prostate-zones", arranged, tmp_path / "m.csv", label_source="R3")


def test_what_cannot_be_used_is_left_out(arranged: Path, tmp_path: Path) -> None:
    """A slice is missing, a segmentation is empty, one is a metre off."""
    (arranged / "Train" / "ProstateX-0000" / "tra-0000" / "1-03.dcm").unlink()
    write_itk(ball(t2w_volume(7), radius_mm=0.0), arranged / "Validate" / "ProstateX-0007" / "Seg-0007.nrrd")
    far = t2w_volume(origin_mm_lps=(992.0, -8.0, -9.0))
    write_itk(ball(far, (1000.0, 0.0, 0.0)), arranged / "Train" / "ProstateX-0020" / "Seg-0020.nrrd")
    summary = import_dataset("prostate-zones", arranged, tmp_path / "m.csv")
    assert summary.studies == 1
    assert summary.skipped == {NO_MASK: 2, NO_IMAGE: 1, BAD_IMAGE: 1, BAD_MASK: 2}


@pytest.fixture
def downloaded(tmp_path: Path) -> tuple[Path, Path]:
    """PROSTATEx of TCIA, and the record's folder of segmentations."""
    images, record = tmp_path / "PROSTATEx", tmp_path / "ProstateZones-record"
    for number in (0, 15, 30):
        name = f"ProstateX-{number:04d}"
        write_dicom_series(images / name / "07-07-2011" / "4.000000-t2tsetra-1", t2w_volume(number), patient_id=name)
    again = t2w_volume(100, origin_mm_lps=(-8.0, -8.0, -7.5))
    repeat = images / "ProstateX-0000" / "07-07-2011" / "9.000000-t2tsetra-2"
    write_dicom_series(repeat, again, patient_id="ProstateX-0000", series_number=9)
    write_itk(zones(t2w_volume(0)), record / "Singles" / "Seg-0000.nrrd")
    for reader in ("R1", "R2"):
        write_itk(zones(t2w_volume(15)), record / "Duplicates" / reader / f"Seg-0015_{reader}.nrrd")
    write_itk(zones(t2w_volume(40)), record / "Singles" / "Seg-0040.nrrd")
    return images, record


def test_both_downloads_as_they_are(downloaded: tuple[Path, Path], tmp_path: Path, opened: Opened) -> None:
    """0000 and 0015 are drawn; 0030 is not, and 0040's images are not there."""
    images, record = downloaded
    summary = import_dataset("prostate-zones", images, tmp_path / "m.csv", labels=record)
    assert summary.studies == 2
    assert summary.skipped == {NO_MASK: 1, NO_IMAGE: 1}
    assert len(opened(summary.manifest)) == 2


def test_of_two_axial_series_that_on_the_segmentations_grid_is_taken(
    downloaded: tuple[Path, Path], tmp_path: Path
) -> None:
    """Series 4 is; without it, series 9 alone remains; with neither on the grid nothing can be said."""
    images, record = downloaded
    rows = rows_of(import_dataset("prostate-zones", images, tmp_path / "m.csv", labels=record))
    assert Path(rows["ProstateX-0000"]["t2w"]).name.startswith("4.")
    moved = t2w_volume(0, origin_mm_lps=(-8.0, -8.0, -6.0))
    write_itk(zones(moved), record / "Singles" / "Seg-0000.nrrd")
    summary = import_dataset("prostate-zones", images, tmp_path / "n.csv", labels=record)
    assert summary.skipped[SEVERAL] == 1
