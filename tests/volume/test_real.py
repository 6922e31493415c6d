"""Real studies: every file we were given is read, and DICOM and NIfTI of one series are the same volume."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from prostate_mim.errors import VolumeError
from prostate_mim.volume import read_mask, read_volume, write_volume


def series(real_data, patient, ending):
    """The one DICOM folder of a patient whose name contains ``ending``."""
    return next(path for path in (real_data / "prostatex/dicom" / patient).glob("*/*") if path.name.startswith(ending))


def test_all_prostatex_niftis(real_data, tmp_path):
    """All 11 NIfTI files are read, agree with SimpleITK, and survive a write."""
    paths = sorted((real_data / "prostatex/nifti").glob("*.nii.gz"))
    assert len(paths) == 11
    for path in paths:
        volume = read_volume(path)
        image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
        np.testing.assert_array_equal(volume.voxels, sitk.GetArrayFromImage(image))
        assert volume.geometry.origin_mm_lps == pytest.approx(image.GetOrigin(), abs=1e-3)
        assert volume.geometry.spacing_mm_zyx == pytest.approx(image.GetSpacing()[::-1], abs=1e-4)
    write_volume(volume, tmp_path / "v.mha")
    np.testing.assert_array_equal(read_volume(tmp_path / "v.mha").voxels, volume.voxels)


@pytest.mark.parametrize(("patient", "number"), [("ProstateX-0000", 4), ("ProstateX-0001", 6), ("ProstateX-0001", 10)])
def test_dicom_equals_nifti(real_data, patient, number):
    """The DICOM folder and the NIfTI of one series give equal voxels, and corners within 1e-3 mm (measured 5e-4)."""
    dicom = read_volume(series(real_data, patient, f"{number}."))
    nifti = read_volume(real_data / "prostatex/nifti" / f"{patient}_t2tsetra_series{number}.nii.gz")
    np.testing.assert_array_equal(dicom.voxels, nifti.voxels)
    assert dicom.geometry.spacing_mm_zyx == pytest.approx(nifti.geometry.spacing_mm_zyx, abs=1e-3)
    last = np.array(dicom.voxels.shape) - 1
    for corner in (np.zeros(3), last, last * [1, 0, 1]):
        there = nifti.geometry.index_to_position(corner)
        np.testing.assert_allclose(dicom.geometry.index_to_position(corner), there, atol=1e-3)


@pytest.mark.parametrize(("number", "stack"), [(3, "sagittal"), (5, "coronal")])
def test_other_stacks_are_refused(real_data, number, stack):
    """The sagittal and the coronal series are refused by name."""
    with pytest.raises(VolumeError, match=stack):
        read_volume(series(real_data, "ProstateX-0000", f"{number}."))


def test_damaged_dicom_folders_are_refused(real_data, tmp_path):
    """A missing, a truncated and a doubled slice, and two series in one folder, are each refused."""
    source = series(real_data, "ProstateX-0001", "6.")
    other = series(real_data, "ProstateX-0001", "10.")
    copy = tmp_path / "series"
    shutil.copytree(source, copy)
    files = sorted(copy.iterdir())
    assert read_volume(copy).shape_zyx[0] == len(files)
    whole = files[7].read_bytes()
    files[7].unlink()
    with pytest.raises(VolumeError, match=r"gap of 6\.00 mm"):
        read_volume(copy)
    for cut in (1, 2, 1000, len(whole) // 2, len(whole) - 200):
        files[7].write_bytes(whole[:-cut])
        with pytest.raises(VolumeError):
            read_volume(copy)
    files[7].write_bytes(whole[: len(whole) // 4])
    with pytest.raises(VolumeError, match="truncated"):
        read_volume(copy)
    files[7].write_bytes(whole)
    shutil.copy(files[7], copy / "again.dcm")
    with pytest.raises(VolumeError, match="same position"):
        read_volume(copy)
    shutil.copy(sorted(other.iterdir())[0], copy / "again.dcm")
    with pytest.raises(VolumeError, match="2 DICOM series"):
        read_volume(copy)


def test_picai_masks(real_data):
    """All 27 PI-CAI masks are read as labels, in axial LPS axes (up to 33 degrees oblique)."""
    paths = sorted((real_data / "prostatex/picai_labels").glob("**/*.nii.gz"))
    assert len(paths) == 27
    for path in paths:
        mask = read_mask(path)
        assert mask.voxels.dtype == np.int16
        assert mask.shape_zyx[1:] == (384, 384)
        assert np.abs(mask.geometry.direction - np.eye(3)).max() < 0.6


def test_prostate158(real_data):
    """The Prostate158 image is read, and its tumour mask, stored as floating point, becomes labels on the same grid."""
    folder = real_data / "prostate158/020"
    image = read_volume(folder / "t2.nii.gz")
    mask = read_mask(folder / "t2_tumor_reader1.nii.gz")
    assert mask.voxels.shape == image.voxels.shape
    assert set(np.unique(mask.voxels)) == {0, 3}
    np.testing.assert_allclose(mask.geometry.origin_mm_lps, image.geometry.origin_mm_lps, atol=1e-3)


def test_promise12_needs_spacing(real_data):
    """Bare PROMISE12 arrays are read with a spacing and refused without."""
    path = next((real_data / "promise12").glob("image_train*.npy.gz"))
    assert read_volume(path, spacing_mm_zyx=(3.6, 1.2, 1.2)).geometry.spacing_mm_zyx == (3.6, 1.2, 1.2)
    assert read_mask(str(path).replace("image", "label"), spacing_mm_zyx=(3.6, 1.2, 1.2)).voxels.max() == 1
    with pytest.raises(VolumeError, match="spacing_mm_zyx"):
        read_volume(path)
