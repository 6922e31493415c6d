"""Any folder: files of every format and DICOM series, with a table matched by column names, or without one."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_dicom_series
from small_volumes import SAGITTAL, ball, t2w_volume, write_csv, write_itk

from prostate_mim.datasets import import_dataset
from prostate_mim.errors import ManifestError, ProstateMimError
from prostate_mim.manifest import read_manifest
from prostate_mim.studies import Study, open_all
from prostate_mim.volume import write_volume

Opened = Callable[[Path], list[Study]]
Skipped = Callable[[Path], list[tuple[str, str]]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four usable volumes in four formats, a mask, an array, a sagittal series, a damaged file, and clutter."""
    root = tmp_path / "mine"
    for name in ("P1/visit1", "P1/visit2", "P2", "P3", "P4"):
        (root / name).mkdir(parents=True)
    write_volume(t2w_volume(1), root / "P1/visit1/t2.nii.gz")
    write_volume(t2w_volume(2), root / "P1/visit2/t2.mha")
    write_itk(t2w_volume(3), root / "P2/t2.nrrd")
    write_volume(ball(t2w_volume(3), (2, 1, 0), 2), root / "P2/lesion_mask.nii.gz")
    write_volume(ball(t2w_volume(3), radius_mm=6), root / "P2/gland.nii.gz")
    write_dicom_series(root / "P3/7-t2_tse_tra", t2w_volume(4))
    write_volume(t2w_volume(5, direction=SAGITTAL), root / "P4/t2_sag.nii.gz")
    np.save(root / "P4/array.npy", t2w_volume(6).voxels)
    cut = root / "loose.nii.gz"
    write_volume(t2w_volume(7), cut)
    cut.write_bytes(cut.read_bytes()[:-5])
    (root / "notes.txt").write_text("not a volume")
    (root / ".hidden.nii.gz").write_bytes(b"")
    return tmp_path


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_without_a_table(tree: Path, opened: Opened, skipped: Skipped) -> None:
    """Four studies of three patients by their first folders; the rest is said."""
    summary = import_dataset("folder", tree / "mine", tree / "mine.csv")
    assert (summary.studies, summary.patients, summary.lesions, summary.positives) == (4, 3, 0, 0)
    assert summary.skipped == {
        "bare array without a spacing; state spacing_mm_zyx in a table given by --labels": 1,
        "image not readable as an axial volume": 2,
        "its name says that it is a mask": 2,
    }
    assert [(row["study_id"], row["patient_id"]) for row in rows_of(tree / "mine.csv")] == [
        ("P1_visit1_t2", "P1"), ("P1_visit2_t2", "P1"), ("P2_t2", "P2"), ("P3_7-t2_tse_tra", "P3"),
    ]  # fmt: skip
    assert summary.notes == ("4 studies: patient_id is the first folder: check that no patient has two",)
    assert {item for item, _ in skipped(tree / "mine.csv")} == {
        "P2_lesion_mask", "P2_gland", "P4_t2_sag", "P4_array", "loose",
    }  # fmt: skip
    assert len(opened(tree / "mine.csv")) == 4


def test_files_in_one_folder_are_patients_by_their_names(tmp_path: Path, opened: Opened) -> None:
    """A folder that merely wraps them makes no patient of all of them."""
    (tmp_path / "in/images").mkdir(parents=True)
    for name in ("A1", "B2"):
        write_volume(t2w_volume(ord(name[0])), tmp_path / f"in/images/{name}.nii.gz")
    summary = import_dataset("folder", tmp_path / "in", tmp_path / "m.csv")
    assert [row["patient_id"] for row in rows_of(tmp_path / "m.csv")] == ["A1", "B2"]
    assert summary.notes == ("2 studies: patient_id is the file's name: check that no patient has two",)
    assert len(opened(tmp_path / "m.csv")) == 2


def test_a_single_dicom_series(tmp_path: Path, opened: Opened) -> None:
    """The folder itself is the series."""
    write_dicom_series(tmp_path / "series", t2w_volume(1))
    summary = import_dataset("folder", tmp_path / "series", tmp_path / "m.csv")
    assert (summary.studies, rows_of(tmp_path / "m.csv")[0]["study_id"]) == (1, "series")
    assert len(opened(tmp_path / "m.csv")) == 1


TABLE = """
    PSA,File,Patient ID,study_id,Label,lesion_id,position_mm_lps,Lesion Mask,gland_mask,Site,Fold,spacing_mm_zyx,zone
    4.1,P1/visit1/t2.nii.gz,A,a1,yes,1,2.5 -1 0,,,North,0,,PZ
    4.1,P1/visit1/t2.nii.gz,A,a1,No,2,-2 3 0.5,,,North,0,,TZ
    ,P2/t2.nrrd,B,b1,1,,,P2/lesion_mask.nii.gz,P2/gland.nii.gz,South,1,,
    9,P3/7-t2_tse_tra,C,c1,0,,0 0 0,,,South,2,,
    ,P4/array.npy,D,d1,,,,,,South,0,3 0.5 0.5,
    ,P4/t2_sag.nii.gz,E,e1,0,,,,,South,0,,
    ,P9/none.nii.gz,F,f1,0,,,,,South,0,,
"""


def test_with_a_table(tree: Path, opened: Opened) -> None:
    """Columns by name whatever their order and spelling; the rest is kept; five rows of seven can be used."""
    table = write_csv(tree / "labels.csv", TABLE)
    summary = import_dataset("folder", tree / "mine", tree / "mine.csv", labels=table)
    assert (summary.studies, summary.patients, summary.lesions) == (4, 4, 4)
    assert (summary.positives, summary.negatives, summary.label_source) == (2, 2, "labels.csv")
    assert summary.skipped == {
        "image not readable as an axial volume": 1,
        "in the folder, but not in the table": 2,  # P1/visit2, loose
        "in the table, but the file is not there": 1,
    }
    rows = rows_of(tree / "mine.csv")
    assert [(row["study_id"], row["lesion_id"], row["label"]) for row in rows] == [
        ("a1", "1", "1"), ("a1", "2", "0"), ("b1", "", "1"), ("c1", "", "0"), ("d1", "", ""),
    ]  # fmt: skip
    assert [row["PSA"] for row in rows] == ["4.1", "4.1", "", "9", ""]
    assert [row["centre"] for row in rows] == ["North", "North", "South", "South", "South"]
    assert [row["fold"] for row in rows] == ["0", "0", "1", "2", "0"]
    studies = opened(tree / "mine.csv")
    assert studies[1].centre_mm_lps == (-2.0, 3.0, 0.5)
    assert studies[2].centre_mm_lps == pytest.approx((2, 1, 0), abs=0.3)
    assert studies[4].volume.geometry.spacing_mm_zyx == (3.0, 0.5, 0.5)


def test_files_are_found_by_their_bare_names(tmp_path: Path, opened: Opened) -> None:
    """A table of case names; a name that two files have is none."""
    for folder, name in (("a", "one"), ("b", "two"), ("b", "twice"), ("c", "twice")):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        write_volume(t2w_volume(len(folder + name)), tmp_path / "in" / folder / f"{name}.nii.gz")
    table = write_csv(tmp_path / "t.tsv", "t2w\tpatient\none\tP1\ntwo.nii.gz\tP2\ntwice\tP3")
    summary = import_dataset("folder", tmp_path / "in", tmp_path / "m.csv", labels=table)
    assert (summary.studies, summary.patients) == (2, 2)
    assert summary.skipped == {
        "in the folder, but not in the table": 2,
        "in the table, but the file is not there": 1,
    }
    assert [row["study_id"] for row in rows_of(tmp_path / "m.csv")] == ["a_one", "b_two"]
    assert len(opened(tmp_path / "m.csv")) == 2


@pytest.mark.parametrize("state", ["missing", "damaged", "empty", "outside"])
@pytest.mark.parametrize("name", ["lesion_mask", "gland_mask"])
def test_a_mask_that_cannot_be_used_leaves_the_row_out(tmp_path: Path, name: str, state: str) -> None:
    """A row that names a mask was meant to have it."""
    (tmp_path / "in").mkdir()
    for study in ("good", "bad"):
        write_volume(t2w_volume(), tmp_path / f"in/{study}.mha")
    path = tmp_path / "in/other.nii.gz"
    if state != "missing":
        away = t2w_volume(origin_mm_lps=(300, 0, 0))
        here = ball(t2w_volume(), value=1 if state == "damaged" else 0)
        write_volume(ball(away, (308, 8, 9)) if state == "outside" else here, path)
    if state == "damaged":
        path.write_bytes(path.read_bytes()[:-4])
    table = write_csv(tmp_path / "t.csv", f"file,{name}\ngood.mha,\nbad.mha,other.nii.gz")
    summary = import_dataset("folder", tmp_path / "in", tmp_path / "m.csv", labels=table)
    reason = f"{name.removesuffix('_mask')} mask missing, damaged, empty, or off its image"
    assert (summary.studies, summary.skipped) == (1, {reason: 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient_id,label\nP1,1", "no column names the files"),
        ("t2w,label\nP2/t2.nrrd,maybe", "row 1: label is 'maybe'"),
        ("t2w,fold\nP2/t2.nrrd,-1", "row 1: fold"),
        ("t2w,position_mm_lps\nP2/t2.nrrd,1 2", "row 1: position_mm_lps"),
        ("t2w,spacing_mm_zyx\nP4/array.npy,a b c", "row 1: spacing_mm_zyx"),
        ("t2w,isup\nP2/t2.nrrd,6", "row 1: isup is '6', expected an ISUP grade group"),
        ("t2w,isup\nP2/t2.nrrd,3+4", "row 1: isup"),
        ("t2w,is_crop\nP2/t2.nrrd,2", "row 1: is_crop is '2', expected 0 or 1"),
        ("t2w,sha256\nP2/t2.nrrd,abc", "row 1: sha256 is 'abc', expected 64 hex digits"),
        ("t2w,study_id\nP2/t2.nrrd,s\nP1/visit1/t2.nii.gz,s", "same study_id"),
        ("t2w,patient_id,fold\nP2/t2.nrrd,p,0\nP1/visit1/t2.nii.gz,p,1", "divides a patient"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tree: Path, text: str, message: str) -> None:
    """Nothing is guessed, and nothing is left behind."""
    with pytest.raises(ManifestError, match=message):
        import_dataset("folder", tree / "mine", tree / "m.csv", labels=write_csv(tree / "t.csv", text))
    assert not (tree / "m.csv").exists()


def test_a_lesion_away_from_image_or_gland_leaves_its_row_out(tmp_path: Path) -> None:
    """Voxels taken for mm, and a gland of someone else: what opening the row would refuse is left out and said."""
    (tmp_path / "in").mkdir()
    image = t2w_volume(shape=(6, 80, 80), origin_mm_lps=(-20, -20, -9))
    write_volume(image, tmp_path / "in/t2.mha")
    write_volume(ball(image, (-12, 0, 0), 4), tmp_path / "in/gland.mha")
    write_volume(ball(image, (15, 0, 0), 2), tmp_path / "in/lesion.mha")
    rows = ["1,16 16 16,,", "2,15 0 0,gland.mha,", "3,,gland.mha,lesion.mha", "4,-9 0 0,gland.mha,", "5,15 0 0,,"]
    lines = "\n".join(f"t2.mha,s,{row}" for row in rows)
    table = write_csv(tmp_path / "t.csv", f"t2w,study_id,lesion_id,position_mm_lps,gland_mask,lesion_mask\n{lines}")
    summary = import_dataset("folder", tmp_path / "in", tmp_path / "m.csv", labels=table)
    assert [row["lesion_id"] for row in rows_of(tmp_path / "m.csv")] == ["4", "5"]
    assert summary.skipped == {
        "lesion over 10 mm from the gland mask": 2,
        "position_mm_lps lies outside the image; it is x y z in LPS, not voxels": 1,
    }
    for refused in ("2", "3"):  # the control: opening refuses these rows
        row = rows[int(refused) - 1]
        manifest = write_csv(
            tmp_path / "in" / f"{refused}.csv",
            f"study_id,patient_id,t2w,lesion_id,position_mm_lps,gland_mask,lesion_mask\ns,p,t2.mha,{row}",
        )
        with pytest.raises(ManifestError, match="mm from the gland"):
            list(open_all(read_manifest(manifest)))


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Three images of one shape, zones, a mask with another label, and a 2D crop as an array."""
    (tmp_path / "in").mkdir()
    image = t2w_volume()
    for name in ("one", "two", "three"):
        write_volume(image, tmp_path / f"in/{name}.mha")
    zones = ball(image, radius_mm=4)
    zones.voxels[:, : zones.voxels.shape[1] // 2] *= 2
    assert set(np.unique(zones.voxels)) == {0, 1, 2}
    write_volume(zones, tmp_path / "in/zones.mha")
    write_volume(dataclasses.replace(zones, voxels=zones.voxels * 3), tmp_path / "in/others.mha")
    np.save(tmp_path / "in/crop.npy", image.voxels[:1])
    return tmp_path


def test_every_column_of_a_manifest_is_carried_over(few: Path, opened: Opened) -> None:
    """Zones by the path from the manifest, ISUP, crops and checksums; in any spelling, and usable when opened."""
    digest = hashlib.sha256((few / "in/one.mha").read_bytes()).hexdigest()
    lines = (
        "File;Study ID;Zone Mask;ISUP;Is Crop;SHA-256;spacing_mm_zyx;label",
        f"one.mha;a;zones.mha;3.0;no;{digest.upper()};;1", "two.mha;b;;0;;;;0", "three.mha;c;zones.mha;n/a;;;;",
        "crop.npy;d;;;yes;;3 0.5 0.5;1",
    )  # fmt: skip
    (few / "tables").mkdir()
    (few / "out").mkdir()
    table = write_csv(few / "tables/t.csv", "\n".join(lines))
    summary = import_dataset("folder", few / "in", few / "out/m.csv", labels=table)
    assert (summary.studies, summary.lesions) == (4, 1)  # the crop is where its lesion is
    assert summary.skipped == {"in the folder, but not in the table": 1}  # others.mha
    rows = rows_of(few / "out/m.csv")
    assert [row["zone_mask"] for row in rows] == ["../in/zones.mha", "", "../in/zones.mha", ""]
    assert [row["isup"] for row in rows] == ["3", "0", "", ""]
    assert [row["is_crop"] for row in rows] == ["", "", "", "1"]
    assert [row["sha256"] for row in rows] == [digest, "", "", ""]
    read = read_manifest(few / "out/m.csv").rows
    assert [(row.isup, row.is_crop, row.sha256) for row in read][::3] == [(3, False, digest), (None, True, None)]
    studies = opened(few / "out/m.csv")
    assert studies[0].read_mask("pz") is not None and studies[1].read_mask("pz") is None
    kept = import_dataset("folder", few / "in", few / "out/l.csv", labels=table, labelled_only=True)
    assert [row["study_id"] for row in rows_of(few / "out/l.csv")] == ["d"] and kept.lesions == 1


def test_a_zone_mask_or_checksum_that_is_wrong_leaves_the_row_out(few: Path) -> None:
    """Other labels than zones, a changed file, a checksum of a folder; the controls are rows that opening refuses."""
    write_dicom_series(few / "in/series", t2w_volume(4))
    rows = ["one.mha,others.mha,", "two.mha,none.mha,", f"three.mha,,{'0' * 64}", f"series,,{'1' * 64}", "crop.npy,,"]
    table = write_csv(few / "t.csv", "t2w,zone_mask,sha256\n" + "\n".join(rows) + "\nzones.mha,,")
    summary = import_dataset("folder", few / "in", few / "m.csv", labels=table)
    assert [row["study_id"] for row in rows_of(few / "m.csv")] == ["zones"]
    assert summary.skipped == {
        "bare array without a spacing; state spacing_mm_zyx in a table given by --labels": 1,
        "sha256 is not that of its file, or not of a single file": 2,
        "zone mask missing, damaged, empty, off its image, or with labels other than 1 and 2": 2,
    }
    for row, says in ((rows[0], "label 3"), (rows[2], "sha256 is"), (rows[3], "for single files")):
        manifest = write_csv(few / "in/c.csv", f"study_id,patient_id,t2w,zone_mask,sha256\ns,p,{row}")
        with pytest.raises(ProstateMimError, match=says):
            list(open_all(read_manifest(manifest)))
