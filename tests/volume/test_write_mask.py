"""A mask written for an image lies on it in every library, and brings none of the text of the image's header."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_series import write_dicom_series

from prostate_mim.errors import NotFoundError, UsageError, VolumeError
from prostate_mim.volume import read_mask, read_volume, write_mask_like, write_volume

SUFFIXES = [".nii", ".nii.gz", ".mha"]
# file axes (i, j, k) as (patient axis, sign): LPS, RAS, slices first, a mix
ORDERS = [((0, 1), (1, 1), (2, 1)), ((0, -1), (1, -1), (2, 1)), ((2, -1), (0, 1), (1, -1)), ((1, 1), (2, 1), (0, -1))]
SECRETS = [b"Mueller", b"1969", b"Hospital"]


def stored(volume, order, path):
    """The volume as a NIfTI on other axes by nibabel, with text in every free field."""
    affine = np.eye(4)
    affine[:3, :3] = volume.geometry.direction * np.array(volume.geometry.spacing_mm_zyx[::-1])
    affine[:3, 3] = volume.geometry.origin_mm_lps
    image = nib.Nifti1Image(volume.voxels.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image = image.as_reoriented(np.array(order))
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    image.header["descrip"], image.header["db_name"] = b"Mueller, Hans", b"Mueller"
    image.header["aux_file"], image.header["intent_name"] = b"1969-04-01.txt", b"Hospital X"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Mueller of Hospital X"))
    nib.save(image, path)
    return image


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("order", ORDERS, ids=["lps", "ras", "slices-first", "mixed"])
def test_a_mask_overlays_its_nifti(make_volume, tmp_path, suffix, order):
    """Nibabel and SimpleITK: voxel by voxel and by place, the mask is where the image is bright; we read it back."""
    reference, path = tmp_path / "image.nii.gz", tmp_path / f"mask{suffix}"
    image = stored(make_volume(), order, reference)
    volume = read_volume(reference)
    write_mask_like(volume.voxels > 50, reference, path)
    bright = np.asarray(image.dataobj) > 50
    assert bright.any()
    if suffix != ".mha":
        found = nib.load(path)
        np.testing.assert_array_equal(np.asarray(found.dataobj) > 0, bright)
        np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
        assert found.get_data_dtype() == np.uint8
    found, theirs = sitk.ReadImage(str(path)), sitk.ReadImage(str(reference))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found) > 0, sitk.GetArrayFromImage(theirs) > 50)
    for ours, wanted in (
        (found.GetOrigin(), theirs.GetOrigin()),
        (found.GetSpacing(), theirs.GetSpacing()),
        (found.GetDirection(), theirs.GetDirection()),
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    again = read_mask(path)
    np.testing.assert_array_equal(again.voxels > 0, volume.voxels > 50)
    np.testing.assert_allclose(again.geometry.origin_mm_lps, volume.geometry.origin_mm_lps, atol=1e-5)
    np.testing.assert_allclose(again.geometry.direction, volume.geometry.direction, atol=1e-5)
    assert again.geometry.spacing_mm_zyx == pytest.approx(volume.geometry.spacing_mm_zyx, abs=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_free_text_is_not_copied(make_volume, tmp_path, suffix):
    """Names in NIfTI's text fields and extension, and in .mha comments, are in no written file."""
    nifti, mha = tmp_path / "image.nii", tmp_path / "image.mha"
    stored(make_volume(), ORDERS[1], nifti)
    write_volume(make_volume(), mha)
    remark = b"Comment = Mueller 1969 Hospital\n"
    mha.write_bytes(mha.read_bytes().replace(b"ElementDataFile", remark + b"ElementDataFile"))
    for reference in (nifti, mha):
        assert any(secret in reference.read_bytes() for secret in SECRETS)  # control: it was there to be copied
        for write in (
            lambda path, source=reference: write_mask_like(read_volume(source).voxels > 50, source, path),
            lambda path, source=reference: write_volume(read_volume(source), path),
        ):
            write(path := tmp_path / f"written{suffix}")
            data = path.read_bytes()
            data = gzip.decompress(data) if suffix == ".nii.gz" else data
            assert not [secret for secret in SECRETS if secret in data]


def test_a_mask_for_a_dicom_folder_and_for_a_volume(make_volume, tmp_path):
    """A DICOM folder and a Volume serve as the reference; labels over 255 are kept as int16."""
    volume = make_volume()
    write_dicom_series(tmp_path / "series", volume)
    labels = (volume.voxels > 50) * 300
    for reference in (tmp_path / "series", volume):
        write_mask_like(labels, reference, tmp_path / "mask.nii.gz")
        found = read_mask(tmp_path / "mask.nii.gz")
        np.testing.assert_array_equal(found.voxels, labels)
        np.testing.assert_allclose(found.geometry.origin_mm_lps, volume.geometry.origin_mm_lps, atol=1e-4)
        np.testing.assert_allclose(found.geometry.direction, volume.geometry.direction, atol=1e-6)
    image = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert image.GetPixelIDTypeAsString() == "16-bit signed integer"


def test_refusals(make_volume, tmp_path):
    """Another shape, fractions, text, a bare array and a missing reference are refused, and nothing is written."""
    volume = make_volume()
    write_volume(volume, tmp_path / "image.nii")
    np.save(tmp_path / "bare.npy", volume.voxels)
    out = tmp_path / "out" / "mask.nii"
    out.parent.mkdir()
    for labels, reference, error in (
        (volume.voxels[1:] > 5, tmp_path / "image.nii", UsageError),
        (volume.voxels[1:] > 5, volume, UsageError),
        (volume.voxels / 7, volume, VolumeError),
        (volume.voxels - 50, volume, VolumeError),
        (volume.voxels.astype(str), volume, VolumeError),
        (volume.voxels > 5, tmp_path / "bare.npy", VolumeError),
        (volume.voxels > 5, tmp_path / "none.nii", NotFoundError),
    ):
        with pytest.raises(error) as caught:
            write_mask_like(labels, reference, out)
        assert "\n" not in str(caught.value)
    assert not list(out.parent.iterdir())
