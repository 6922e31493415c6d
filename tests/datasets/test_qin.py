"""QIN-PROSTATE-Repeatability: real DICOM series and segmentations whose numbering differs from file to file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_segments import SEGMENTABLE, write_segments
from dicom_series import uid, write_dicom_series

from prostate_mim.datasets import ImportSummary, import_dataset
from prostate_mim.errors import ManifestError
from prostate_mim.studies import Study
from prostate_mim.volume import Geometry, Volume, read_mask

NAME = "qin"
Opened = Callable[[Path], list[Study]]
SkippedList = Callable[[Path], list[tuple[str, str]]]
SHAPE = (8, 20, 18)
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"


def block(z: slice, y: slice, x: slice) -> np.ndarray:
    made = np.zeros(SHAPE, bool)
    made[z, y, x] = True
    return made


GLAND = block(slice(1, 7), slice(4, 17), slice(3, 15))
ZONE = block(slice(1, 7), slice(11, 17), slice(3, 15))
LESION = block(slice(3, 5), slice(12, 15), slice(4, 7))
NORMAL = block(slice(3, 5), slice(12, 14), slice(10, 12))
ANTERIOR = block(slice(2, 4), slice(5, 7), slice(8, 10))
SEGMENTS = {
    "Prostate": ("WholeGland", GLAND),
    "Peripheral zone of the prostate": ("PeripheralZone", ZONE),
    "Lesion": ("TumorROI_PZ_1", LESION),
    "Normal": ("NormalROI_PZ_1", NORMAL),
}


def write_series(folder: Path, patient: str, date: str, number: int, description: str, **tags: object) -> list[Path]:
    voxels = np.random.default_rng([number, int(date)]).integers(10, 900, SHAPE).astype(np.int16)
    volume = Volume(voxels, Geometry((3.0, 0.5, 0.5), (-4.0, 2.0, 11.0)))
    where = folder / f"{number}.000000-{description}-23000"
    return write_dicom_series(
        where, volume, patient_id=patient, study=f"{patient} {date}", series_number=number, description=description,
        tags={**SEGMENTABLE, "StudyDate": date, **tags},
    )  # fmt: skip


def segment(files: list[Path], names: list[str], number: int = 1006, *, fractional: bool = False) -> Path:
    folder = files[0].parents[1] / f"{number}.000000-T2 Weighted Axial Segmentations-7.172"
    drawn = [(name, *SEGMENTS.get(name, ("", ANTERIOR))) for name in names]
    return write_segments(folder / "1-1.dcm", files, drawn, fractional=fractional, series_number=number)


def write_report(folder: Path, patient: str) -> None:
    """A structured report of measurements, as lies beside each segmentation."""
    from pydicom.dataset import FileDataset, FileMetaDataset

    folder.mkdir(parents=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ENHANCED_SR, uid("report")
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    made = FileDataset(str(folder / "1-1.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = ENHANCED_SR, uid("report")
    made.Modality, made.PatientID, made.SeriesInstanceUID = "SR", patient, uid("report series")
    made.save_as(folder / "1-1.dcm", enforce_file_format=True)


def write_tree(folder: Path) -> Path:
    """Three patients, five scans: two with a lesion, one with a gland only, one bare, one with a fractional object."""
    one, two, three = (folder / f"PCAMPMRI-0000{n}" for n in (1, 2, 3))
    visit = one / "06-06-1994-NA-PROBD Pelvis w-01133"
    files = write_series(visit, one.name, "19940606", 6, "T2 Weighted Axial")
    segment(files, ["Prostate", "Peripheral zone of the prostate", "Lesion", "Normal"])
    adc = write_series(visit, one.name, "19940606", 901, "Apparent Diffusion Coefficient")
    segment(adc, ["Lesion", "Prostate"], 1901)
    write_report(visit / "2006.000000-T2 Weighted Axial Measurements-18.24", one.name)
    visit = one / "06-20-1994-NA-PROBD Pelvis w-04511"
    files = write_series(visit, one.name, "19940620", 5, "T2 Weighted Axial")
    segment(files, ["Normal", "Lesion", "Prostate", "Peripheral zone of the prostate"])
    files = write_series(two / "07-01-1994-NA-PROBD Pelvis w-1", two.name, "19940701", 6, "T2 Weighted Axial")
    segment(files, ["Urethra", "Prostate"])
    write_series(two / "07-10-1994-NA-PROBD Pelvis w-2", two.name, "19940710", 6, "T2 Weighted Axial")
    files = write_series(three / "08-01-1994-NA-PROBD Pelvis w-3", three.name, "19940801", 6, "T2 Weighted Axial")
    segment(files, ["Prostate", "Lesion"], fractional=True)
    (folder / "LICENSE").write_text("CC BY 4.0")
    return folder


def rows_of(summary: ImportSummary) -> list[dict[str, str]]:
    with summary.manifest.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_counts_are_the_hand_counted_ones(tmp_path: Path, opened: Opened, skipped: SkippedList) -> None:
    summary = import_dataset(NAME, write_tree(tmp_path / "set"), tmp_path / "m.csv")
    assert (summary.studies, summary.patients, summary.lesions) == (5, 3, 2)
    assert (summary.positives, summary.negatives, summary.label_source) == (0, 0, "")
    assert summary.skipped == {
        "MR series that is not axial T2w": 1,
        "object that is neither an MR series nor a segmentation": 1,
        "segment of an unknown name": 1,
        "segmentation of a series that is not axial T2w, or not in the folder": 1,
        "segmentation that is damaged, or does not lie on its series": 1,
    }
    assert len(skipped(summary.manifest)) == 5
    assert ("PCAMPMRI-00002_19940701: Urethra", "segment of an unknown name") in skipped(summary.manifest)
    assert [(row["study_id"], row["scan"], row["lesion_id"], bool(row["gland_mask"])) for row in rows_of(summary)] == [
        ("PCAMPMRI-00001_19940606", "1", "lesion1", True),
        ("PCAMPMRI-00001_19940620", "2", "lesion1", True),
        ("PCAMPMRI-00002_19940701", "1", "", True),
        ("PCAMPMRI-00002_19940710", "2", "", False),
        ("PCAMPMRI-00003_19940801", "1", "", False),
    ]
    assert len(opened(summary.manifest)) == 5


def test_segments_swapped_in_the_second_file_are_still_the_right_ones(tmp_path: Path, opened: Opened) -> None:
    """The lesion is segment 3 of the first file and 2 of the second, whose third is the gland."""
    tree = write_tree(tmp_path / "set")
    files = sorted(tree.glob("PCAMPMRI-00001/*/1006*/1-1.dcm"))
    assert [pydicom.dcmread(file).SegmentSequence[2].SegmentLabel for file in files] == ["Lesion", "Prostate"]
    studies = opened(import_dataset(NAME, tree, tmp_path / "m.csv").manifest)
    for study in studies[:2]:
        lesion, gland = study.read_mask("lesion"), study.read_mask("gland")
        assert lesion is not None
        assert gland is not None
        assert np.array_equal(lesion.voxels > 0, LESION)
        assert np.array_equal(gland.voxels > 0, GLAND)
        assert study.row.zone == "PZ"
        # rows 12-14, columns 4-6, slices 3 and 4 of 0.5 x 0.5 x 3 mm from (-4, 2, 11): the middle of the region
        assert study.centre_mm_lps == pytest.approx((-4 + 5 * 0.5, 2 + 13 * 0.5, 11 + 3.5 * 3), abs=1e-4)


def test_regions_are_labels_where_asked_for(tmp_path: Path, opened: Opened) -> None:
    summary = import_dataset(NAME, write_tree(tmp_path / "set"), tmp_path / "m.csv", label_source="regions")
    assert (summary.studies, summary.lesions, summary.positives, summary.negatives) == (5, 4, 2, 2)
    assert "not histology" in " ".join(summary.notes)
    assert [(row["lesion_id"], row["label"]) for row in rows_of(summary)[:4]] == [
        ("lesion1", "1"), ("normal1", "0"), ("lesion1", "1"), ("normal1", "0"),
    ]  # fmt: skip
    normal = read_mask(summary.manifest.parent / rows_of(summary)[1]["lesion_mask"])
    assert np.array_equal(normal.voxels > 0, NORMAL)
    assert len(opened(summary.manifest)) == 7


def test_names_of_descriptions_are_known_too(tmp_path: Path) -> None:
    """Labels that say nothing, descriptions as the readers named them; a lesion outside the zone is called TZ."""
    visit = tmp_path / "set" / "PCAMPMRI-00001" / "06-06-1994"
    files = write_series(visit, "PCAMPMRI-00001", "19940606", 6, "T2 Weighted Axial")
    drawn = [("1", "TumorROI_CGTZ_1", ANTERIOR), ("2", "PeripheralZone", ZONE), ("3", "WholeGland", GLAND)]
    write_segments(visit / "1006" / "1-1.dcm", files, drawn)
    summary = import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    (row,) = rows_of(summary)
    assert (summary.lesions, row["zone"], bool(row["gland_mask"])) == (1, "TZ", True)
    assert not summary.skipped


def test_two_lesions_are_two_rows(tmp_path: Path, opened: Opened) -> None:
    visit = tmp_path / "set" / "PCAMPMRI-00001" / "06-06-1994"
    files = write_series(visit, "PCAMPMRI-00001", "19940606", 6, "T2 Weighted Axial")
    drawn = [("Lesion", "TumorROI_PZ_2", ANTERIOR), ("Prostate", "", GLAND), ("Lesion", "TumorROI_PZ_1", LESION)]
    write_segments(visit / "1006" / "1-1.dcm", files, drawn)
    summary = import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    first, second = rows_of(summary)
    assert (first["lesion_id"], second["lesion_id"]) == ("lesion1", "lesion2")
    masks = [read_mask(summary.manifest.parent / row["lesion_mask"]).voxels > 0 for row in (first, second)]
    assert np.array_equal(masks[0], LESION)
    assert np.array_equal(masks[1], ANTERIOR)
    assert len(opened(summary.manifest)) == 2


def test_lesion_far_from_the_gland_is_skipped(tmp_path: Path, opened: Opened) -> None:
    """Five slices of 3 mm apart."""
    visit = tmp_path / "set" / "PCAMPMRI-00001" / "06-06-1994"
    files = write_series(visit, "PCAMPMRI-00001", "19940606", 6, "T2 Weighted Axial")
    below, above = block(slice(0, 1), slice(0, 2), slice(0, 2)), block(slice(5, 8), slice(4, 17), slice(3, 15))
    write_segments(visit / "1006" / "1-1.dcm", files, [("Lesion", "", below), ("Prostate", "", above)])
    summary = import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    assert (summary.lesions, summary.skipped) == (0, {"region far from the outlined gland": 1})
    assert len(opened(summary.manifest)) == 1


def test_damaged_series_and_two_scans_of_one_day(tmp_path: Path, opened: Opened) -> None:
    """Two studies of one date keep different names; a series with a slice missing is left out."""
    for study, number in (("a", 6), ("b", 7)):
        visit = tmp_path / "set" / "PCAMPMRI-00001" / study
        write_series(visit, "PCAMPMRI-00001", "19940606", number, "T2 Weighted Axial", StudyInstanceUID=uid(study))
    broken = write_series(tmp_path / "set" / "PCAMPMRI-00002" / "c", "PCAMPMRI-00002", "19940701", 6, "T2 axial")
    broken[3].unlink()
    summary = import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    assert (summary.studies, summary.patients) == (2, 1)
    assert summary.skipped == {"axial T2w series that is damaged or incomplete": 1}
    assert [row["scan"] for row in rows_of(summary)] in (["1", "2"], ["2", "1"])
    assert len(opened(summary.manifest)) == 2


def test_second_segmentation_of_a_series_is_skipped(tmp_path: Path) -> None:
    visit = tmp_path / "set" / "PCAMPMRI-00001" / "06-06-1994"
    files = write_series(visit, "PCAMPMRI-00001", "19940606", 6, "T2 Weighted Axial")
    segment(files, ["Prostate"], 1006)
    segment(files, ["Lesion"], 1007)
    summary = import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    assert (summary.lesions, summary.skipped) == (0, {"second segmentation of a series": 1})


def test_folder_without_the_set_is_refused(tmp_path: Path) -> None:
    write_report(tmp_path / "set" / "sr", "P")
    with pytest.raises(ManifestError, match="no study of QIN"):
        import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
