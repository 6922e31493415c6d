"""Laws from file to network input: any shape, spacing, orientation and format; and 144 files of one object."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prostate_mim.errors import VolumeError
from prostate_mim.preprocess import Crop, prepare_crop, preprocess, resample
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume, read_volume, write_volume

LAWS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ORIENTATIONS = [
    np.array(list(zip(p, s, strict=True))) for p in permutations(range(3)) for s in product((1, -1), repeat=3)
]
SUFFIXES = (".nii", ".nii.gz", ".mha")
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def rotation(about_x: float, about_z: float) -> np.ndarray:
    """(3, 3) rotation about the patient's x axis, then z, in degrees."""
    a, b = np.deg2rad([about_x, about_z])
    about = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    return np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]) @ about


def store(volume: Volume, orientation: np.ndarray, path: Path) -> bytes:
    """Write a volume on other axes by nibabel, or by SimpleITK from nibabel's file; returns the stored voxels."""
    geometry = volume.geometry
    affine = np.eye(4)
    affine[:3, :3] = geometry.direction * np.array(geometry.spacing_mm_zyx[::-1])
    affine[:3, 3] = geometry.origin_mm_lps
    image = nib.Nifti1Image(np.ascontiguousarray(volume.voxels.transpose(2, 1, 0)), TO_RAS @ affine)
    image = image.as_reoriented(orientation)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    if path.suffix == ".mha":
        made = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(image.dataobj).transpose(2, 1, 0)))
        matrix = TO_RAS @ image.affine
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        made.SetSpacing(spacing.tolist())
        made.SetOrigin(matrix[:3, 3].tolist())
        made.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
        sitk.WriteImage(made, str(path), useCompression=True)
    else:
        nib.save(image, path)
    return np.asarray(image.dataobj).tobytes()


def same_geometry(found: Geometry, wanted: Geometry, tolerance: float) -> None:
    """Origin and spacing within a tolerance in mm, direction within the same number."""
    np.testing.assert_allclose(found.origin_mm_lps, wanted.origin_mm_lps, atol=tolerance)
    np.testing.assert_allclose(found.spacing_mm_zyx, wanted.spacing_mm_zyx, atol=tolerance)
    np.testing.assert_allclose(found.direction, wanted.direction, atol=tolerance)


# ------------------------------------------------------------------------------------------------- 48 x 3 files

SPEC = InputSpec(spacing_mm_zyx=(3.0, 0.5, 0.5), size_zyx=(5, 21, 19))
SPACINGS = [(3.0, 0.5, 0.5), (4.5, 0.6, 0.7), (3.6, 0.75, 0.55)]
MIDDLE = np.array([4.0, -7.0, 11.0])


def ramp(spacing: tuple[float, float, float]) -> Volume:
    """Intensity that rises along one direction of the patient: linear interpolation keeps it, whatever the spacing."""
    shape = tuple(round(extent / step) for extent, step in zip((42.0, 30.0, 30.0), spacing, strict=True))
    direction = rotation(11.0, 6.0)
    half = (np.array(shape[::-1]) - 1) / 2 * np.array(spacing[::-1])
    x, y, z = MIDDLE - direction @ half
    geometry = Geometry(spacing, (float(x), float(y), float(z)), direction)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    voxels = 500 + (geometry.index_to_position(index) - MIDDLE) @ np.array([3.0, -5.0, 2.0])
    return Volume(voxels.astype(np.float32), geometry)


def test_144_files_of_one_object_give_one_array(tmp_path):
    """T1.5: 48 orientations x 3 spacings: all 144 arrays equal to 1e-4; written and read again, geometry to 1e-5."""
    arrays, contents = [], set()
    for spacing, (number, orientation) in product(SPACINGS, enumerate(ORIENTATIONS)):
        path = tmp_path / f"v{SUFFIXES[number % 3]}"
        contents.add(store(ramp(spacing), orientation, path))
        found = read_volume(path)
        arrays.append(preprocess(found, SPEC, MIDDLE))
        write_volume(found, tmp_path / f"again{SUFFIXES[number // 3 % 3]}")
        again = read_volume(tmp_path / f"again{SUFFIXES[number // 3 % 3]}")
        same_geometry(again.geometry, found.geometry, 1e-5)
        np.testing.assert_array_equal(again.voxels, found.voxels)
    assert len(arrays) == len(contents) == 144  # control: no two files hold the same bytes
    assert max(float(np.abs(array - arrays[0]).max()) for array in arrays) < 1e-4
    mirrored = Volume(ramp(SPACINGS[0]).voxels[:, :, ::-1].copy(), ramp(SPACINGS[0]).geometry)
    assert np.abs(preprocess(mirrored, SPEC, MIDDLE) - arrays[0]).max() > 1  # control: a mirrored one would be seen


# ------------------------------------------------------------------------------------------------- hypothesis


@st.composite
def cases(draw: st.DrawFn) -> tuple[Volume, InputSpec, np.ndarray, str]:
    """A random axial volume with one bright voxel, a spec, the axes of its file, and the file's ending."""
    plane = [draw(st.floats(0.2, 2.0)) for _ in range(2)]
    spacing = (min(9.9, max(plane) * draw(st.floats(1.2, 6.0))), *plane)
    shape = tuple(draw(st.integers(2, high)) for high in (8, 24, 24))
    mark = tuple(draw(st.integers(0, size - 1)) for size in shape)
    origin = tuple(draw(st.floats(-300, 300)) for _ in range(3))
    direction = rotation(draw(st.floats(-30, 30)), draw(st.floats(-30, 30)))
    voxels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 40, shape).astype(np.int16)
    voxels[mark] = 30000
    spec = InputSpec(
        spacing_mm_zyx=tuple(draw(st.floats(0.3, 5.0)) for _ in range(3)),
        size_zyx=tuple(draw(st.integers(3, 20)) for _ in range(3)),
        clip_percentiles=(0.0, 100.0),
    )
    volume = Volume(voxels, Geometry(spacing, origin, direction))
    return volume, spec, ORIENTATIONS[draw(st.integers(0, 47))], draw(st.sampled_from(SUFFIXES))


def marked(volume: Volume) -> np.ndarray:
    """(3,) position in mm of the brightest voxel."""
    return volume.geometry.index_to_position(np.unravel_index(volume.voxels.argmax(), volume.shape_zyx))


def moved_voxels(volume: Volume, crop: Crop, place: np.ndarray) -> float:
    """How many voxels (the larger of both grids, along its worst axis) the brightest voxel lies from its place."""
    top = crop.geometry.index_to_position(np.unravel_index(crop.voxels.argmax(), crop.voxels.shape))
    steps = np.abs(volume.geometry.position_to_index(top) - volume.geometry.position_to_index(place))
    sizes = np.array([volume.geometry.spacing_mm_zyx, crop.geometry.spacing_mm_zyx])
    return float((steps * sizes[0] / sizes.max(0)).max())


@LAWS
@given(cases())
def test_any_volume_through_a_file(tmp_path, case):
    """T1.6: shape as the spec says, mean 0 and deviation 1 over measured voxels, the marked voxel within one voxel."""
    volume, spec, orientation, suffix = case
    store(volume, orientation, tmp_path / f"v{suffix}")
    found = read_volume(tmp_path / f"v{suffix}")
    np.testing.assert_array_equal(found.voxels, volume.voxels)
    np.testing.assert_allclose(marked(found), marked(volume), atol=1e-3)
    try:
        crop = prepare_crop(found, spec, marked(found))
    except VolumeError as error:
        assert "constant" in str(error)  # one value within the crop: nothing to z-score
        return
    assert crop.voxels.shape == crop.inside.shape == spec.size_zyx
    assert crop.voxels.dtype == np.float32
    measured = crop.voxels[crop.inside].astype(np.float64)
    assert abs(measured.mean()) < 1e-5
    assert abs(measured.std() - 1) < 1e-5
    assert not crop.voxels[~crop.inside].any()
    alone = Volume(np.where(found.voxels == found.voxels.max(), 1000, 0), found.geometry)  # no noise to outshine it
    assert moved_voxels(found, resample(alone, spec, marked(found)), marked(volume)) < 1


@LAWS
@given(cases())
def test_a_conforming_volume_passes_unchanged(tmp_path, case):
    """A volume that has the spec's spacing and size is z-scored, not resampled; doing it twice changes nothing."""
    volume, spec, orientation, suffix = case
    store(volume, orientation, tmp_path / f"v{suffix}")
    found = read_volume(tmp_path / f"v{suffix}")
    own = replace(spec, spacing_mm_zyx=found.geometry.spacing_mm_zyx, size_zyx=found.shape_zyx)
    once = prepare_crop(found, own)
    values = found.voxels.astype(np.float64)
    np.testing.assert_allclose(once.voxels, (values - values.mean()) / values.std(), atol=1e-5)
    same_geometry(once.geometry, found.geometry, 1e-9)
    twice = preprocess(Volume(once.voxels, once.geometry), own)
    np.testing.assert_allclose(twice, once.voxels, atol=1e-5)


@pytest.mark.parametrize("shift", [(1.1, 0, 0), (0, -1.1, 0), (0, 0, 1.1)])
def test_a_moved_grid_is_found(shift):
    """Control of the marked voxel: a crop that claims to lie 1.1 voxels elsewhere breaks the law."""
    voxels = np.zeros((6, 20, 20), np.int16)
    voxels[3, 9, 11] = 1000
    volume = Volume(voxels, Geometry((3.0, 0.5, 0.5), direction=rotation(10, 5)))
    spec = InputSpec(size_zyx=(5, 15, 15), clip_percentiles=(0.0, 100.0))
    crop = prepare_crop(volume, spec, marked(volume))
    assert moved_voxels(volume, crop, marked(volume)) < 1e-6
    wrong = replace(crop, geometry=crop.geometry.regrid(shift, crop.geometry.spacing_mm_zyx))
    assert moved_voxels(volume, wrong, marked(volume)) > 1
