"""What is written is read back, and the same volume is always the same bytes."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.volume import Geometry, Volume, read_volume, write_volume

SUFFIXES = [".nii", ".nii.gz", ".mha"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", ">i2", "f4", "f8", "i8"])
def test_round_trip(make_volume, tmp_path, suffix, dtype):
    """Voxels come back equal with their type, geometry within 1e-5 mm."""
    volume = make_volume(dtype=dtype)
    write_volume(volume, tmp_path / f"v{suffix}")
    found = read_volume(tmp_path / f"v{suffix}")
    np.testing.assert_array_equal(found.voxels, volume.voxels)
    assert found.voxels.dtype == np.dtype(dtype).newbyteorder("=")
    assert found.geometry.spacing_mm_zyx == pytest.approx(volume.geometry.spacing_mm_zyx, abs=1e-5)
    assert found.geometry.origin_mm_lps == pytest.approx(volume.geometry.origin_mm_lps, abs=1e-5)
    np.testing.assert_allclose(found.geometry.direction, volume.geometry.direction, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_far_origin_keeps_its_digits(make_volume, tmp_path, suffix):
    """An origin that single precision would move by more than 1e-5 mm is kept all the same."""
    origin = (-1234.56789, 987.654321, 0.1)
    volume = Volume(make_volume().voxels, Geometry((3.0, 0.5, 0.5), origin))
    write_volume(volume, tmp_path / f"v{suffix}")
    assert read_volume(tmp_path / f"v{suffix}").geometry.origin_mm_lps == pytest.approx(origin, abs=1e-5)
    assert abs(float(np.float32(origin[0])) - origin[0]) > 1e-5  # negative control


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_are_deterministic(make_volume, tmp_path, suffix):
    """Two files of one volume under two names are equal byte for byte, and nothing else is left in the folder."""
    write_volume(make_volume(), tmp_path / f"a{suffix}")
    write_volume(make_volume(), tmp_path / f"b{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_other_libraries_see_the_same_place(make_volume, tmp_path):
    """SimpleITK and nibabel place the last voxel of our .mha and .nii.gz where we do."""
    volume = make_volume()
    place = volume.geometry.index_to_position([4, 6, 8])
    for suffix in SUFFIXES:
        write_volume(volume, tmp_path / f"v{suffix}")
        image = sitk.ReadImage(str(tmp_path / f"v{suffix}"))
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((8, 6, 4)), place, atol=1e-3)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.voxels)
    affine = nib.load(tmp_path / "v.nii.gz").affine
    np.testing.assert_allclose((affine @ [8, 6, 4, 1])[:3] * [-1, -1, 1], place, atol=1e-4)


def test_refusals(make_volume, tmp_path):
    """An unknown ending, a missing folder and an unstorable number type are refused, and nothing is written."""
    with pytest.raises(UsageError, match=r"\.txt"):
        write_volume(make_volume(), tmp_path / "v.txt")
    with pytest.raises(UsageError, match="cannot be written"):
        write_volume(make_volume(), tmp_path / "no" / "v.nii")
    with pytest.raises(VolumeError, match="float16"):
        write_volume(make_volume(dtype="f2"), tmp_path / "v.nii")
    assert not list(tmp_path.iterdir())
