"""Mask files of a manifest: useless ones are refused by row, and what training gets of good ones is theirs."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.errors import ManifestError, NotFoundError, UsageError, VolumeError
from prostate_mim.manifest import Manifest, read_manifest
from prostate_mim.spec import InputSpec
from prostate_mim.store import prepare_study
from prostate_mim.studies import open_all, open_study
from prostate_mim.volume import Volume, read_mask, write_volume

SPEC = InputSpec(size_zyx=(6, 24, 24))


def changed_list(cohort: Path, tmp_path: Path, **cells: str) -> Manifest:
    """The first row of the cohort with other cells, as a manifest of its own."""
    with cohort.open(newline="") as stream:
        row = next(csv.DictReader(stream))
    for name in ("t2w", "gland_mask", "lesion_mask", "zone_mask"):
        row[name] = str(cohort.parent / row[name])
    row.update(cells)
    path = tmp_path / "list.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, row)
        writer.writeheader()
        writer.writerow(row)
    return read_manifest(path)


@pytest.mark.parametrize("name", ["gland", "lesion"])
def test_unreadable_masks_name_the_row_and_no_path(cohort, tmp_path, name):
    """A damaged mask and one that is gone stop a study, in words without a patient's name."""
    path = tmp_path / f"Mueller_{name}.nii.gz"
    path.write_bytes(b"Mueller, Hans")
    listed = changed_list(cohort, tmp_path, position_mm_lps="0 0 0", **{f"{name}_mask": str(path)})
    for error in (VolumeError, NotFoundError):
        with pytest.raises(error) as caught:
            open_study(listed, listed.rows[0])
        assert str(caught.value).startswith(f"{listed.path} row 1 ({name}_mask): ")
        assert "Mueller" not in str(caught.value)
        path.unlink(missing_ok=True)


def test_useless_masks_are_refused(cohort, tmp_path):
    """An empty mask, one of another place, and an unknown name: each names the row or the choices."""
    whole = read_mask(read_manifest(cohort).rows[0].gland_mask)
    x, y, z = whole.geometry.origin_mm_lps
    moved = replace(whole.geometry, origin_mm_lps=(x + 500, y, z))
    empty = Volume(whole.voxels * 0, whole.geometry)
    for found, words in ((empty, "the mask is empty"), (Volume(whole.voxels, moved), "lies within the volume")):
        write_volume(found, path := tmp_path / f"{len(words)}.nii.gz")
        with pytest.raises(ManifestError, match=rf"row 1 \(gland_mask\): .*{words}"):
            list(open_all(changed_list(cohort, tmp_path, gland_mask=str(path))))
    (study,) = open_all(changed_list(cohort, tmp_path))
    with pytest.raises(UsageError, match="'glnad' is unknown; choose one of gland, lesion, pz, tz"):
        study.read_mask("glnad")


@pytest.mark.parametrize(("shape", "fits"), [((6, 20, 20), True), ((6, 20, 22), False)])
def test_arrays_without_geometry_need_one_shape(tmp_path, shape, fits):
    """Bare arrays say nothing of their place: a mask of another shape cannot be put onto the volume."""
    np.save(tmp_path / "t2w.npy", np.random.default_rng(0).normal(size=(6, 20, 20)))
    gland = np.zeros(shape, np.uint8)
    gland[2:4, 5:12, 3:9] = 1
    np.save(tmp_path / "gland.npy", gland)
    (tmp_path / "list.csv").write_text(
        "study_id,patient_id,t2w,gland_mask,spacing_mm_zyx,is_crop\na,a,t2w.npy,gland.npy,3 0.5 0.5,1\n"
    )
    if not fits:
        with pytest.raises(ManifestError, match=r"row 1 \(gland_mask\): the mask has \(6, 20, 22\) voxels"):
            list(open_all(read_manifest(tmp_path / "list.csv")))
        return
    (study,) = open_all(read_manifest(tmp_path / "list.csv"))
    np.testing.assert_array_equal(prepare_study(study, SPEC.with_size((6, 20, 20))).mask("gland"), gland > 0)
