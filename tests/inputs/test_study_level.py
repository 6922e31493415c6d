"""Rows about whole studies: a label without a place, cropped around the gland."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_volumes import GEOMETRY, SHAPE, SPEC, all_masks, image, write_rows, write_study

from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.manifest import level_of, read_manifest
from prostate_mim.store import prepare_manifest
from prostate_mim.studies import open_all, open_study, read_masks
from prostate_mim.volume import Volume, write_volume
from prostate_mim.volume.grids import labelled_places

PLACE = "3 11 27"


def centre_of(folder, level, **cells):
    """The centre of one row at a level."""
    path = write_rows(folder / "m.csv", write_study(folder, **cells))
    return next(open_all(read_manifest(path, level=level))).centre_mm_lps


def test_the_centre_of_a_study(tmp_path):
    """The gland's middle whatever the row says of a lesion, else the image's. At level lesion the lesion's."""
    gland = tuple(labelled_places(all_masks()["gland"]).mean(0))
    lesion = tuple(labelled_places(all_masks()["lesion"]).mean(0))
    for cells in ({}, {"lesion_mask": ""}, {"position_mm_lps": PLACE}):
        assert centre_of(tmp_path, "study", **cells) == pytest.approx(gland)
    assert centre_of(tmp_path, "study", gland_mask="") == pytest.approx(tuple(image().centre_mm_lps))
    assert centre_of(tmp_path, "study", is_crop="1") == pytest.approx(tuple(image().centre_mm_lps))
    assert centre_of(tmp_path, "lesion") == pytest.approx(lesion)
    assert centre_of(tmp_path, "lesion", position_mm_lps=PLACE) == (3.0, 11.0, 27.0)
    assert gland != pytest.approx(lesion)


def test_labels_without_a_place(tmp_path):
    """At level study a label is enough, at level lesion not; an empty label is refused at both."""
    bare = write_study(tmp_path, lesion_mask="")
    path = write_rows(tmp_path / "m.csv", bare)
    (row,) = read_manifest(path, labels=True, level="study").rows
    assert (row.level, row.label) == ("study", 1)
    with pytest.raises(ManifestError, match="row 1: the lesion has no place"):
        read_manifest(path, labels=True)
    write_rows(path, {**bare, "label": ""})
    with pytest.raises(ManifestError, match="row 1: label is empty"):
        read_manifest(path, labels=True, level="study")


def test_one_row_a_study(tmp_path):
    """Two lesions of a study cannot both be the study."""
    row = write_study(tmp_path)
    header = [*row, "lesion_id"]
    path = tmp_path / "m.csv"
    path.write_text("\n".join([",".join(header), *(",".join([*row.values(), name]) for name in "12")]) + "\n")
    assert len(read_manifest(path).rows) == 2
    with pytest.raises(ManifestError, match="row 2: the same study as row 1"):
        read_manifest(path, level="study")


def test_an_unknown_level(tmp_path):
    """Refused by name, before the file is looked at."""
    with pytest.raises(UsageError, match="level 'patient'"):
        read_manifest(tmp_path / "none.csv", level="patient")


def test_the_level_is_part_of_an_entry(tmp_path):
    """A store keeps crops around the lesion and around the gland apart."""
    path = write_rows(tmp_path / "m.csv", write_study(tmp_path))
    made = [prepare_manifest(read_manifest(path, level=level), SPEC, tmp_path / "s") for level in ("lesion", "study")]
    assert [one.made for one in made] == [1, 1]
    first, second = (one.rows[0].study for one in made)
    assert not np.array_equal(first.voxels[:, :, :], second.voxels[:, :, :])
    assert prepare_manifest(read_manifest(path, level="study"), SPEC, tmp_path / "s").reused == 1


@pytest.mark.parametrize(("text", "grade"), [("", None), *((str(n), n) for n in range(6))])
def test_isup_grades(tmp_path, text, grade):
    """0 to 5; empty where nobody says."""
    (row,) = read_manifest(write_rows(tmp_path / "m.csv", write_study(tmp_path, isup=text))).rows
    assert row.isup == grade


@pytest.mark.parametrize("text", ["6", "-1", "2.0", "3+4", "two", "1,N/A"])
def test_no_isup_grades(tmp_path, text):
    """Anything else is refused with the row, what it found, and what it wants."""
    path = write_rows(tmp_path / "m.csv", write_study(tmp_path, isup=text))
    with pytest.raises(ManifestError, match=r"row 1: isup is .*grade group"):
        read_manifest(path)


def test_a_missing_zone_file_is_refused(tmp_path):
    """By row and column; the value, which may name a patient, is not shown."""
    path = write_rows(tmp_path / "m.csv", write_study(tmp_path, zone_mask="Mueller_zones.nii.gz"))
    with pytest.raises(Exception, match="row 1: zone_mask names a file that does not exist") as caught:
        read_manifest(path)
    assert "Mueller" not in str(caught.value)


def test_a_lesion_is_not_the_centre_by_another_way(tmp_path):
    """Left out masks change nothing of the centre: what it depends on is read all the same."""
    path = write_rows(tmp_path / "m.csv", write_study(tmp_path))
    manifest = read_manifest(path, level="study")
    whole, bare = (open_study(manifest, manifest.rows[0], masks=masks) for masks in (("gland", "pz"), ()))
    assert whole.centre_mm_lps == bare.centre_mm_lps
    assert set(bare.masks) == {"gland"}
    assert dataclasses.replace(manifest.rows[0], level="lesion") != manifest.rows[0]


DETAILS = [
    {},
    {"finetuning": {}},
    {"finetuning": None},
    {"finetuning": {"level": "lesion"}},
    {"finetuning": {"level": 3}},
]


def test_the_level_of_a_release():
    """Only a release that says so is of studies; whatever else is there is of lesions."""
    assert level_of({"finetuning": {"level": "study", "mode": "full"}}) == "study"
    assert [level_of(details) for details in DETAILS] == ["lesion"] * len(DETAILS)


def test_masks_of_a_single_volume(tmp_path):
    """Three files give four masks; empty ones, ones of another place, strange zones and names are refused."""
    row = write_study(tmp_path)
    paths = {name: tmp_path / row[f"{name}_mask"] for name in ("gland", "lesion", "zone")}
    masks = read_masks(paths, image())
    for name, mask in all_masks().items():
        assert np.array_equal(masks[name].voxels > 0, mask.voxels > 0)
    off = dataclasses.replace(GEOMETRY, origin_mm_lps=(900.0, 0.0, 0.0))
    for found, words in (
        (Volume(np.zeros(SHAPE, np.int16), GEOMETRY), "mask is empty"),
        (Volume(all_masks()["gland"].voxels, off), "nothing of the mask lies within"),
        (Volume(all_masks()["gland"].voxels * 3, GEOMETRY), "holds the label 3"),
    ):
        write_volume(found, tmp_path / "bad.nii.gz")
        with pytest.raises(ManifestError, match=words):
            read_masks({"zone": tmp_path / "bad.nii.gz"}, image())
    with pytest.raises(UsageError, match="mask 'pz' is unknown"):
        read_masks({"pz": tmp_path / "bad.nii.gz"}, image())
