"""Every way to store the same axial volume gives the same array at the same place."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from prostate_mim.errors import VolumeError
from prostate_mim.volume import read_volume

ORIENTATIONS = [
    np.array(list(zip(p, s, strict=True))) for p in permutations(range(3)) for s in product((1, -1), repeat=3)
]
SPACINGS = [(3.0, 0.5, 0.5), (4.5, 0.6, 0.7), (2.2, 0.390625, 1.1)]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def as_nifti(volume, ornt=None):
    """The volume as a nibabel image, its axes permuted and flipped; independent of our writer."""
    affine = np.eye(4)
    affine[:3, :3] = volume.geometry.direction * np.array(volume.geometry.spacing_mm_zyx[::-1])
    affine[:3, 3] = volume.geometry.origin_mm_lps
    image = nib.Nifti1Image(np.ascontiguousarray(volume.voxels.transpose(2, 1, 0)), LPS_TO_RAS @ affine)
    image = image if ornt is None else image.as_reoriented(ornt)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    return image


@pytest.mark.parametrize("spacing", SPACINGS)
def test_48_orientations_give_one_array(make_volume, tmp_path, spacing):
    """All 48 permutations and flips of one oblique volume give the same array, a marked voxel in place."""
    volume = make_volume(spacing)
    volume.voxels[1, 2, 6] = 999
    place = volume.geometry.index_to_position([1, 2, 6])
    path = tmp_path / "v.nii"
    stored = set()
    for ornt in ORIENTATIONS:
        image = as_nifti(volume, ornt)
        stored.add(np.asarray(image.dataobj).tobytes())
        nib.save(image, path)
        found = read_volume(path)
        np.testing.assert_array_equal(found.voxels, volume.voxels)
        assert found.voxels.flags.c_contiguous
        index = np.argwhere(found.voxels == 999)[0]
        np.testing.assert_allclose(found.geometry.index_to_position(index), place, atol=1e-4)
        np.testing.assert_allclose(found.geometry.direction, volume.geometry.direction, atol=1e-5)
        assert found.geometry.spacing_mm_zyx == pytest.approx(spacing, abs=1e-5)
    assert len(stored) == 48  # negative control: the files really differ


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_formats_are_reoriented_too(make_volume, tmp_path, suffix):
    """A flipped .mha and .nrrd comes back canonical at the same place."""
    import SimpleITK as sitk  # noqa: N813

    volume = make_volume()
    image = sitk.GetImageFromArray(volume.voxels)
    image.SetSpacing(volume.geometry.spacing_mm_zyx[::-1])
    image.SetOrigin(volume.geometry.origin_mm_lps)
    image.SetDirection(volume.geometry.direction.ravel().tolist())
    sitk.WriteImage(sitk.Flip(image, [True, False, True]), str(tmp_path / f"v{suffix}"))
    found = read_volume(tmp_path / f"v{suffix}")
    np.testing.assert_array_equal(found.voxels, volume.voxels)
    np.testing.assert_allclose(found.geometry.origin_mm_lps, volume.geometry.origin_mm_lps, atol=1e-4)
    np.testing.assert_allclose(found.geometry.direction, volume.geometry.direction, atol=1e-6)


@pytest.mark.parametrize(("spacing", "stack"), [((0.5, 0.5, 3.0), "sagittal"), ((0.5, 3.0, 0.5), "coronal")])
def test_thick_slices_along_another_axis_are_refused(make_volume, tmp_path, spacing, stack):
    """A stack whose thick axis runs to the Left or Posterior is refused by its name."""
    nib.save(as_nifti(make_volume(spacing)), tmp_path / "v.nii")
    with pytest.raises(VolumeError, match=stack):
        read_volume(tmp_path / "v.nii")


@pytest.mark.parametrize(("axes", "stack"), [((2, 1, 0), "sagittal"), ((0, 2, 1), "coronal")])
def test_isotropic_stacks_go_by_the_third_file_axis(make_volume, tmp_path, axes, stack):
    """Without a thick axis the file's third one is the slice axis: axial is read, others refused."""
    volume = make_volume((1.0, 1.0, 1.0))
    nib.save(as_nifti(volume), tmp_path / "v.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "v.nii").voxels, volume.voxels)
    nib.save(as_nifti(volume, np.array([(axis, 1) for axis in axes])), tmp_path / "v.nii")
    with pytest.raises(VolumeError, match=stack):
        read_volume(tmp_path / "v.nii")
