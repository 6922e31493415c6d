"""Manifests: every refusal names its row and column, and never a patient, a study or a path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from prostate_mim import studies
from prostate_mim.errors import ManifestError, NotFoundError, VolumeError
from prostate_mim.manifest import read_manifest
from prostate_mim.studies import open_all, open_study
from prostate_mim.volume import Geometry, Volume, write_volume

STUDY, PATIENT, FILE = "EXAM-4711", "MUELLER-HANS", "Mueller_Hans_t2w.nii"
OTHER = "Schmidt_Eva.nii"
PLANTED = (STUDY, PATIENT, "Mueller", "Hans", "Schmidt", "SCHMIDT-EVA", "4711")
BASE = {"study_id": STUDY, "patient_id": PATIENT, "t2w": FILE}


def table(folder: Path, *rows: dict[str, str]) -> Path:
    """A CSV beside two empty files; its columns are those of the first row."""
    for name in (FILE, OTHER):
        (folder / name).touch()
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    path = folder / "list.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(path: Path, error: type[Exception] = ManifestError, **options: bool) -> str:
    """The message of a refusal, checked to be one line without anything planted.

    The tests have ids of their own, because pytest's folders, and so the manifest's path, are named after them.
    """
    with pytest.raises(error) as caught:
        read_manifest(path, **options)
    return harmless(caught.value)


def harmless(error: Exception) -> str:
    message = str(error)
    assert "\n" not in message
    assert not [word for word in PLANTED if word.lower() in message.lower()], message
    return message


@pytest.mark.parametrize("number", range(3))
def test_the_alarm_itself(number):
    """Negative control: a message with a study, a patient or a path in it does not pass as harmless."""
    harmless(ManifestError("list.csv row 1: t2w is empty"))
    with pytest.raises(AssertionError):
        harmless(ManifestError(f"row 1: {(STUDY, PATIENT, FILE)[number].lower()} is damaged"))


def without(name: str, **changed: str) -> dict[str, str]:
    return {key: value for key, value in {**BASE, **changed}.items() if key != name}


@pytest.mark.parametrize("name", ["study_id", "patient_id", "t2w"])
def test_missing_column(tmp_path, name):
    """A missing required column is named, with the columns found."""
    message = refusal(table(tmp_path, without(name)))
    assert f"column {name!r} is missing" in message
    assert ", ".join(key for key in BASE if key != name) in message


@pytest.mark.parametrize(("name", "near"), [("study_id", "StudyID"), ("patient_id", "patient"), ("t2w", "T2W")])
def test_missing_column_suggests_a_near_name(tmp_path, name, near):
    """A column that looks like the missing one is suggested; an unlike one is not."""
    assert f"is it the column {near!r}?" in refusal(table(tmp_path, without(name, **{near: "x"})))
    assert "is it" not in refusal(table(tmp_path, without(name, zzzzz="x")))


def test_missing_header_is_not_taken_for_columns(tmp_path):
    """A CSV that begins with its first study is refused without repeating that study."""
    path = table(tmp_path, BASE)
    path.write_text(f"{STUDY},{PATIENT},{FILE}\n")
    assert "does the file begin with a header?" in refusal(path)


def test_a_column_given_twice(tmp_path):
    """Two label columns contradict each other and are refused; two unknown ones are not."""
    path = table(tmp_path, BASE)
    path.write_text(f"study_id,patient_id,t2w,label,label\n{STUDY},{PATIENT},{FILE},0,1\n")
    assert "'label' appears twice" in refusal(path)
    path.write_text(f"study_id,patient_id,t2w,note,note\n{STUDY},{PATIENT},{FILE},0,1\n")
    assert len(read_manifest(path).rows) == 1


@pytest.mark.parametrize("name", ["study_id", "patient_id", "t2w"])
def test_empty_required_cell(tmp_path, name):
    """An empty required cell is refused by row and column."""
    message = refusal(table(tmp_path, BASE, {**BASE, name: "  "}))
    assert f"row 2: {name} is empty" in message


@pytest.mark.parametrize("cells", [f"{STUDY},{PATIENT},{FILE},1,2", f"{STUDY},{PATIENT},{FILE}"])
def test_rows_of_another_length(tmp_path, cells):
    """A row with more cells than the header (an unquoted comma) or fewer (a cut line) is refused, not shifted."""
    path = table(tmp_path, BASE)
    path.write_text(f"study_id,patient_id,t2w,zone\n{cells}\n")
    assert "row 1: has not the 4 cells of the header" in refusal(path)


@pytest.mark.parametrize("name", ["t2w", "lesion_mask", "gland_mask", "zone_mask"])
@pytest.mark.parametrize(
    "value", ["Mueller_gone.nii", f"{FILE}/inside.nii", "Mueller" * 60, "Mueller\0.nii"], ids="abcd"
)
def test_absent_file(tmp_path, name, value):
    """A cell that names no readable file is refused by row and column, whatever the reason."""
    message = refusal(table(tmp_path, {**BASE, name: value}), NotFoundError)
    assert f"row 1: {name} names a file that does not exist" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    """A file that may not be read is refused now, not after an hour."""
    path = table(tmp_path, BASE)
    (tmp_path / FILE).chmod(0)
    assert "may not be read" in refusal(path, NotFoundError)


def test_no_such_manifest(tmp_path):
    """A manifest that is not there is refused with the columns it should have."""
    assert "study_id, patient_id, t2w" in refusal(tmp_path / "none.csv", NotFoundError)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({}, "row 2: the same study_id as row 1"),
        ({"t2w": OTHER, "lesion_id": "b"}, "row 2: duplicate study_id: row 1 names another t2w"),
        ({"patient_id": "SCHMIDT-EVA", "lesion_id": "b"}, "row 2: its study_id belongs to another patient in row 1"),
    ],
)
def test_duplicate_study(tmp_path, second, words):
    """One study id means one study of one patient."""
    first = {**BASE, "lesion_id": ""}
    assert words in refusal(table(tmp_path, first, {**first, **second}))


def test_duplicate_lesion(tmp_path):
    """Two lesions of a study need two ids; with two ids they are read."""
    first = {**BASE, "lesion_id": "a"}
    assert "row 2: the same study_id and lesion_id as row 1" in refusal(table(tmp_path, first, first))
    assert len(read_manifest(table(tmp_path, first, {**first, "lesion_id": "b"})).rows) == 2


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("label", "2", "0 or 1"),
        ("label", "csPCa", "0 or 1"),
        ("label", "1.0", "0 or 1"),
        ("is_crop", "yes", "0 or 1"),
        ("position_mm_lps", "1 2", "three numbers"),
        ("position_mm_lps", "1 2 3 4", "three numbers"),
        ("position_mm_lps", "1 2 nan", "three numbers"),
        ("position_mm_lps", "1 2 inf", "three numbers"),
        ("position_mm_lps", "1;2;3", "three numbers"),
        ("spacing_mm_zyx", "3 0.5", "three numbers"),
        ("spacing_mm_zyx", "3 0.5 0", "0.1 to 10"),
        ("spacing_mm_zyx", "3 0.5 -0.5", "0.1 to 10"),
        ("spacing_mm_zyx", "3000 500 500", "0.1 to 10"),
        ("sha256", "abc", "64 hex digits"),
        ("sha256", "g" * 64, "64 hex digits"),
        ("fold", "one", "whole number"),
        ("fold", "1.5", "whole number"),
        ("fold", "-1", "whole number"),
    ],
)
def test_malformed_cell(tmp_path, name, value, wanted):
    """A malformed cell is refused with row, column, what was found and what is wanted."""
    message = refusal(table(tmp_path, {**BASE, name: ""}, {**BASE, name: value}))
    assert f"row 2: {name} is {value[:40]!r}, expected" in message
    assert wanted in message


@pytest.mark.parametrize("value", [STUDY, PATIENT, FILE], ids="abc")
def test_identifier_in_the_wrong_column(tmp_path, value):
    """A patient, study or path repeated in another column is refused without being repeated."""
    assert "label is the value of another column" in refusal(table(tmp_path, {**BASE, "label": value}))


def test_patient_in_two_folds(tmp_path):
    """A patient in two folds is refused by both rows; in one fold, or in one that is not recorded yet, it is read."""
    first = {**BASE, "lesion_id": "a", "fold": "0"}
    message = refusal(table(tmp_path, first, {**first, "lesion_id": "b", "fold": "1"}))
    assert "row 2" in message
    assert "in row 1; a patient belongs to one fold" in message
    for fold in ("0", ""):
        assert len(read_manifest(table(tmp_path, first, {**first, "lesion_id": "b", "fold": fold})).rows) == 2
    third = {**first, "lesion_id": "c", "fold": "1"}
    assert "row 3" in refusal(table(tmp_path, first, {**first, "lesion_id": "b", "fold": ""}, third))


def test_no_rows(tmp_path):
    """A header alone, and an empty file, are refused."""
    path = table(tmp_path, BASE)
    path.write_text("study_id,patient_id,t2w\n\n")
    assert "has a header but no rows" in refusal(path)
    path.write_text("")
    assert "begin with a header" in refusal(path)


def test_not_utf8(tmp_path):
    """Latin-1 is refused as such; UTF-8 with a byte-order mark, as Excel writes it, is read."""
    path = table(tmp_path, {**BASE, "zone": "Südzone"})
    text = path.read_text(encoding="utf-8")
    path.write_bytes(text.encode("latin-1"))
    assert "cannot be read as a UTF-8 CSV" in refusal(path)
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_manifest(path).rows[0].zone == "Südzone"


def test_damaged_csv(tmp_path):
    """An unclosed quote is refused, not read to the end of the file."""
    path = table(tmp_path, BASE)
    path.write_text(f'study_id,patient_id,t2w\n"{STUDY},{PATIENT},{FILE}\n')
    assert "cannot be read" in refusal(path)


def test_labels_need_a_label_and_a_place(tmp_path):
    """For fine-tuning each row needs a label and a position, a mask or is_crop; without labels neither."""
    row = {**BASE, "label": "1", "position_mm_lps": ""}
    path = table(tmp_path, row)
    assert "row 1: the lesion has no place" in refusal(path, labels=True)
    assert read_manifest(path).rows[0].label == 1
    assert "row 1: label is empty" in refusal(table(tmp_path, {**row, "label": ""}), labels=True)
    for place in ({"position_mm_lps": "1 2 3"}, {"lesion_mask": FILE}, {"is_crop": "1"}):
        assert read_manifest(table(tmp_path, {**row, **place}), labels=True).rows[0].has_lesion


def test_unknown_columns_and_relative_paths(tmp_path, monkeypatch):
    """Unknown columns change nothing, and paths start at the CSV's folder, not at the working one."""
    path = table(tmp_path, {**BASE, "psa": "7.2", "position_mm_lps": " 1.5 -2 3e1 ", "zone": "PZ"})
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    (row,) = read_manifest(Path("..") / path.name).rows
    assert row.t2w == (tmp_path / FILE).resolve()
    assert row.position_mm_lps == (1.5, -2.0, 30.0)
    assert (row.number, row.zone, row.label, row.is_crop) == (1, "PZ", None, False)
    path.write_text(path.read_text().replace(FILE, str(tmp_path / OTHER)))
    assert read_manifest(path).rows[0].t2w == (tmp_path / OTHER).resolve()


# Opening: a 3 x 1 x 1 mm volume of 6 x 20 x 20 voxels, so its middle is at x, y, z = 9.5, 9.5, 7.5 mm.


def blob(at: tuple[int, int, int]) -> np.ndarray:
    voxels = np.zeros((6, 20, 20), np.int16)
    voxels[at] = 1
    return voxels


@pytest.fixture
def study(tmp_path):
    """A folder with a volume, two masks and an empty mask; returns a function that makes a manifest."""
    voxels = np.random.default_rng(0).integers(0, 500, (6, 20, 20)).astype(np.int16)
    arrays = {FILE: voxels, "Mueller_lesion.nii": blob((1, 2, 3)), "Mueller_gland.nii": blob((4, 5, 6))}
    for name, array in {**arrays, "Mueller_empty.nii": blob((0, 0, 0)) * 0}.items():
        write_volume(Volume(array, Geometry((3.0, 1.0, 1.0))), tmp_path / name)

    def make(*rows: dict[str, str]):
        path = tmp_path / "list.csv"
        path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
        return read_manifest(path)

    return make


def test_order_of_centres(study):
    """The crop's centre is the position, else the lesion mask's, else the gland mask's, else the image's."""
    row = {**BASE, "position_mm_lps": "7 8 9", "lesion_mask": "Mueller_lesion.nii", "gland_mask": "Mueller_gland.nii"}
    expected = [(7, 8, 9), (3, 2, 3), (6, 5, 12), (9.5, 9.5, 7.5)]
    for name, centre in zip((None, "position_mm_lps", "lesion_mask", "gland_mask"), expected, strict=True):
        row = {**row, name: ""} if name else row
        manifest = study(row)
        assert open_study(manifest, manifest.rows[0]).centre_mm_lps == pytest.approx(centre, abs=1e-4)


def test_a_crop_is_centred_on_itself(study):
    """With is_crop the array itself is the place, whatever the masks say."""
    manifest = study({**BASE, "gland_mask": "Mueller_gland.nii", "is_crop": "1"})
    assert open_study(manifest, manifest.rows[0]).centre_mm_lps == pytest.approx((9.5, 9.5, 7.5), abs=1e-4)


def test_lesion_outside_and_empty_mask(study):
    """A lesion outside its volume, or an empty mask, is a ManifestError that names the row."""
    manifest = study({**BASE, "position_mm_lps": "7 8 90"})
    with pytest.raises(ManifestError, match="outside the volume") as caught:
        open_study(manifest, manifest.rows[0])
    assert "row 1" in harmless(caught.value)
    manifest = study({**BASE, "lesion_mask": "Mueller_empty.nii"})
    with pytest.raises(ManifestError, match="the mask is empty") as caught:
        open_study(manifest, manifest.rows[0])
    assert "row 1 (lesion_mask)" in harmless(caught.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _constant(path: Path) -> None:
    write_volume(Volume(np.ones((6, 20, 20), np.int16), Geometry((3.0, 1.0, 1.0))), path)


@pytest.mark.parametrize("damage", [_cut, _constant, lambda path: path.write_bytes(b"Mueller, Hans")], ids="abc")
@pytest.mark.parametrize("folder", ["plain", "Mueller  Hans", "Mueller\tHans", "Mueller" + "x/Hans" * 90], ids="abcd")
def test_damaged_volume_names_the_row(tmp_path, damage, folder, study):
    """A damaged volume is a VolumeError that names the row and not the path, however odd the folder's name."""
    (place := tmp_path / folder).mkdir(parents=True)
    shutil.copy(tmp_path / FILE, place / FILE)
    manifest = study({**BASE, "t2w": f"{folder}/{FILE}"})
    assert open_study(manifest, manifest.rows[0]).volume.source == f"{manifest.path} row 1 (t2w)"
    damage(place / FILE)
    with pytest.raises(VolumeError) as caught:
        open_study(manifest, manifest.rows[0])
    message = harmless(caught.value)
    assert message.startswith(f"{manifest.path} row 1 (t2w): ")
    assert len(message) > len(f"{manifest.path} row 1 (t2w): ") + 20  # the reason is still there
    assert caught.value.__cause__ is None


def test_damaged_dicom_slice_names_the_row(tmp_path, study):
    """A file that is no slice in a DICOM folder is refused without its name, which is often the patient's."""
    (tmp_path / "series").mkdir()
    for name in ("Mueller_1", "Mueller_10"):
        (tmp_path / "series" / name).write_bytes(bytes(200))
    manifest = study({**BASE, "t2w": "series"})
    with pytest.raises(VolumeError, match="is no DICOM file") as caught:
        open_study(manifest, manifest.rows[0])
    assert "row 1 (t2w)" in harmless(caught.value)


def test_data_file_of_a_header_is_not_named(tmp_path, study):
    """A .mhd whose data file is gone is refused without that file's name."""
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 3\nDimSize = 20 20 6\n"
        "ElementType = MET_SHORT\nElementDataFile = Mueller_Hans.raw\n"
    )
    (tmp_path / "Mueller_Hans.mhd").write_text(header)
    manifest = study({**BASE, "t2w": "Mueller_Hans.mhd"})
    with pytest.raises(VolumeError, match="ElementDataFile") as caught:
        open_study(manifest, manifest.rows[0])
    assert "row 1 (t2w)" in harmless(caught.value)


def test_vanished_file_does_not_name_its_neighbours(tmp_path, study):
    """A file deleted after the check is missed by row; the reader's 'did you mean' would name another patient."""
    manifest = study(BASE)
    (tmp_path / FILE).rename(tmp_path / FILE.replace("Hans", "Hanna"))
    with pytest.raises(NotFoundError, match=r"row 1 \(t2w\): the file is no longer there") as caught:
        open_study(manifest, manifest.rows[0])
    harmless(caught.value)


def test_wrong_hash_names_the_row(study):
    """A file that is not the one whose hash the manifest holds is refused by row."""
    manifest = study({**BASE, "sha256": "0" * 64})
    with pytest.raises(VolumeError, match="sha256") as caught:
        open_study(manifest, manifest.rows[0])
    assert "row 1" in harmless(caught.value)


def test_a_shared_volume_is_read_once(study, tmp_path, monkeypatch):
    """Three lesions of one study cost one reading and share the voxels; another study is read again."""
    shutil.copy(tmp_path / FILE, tmp_path / OTHER)
    lesions = [{**BASE, "lesion_id": name, "position_mm_lps": f"{name} 8 9"} for name in "123"]
    other = {**lesions[0], "study_id": "B", "t2w": OTHER}
    reads = []
    right = studies.read_volume
    monkeypatch.setattr(studies, "read_volume", lambda path, **k: reads.append(path.name) or right(path, **k))
    opened = list(open_all(study(*lesions, other)))
    assert reads == [FILE, OTHER]
    assert [each.centre_mm_lps[0] for each in opened] == [1, 2, 3, 1]
    assert opened[0].volume.voxels is opened[2].volume.voxels
    assert [each.volume.source.split()[-2] for each in opened] == ["1", "2", "3", "4"]  # each names its own row


def test_a_shared_array_with_another_spacing_is_read_again(study, tmp_path):
    """A bare array has the spacing of its own row, not that of the row before."""
    np.save(tmp_path / "bare.npy", np.arange(400.0).reshape(1, 20, 20))
    row = {**BASE, "t2w": "bare.npy", "lesion_id": "a", "spacing_mm_zyx": "3 1 1", "is_crop": "1"}
    opened = list(open_all(study(row, {**row, "lesion_id": "b", "spacing_mm_zyx": "3 0.5 0.5"})))
    assert [each.volume.geometry.spacing_mm_zyx for each in opened] == [(3, 1, 1), (3, 0.5, 0.5)]
