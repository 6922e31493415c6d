"""One image has one hash in every format, orientation and number type; another image has another."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import write_dicom_series

from prostate_mim.manifest import read_manifest
from prostate_mim.phantom import make_study
from prostate_mim.spec import InputSpec
from prostate_mim.store import prepare_manifest
from prostate_mim.volume import Volume, read_volume, write_volume
from prostate_mim.volume.voxel_hash import voxel_hash


@pytest.fixture(scope="module")
def volume() -> Volume:
    """A phantom in whole numbers that DICOM can hold, oblique as it is."""
    study = make_study(11, 0).volume
    scaled = (study.voxels - study.voxels.min()) / np.ptp(study.voxels) * 4095
    return Volume(np.rint(scaled).astype(np.int16), study.geometry)


def as_nifti(volume: Volume, path: Path) -> nib.Nifti1Image:
    write_volume(volume, path)
    return nib.load(path)


def test_formats_and_number_types(volume: Volume, tmp_path: Path) -> None:
    """.nii.gz, .nii, .mha, float32 and a DICOM folder: one hash."""
    expected = voxel_hash(volume)
    for suffix in ("nii.gz", "nii", "mha"):
        write_volume(volume, tmp_path / f"a.{suffix}")
        assert voxel_hash(read_volume(tmp_path / f"a.{suffix}")) == expected, suffix
    floats = Volume(volume.voxels.astype(np.float32), volume.geometry)
    write_volume(floats, tmp_path / "float.nii.gz")
    assert voxel_hash(read_volume(tmp_path / "float.nii.gz")) == expected
    write_dicom_series(tmp_path / "dicom", volume)
    assert voxel_hash(read_volume(tmp_path / "dicom")) == expected


def test_every_orientation_of_storage(volume: Volume, tmp_path: Path) -> None:
    """The same image stored along axes in another order and direction (24 of the 48 ways): one hash."""
    expected = voxel_hash(volume)
    image = as_nifti(volume, tmp_path / "a.nii.gz")
    for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = image.as_reoriented(np.stack([np.asarray(order), np.asarray(flips)], 1))
            nib.save(turned, tmp_path / "turned.nii")
            assert voxel_hash(read_volume(tmp_path / "turned.nii")) == expected, (order, flips)


def test_another_image_has_another_hash(volume: Volume, tmp_path: Path) -> None:
    """One voxel by one grey level, mirrored without saying so, a slice less, another shape of the same numbers."""
    expected = voxel_hash(volume)
    voxels = volume.voxels.copy()
    voxels[3, 40, 50] += 1
    changed = [voxels, volume.voxels[:, :, ::-1], volume.voxels[1:], volume.voxels + 1]
    for number, other in enumerate(changed):
        write_volume(Volume(np.ascontiguousarray(other), volume.geometry), tmp_path / f"{number}.mha")
        assert voxel_hash(read_volume(tmp_path / f"{number}.mha")) != expected, number
    z, y, x = volume.shape_zyx
    assert voxel_hash(Volume(volume.voxels.reshape(x, y, z), volume.geometry)) != expected
    assert voxel_hash(Volume(np.zeros((2, 2, 2), np.float32), volume.geometry)) == voxel_hash(
        Volume(np.full((2, 2, 2), -0.0, np.float32), volume.geometry)
    )


def test_hashes_travel_with_prepared_studies(volume: Volume, tmp_path: Path) -> None:
    """In memory, made in a store, and found there again when the files' content is all that is asked for."""
    write_volume(volume, tmp_path / "a.mha")
    write_volume(Volume(volume.voxels[::-1].copy(), volume.geometry), tmp_path / "b.nii.gz")
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["study_id", "patient_id", "t2w"], ["s1", "p1", "a.mha"], ["s2", "p2", "b.nii.gz"]]
        )
    listed = read_manifest(tmp_path / "list.csv")
    expected = {n: voxel_hash(read_volume(tmp_path / name)) for n, name in ((1, "a.mha"), (2, "b.nii.gz"))}
    spec = InputSpec(size_zyx=(4, 16, 16))
    for store, reused in ((None, 0), (tmp_path / "store", 0), (tmp_path / "store", 2)):
        found = prepare_manifest(listed, spec, store)
        assert (found.voxel_hashes, found.reused) == (expected, reused)
    assert len(set(expected.values())) == 2
