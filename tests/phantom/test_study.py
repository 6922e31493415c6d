"""One synthetic study: determinism, consistent masks, plausible acquisition."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from prostate_mim.errors import UsageError
from prostate_mim.phantom import PhantomStudy, make_study
from prostate_mim.phantom.acquisition import Frame, average_slices
from prostate_mim.phantom.study import patient_of


def test_same_arguments_give_the_same_study() -> None:
    """A study depends on seed and index only."""
    first, again = make_study(11, 2), make_study(11, 2)
    assert np.array_equal(first.volume.voxels, again.volume.voxels)
    assert np.array_equal(first.zones.voxels, again.zones.voxels)
    assert first.volume.geometry == again.volume.geometry
    assert np.array_equal(first.volume.geometry.direction, again.volume.geometry.direction)
    assert [x.position_mm_lps for x in first.lesions] == [x.position_mm_lps for x in again.lesions]


def test_other_seed_gives_another_study() -> None:
    """Negative control: seed and index both change the voxels."""
    base = make_study(11, 2).volume
    for other in (make_study(12, 2).volume, make_study(11, 3).volume):
        assert base.shape_zyx != other.shape_zyx or not np.array_equal(base.voxels, other.voxels)


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_negative_arguments_are_refused(seed: int, index: int) -> None:
    """A negative seed or index is a usage error that names both."""
    with pytest.raises(UsageError, match=f"seed {seed} and index {index}"):
        make_study(seed, index)


def test_zones_partition_the_gland(studies: list[PhantomStudy]) -> None:
    """Every gland voxel is in one zone, none outside is, and both zones are present."""
    for study in studies:
        gland, zones = study.gland.voxels, study.zones.voxels
        assert gland.dtype == zones.dtype == np.uint8
        assert np.array_equal(gland != 0, zones != 0)
        assert set(np.unique(gland)) == {0, 1}
        assert set(np.unique(zones)) == {0, 1, 2}


def test_gland_is_whole_and_of_human_size(studies: list[PhantomStudy]) -> None:
    """The gland is one piece within the grid, 30-60 mm wide, 25-45 mm deep, 30-55 mm high, give or take a voxel."""
    for study in studies:
        assert ndimage.label(study.gland.voxels)[1] == 1
        box = ndimage.find_objects(study.gland.voxels.astype(np.int32))[0]
        assert all(p.start > 0 and p.stop < n for p, n in zip(box, study.gland.shape_zyx, strict=True))
        spacing = study.volume.geometry.spacing_mm_zyx
        high, deep, wide = ((p.stop - p.start) * s for p, s in zip(box, spacing, strict=True))
        assert 30 - spacing[0] <= high <= 55 + spacing[0]
        assert 24 <= deep <= 47
        assert 29 <= wide <= 62


def test_lesions_lie_in_their_zone_apart_from_each_other(studies: list[PhantomStudy]) -> None:
    """A lesion is inside the gland, nearly all in its own zone, and shares no voxel with another."""
    for study in studies:
        assert 1 <= len(study.lesions) <= 3
        total = np.zeros(study.gland.shape_zyx, int)
        for lesion in study.lesions:
            mask = lesion.mask.voxels != 0
            assert mask.any()
            assert np.all(study.gland.voxels[mask] == 1)
            assert (study.zones.voxels[mask] == {"PZ": 1, "TZ": 2}[lesion.zone]).mean() > 0.9
            total += mask
        assert total.max() == 1


def test_position_is_the_centroid_of_the_mask(studies: list[PhantomStudy]) -> None:
    """The position maps back to the mask's centroid, inside the dilated mask."""
    for study in studies:
        for lesion in study.lesions:
            index = lesion.mask.geometry.position_to_index(lesion.position_mm_lps)
            assert np.allclose(index, np.argwhere(lesion.mask.voxels).mean(axis=0), atol=1e-6)
            near = ndimage.binary_dilation(lesion.mask.voxels, np.ones((3, 3, 3)), iterations=2)
            assert near[tuple(np.rint(index).astype(int))]


def test_all_volumes_share_one_grid(studies: list[PhantomStudy]) -> None:
    """Masks have the shape and the geometry of the image; the image is non-negative int16 that does not saturate."""
    for study in studies:
        assert study.volume.voxels.dtype == np.int16
        assert study.volume.voxels.min() >= 0
        assert study.volume.voxels.max() < 32000
        for mask in (study.gland, study.zones, *(lesion.mask for lesion in study.lesions)):
            assert mask.shape_zyx == study.volume.shape_zyx
            assert mask.geometry == study.volume.geometry


def test_acquisition_varies_within_its_limits() -> None:
    """Spacing, field of view, tilt and grey scale cover their ranges, and never leave them."""
    frames = [Frame.draw(np.random.default_rng(k)) for k in range(300)]
    in_plane = np.array([f.spacing_mm_zyx[1] for f in frames])
    between = np.array([f.spacing_mm_zyx[0] for f in frames])
    view = in_plane * [f.shape_zyx[1] for f in frames]
    tilt = np.degrees([f.tilt for f in frames])
    scale = [f.scanner.scale for f in frames]
    assert in_plane.min() >= 0.3
    assert in_plane.max() <= 0.8
    assert np.ptp(in_plane) > 0.3
    assert set(between) == {3.0, 3.3, 3.6, 4.0, 4.5}
    assert view.min() > 139.9
    assert view.max() < 200.1
    assert np.ptp(view) > 50
    assert tilt.min() == 0
    assert 12 < tilt.max() <= 15
    assert max(scale) / min(scale) == pytest.approx(10)
    assert {f.shape_zyx[0] for f in frames} <= set(range(19, 29))


def test_tissues_have_the_contrast_of_t2w(studies: list[PhantomStudy]) -> None:
    """Healthy peripheral zone is brighter than transition zone in every study."""
    for study in studies:
        healthy = np.ones(study.volume.shape_zyx, bool)
        for lesion in study.lesions:
            healthy &= lesion.mask.voxels == 0
        peripheral, transition = (study.volume.voxels[(study.zones.voxels == k) & healthy].mean() for k in (1, 2))
        assert peripheral > 1.3 * transition


def test_grid_is_orthonormal_and_turned_about_x() -> None:
    """The direction of a tilted stack is a rotation about x by the tilt."""
    frame = next(f for f in (Frame.draw(np.random.default_rng(k)) for k in range(50)) if f.tilt > 0.1)
    assert np.allclose(frame.direction @ frame.direction.T, np.eye(3))
    assert np.linalg.det(frame.direction) == pytest.approx(1)
    assert np.allclose(frame.direction[:, 0], (1, 0, 0))
    assert frame.direction[2, 1] == pytest.approx(np.sin(frame.tilt))


def test_painted_anatomy_matches_the_geometry() -> None:
    """The anatomical coordinates of a voxel are its position in the patient less the gland's."""
    frame = next(f for f in (Frame.draw(np.random.default_rng(k)) for k in range(50)) if f.tilt > 0.1)
    x, y, z = frame.anatomical(frame.axis_mm(1), frame.axis_mm(2), frame.axis_mm(0))
    index = (4, 30, 77)
    expected = frame.geometry.index_to_position(index) - np.asarray(frame.gland_mm_lps)
    assert np.allclose([x[0, 0, 77], y[4, 30, 0], z[4, 30, 0]], expected, atol=1e-3)


def test_slice_profile_keeps_a_constant_and_leaks_into_neighbours() -> None:
    """Two sub-slices of 1 in the middle of three slices, overlap 0.5: each neighbour gets 0.5 / 3 (or 0.5 / 3)."""
    fine = np.zeros((6, 1, 1), np.float32)
    assert np.allclose(average_slices(fine + 1, 2, 0.5), 1)
    fine[2:4] = 1
    assert average_slices(fine, 2, 0.5).ravel() == pytest.approx([0.5 / 3, 2 / 3, 0.5 / 3])


def test_about_one_patient_in_twenty_comes_back() -> None:
    """A second study follows the first at once, and no patient has three."""
    patients = [patient_of(0, k) for k in range(3000)]
    counts = np.bincount(np.unique(patients, return_counts=True)[1])
    assert len(counts) == 3
    assert 0.03 < counts[2] / counts.sum() < 0.07
    assert all(k - p in (0, 1) for k, p in enumerate(patients))


def test_second_study_shows_the_same_lesions() -> None:
    """Two studies of a patient differ in grid and grey values, not in the lesions' labels and zones."""
    index = next(k for k in range(1, 300) if patient_of(0, k) == k - 1)
    first, second = make_study(0, index - 1), make_study(0, index)
    assert first.patient_id == second.patient_id
    assert first.study_id != second.study_id
    assert [(x.label, x.zone) for x in first.lesions] == [(x.label, x.zone) for x in second.lesions]
    assert first.volume.geometry != second.volume.geometry


def test_torch_is_not_imported() -> None:
    """Importing the phantom must not import torch."""
    code = "import sys, prostate_mim.phantom; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
