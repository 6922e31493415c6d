"""Preprocessing: laws of geometry and of statistics, and a golden array that notices plausible mistakes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy_grids import by_scipy

import prostate_mim.preprocess
from prostate_mim.errors import VolumeError
from prostate_mim.preprocess import mask_on_grid, normalise, prepare_crop, preprocess, resample
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume, read_mask, read_volume, write_volume
from prostate_mim.volume.resampling import interpolate

GOLDEN = Path(__file__).parent / "golden"
LAWS = settings(max_examples=200, deadline=None)
SPEC = InputSpec((3.0, 0.5, 0.5), (5, 31, 29))
ORIENTATIONS = list(product(permutations(range(3)), product((False, True), repeat=3)))
# conforming; coarser; finer. The thick axis is always clear, so every permuted file is still an axial series.
SPACINGS = [(3.0, 0.5, 0.5), (4.0, 0.6, 0.7), (2.2, 0.3, 0.45)]


def rotation(about_x: float, about_z: float) -> np.ndarray:
    """(3, 3) of two angles in radians."""
    (ca, sa), (cb, sb) = (np.cos(about_x), np.sin(about_x)), (np.cos(about_z), np.sin(about_z))
    return np.array([[cb, -sb, 0], [sb, cb, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])


def grid_positions(shape, geometry: Geometry) -> np.ndarray:
    return geometry.index_to_position(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))


def phantom(spacing: tuple[float, float, float]) -> Volume:
    """One smooth pattern of patient space, sampled on an oblique grid; even sizes, so that odd crops meet ties."""
    shape = tuple(2 * round(extent / step / 2) for extent, step in zip((20.0, 22.0, 22.0), spacing, strict=True))
    direction = rotation(0.2, 0.1)
    middle = np.array([4.0, -7.0, 11.0])
    half = (np.array(shape[::-1]) - 1) / 2 * np.array(spacing[::-1])
    geometry = Geometry(spacing, tuple(float(v) for v in middle - direction @ half), direction)
    x, y, z = np.moveaxis(grid_positions(shape, geometry), -1, 0)
    voxels = 300 + 80 * np.sin(x / 4) + 60 * np.cos(y / 5 + 1) + 50 * np.sin(z / 9) + 2 * x - y
    return Volume(voxels.astype(np.float32), geometry)


def stored(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same voxels at the same places, listed along other axes."""
    old = volume.geometry
    corner = [size - 1 if flip else 0 for size, flip in zip(volume.shape_zyx, flips, strict=True)]
    direction = np.stack([old.direction[:, 2 - a] * (-1 if flips[a] else 1) for a in order[::-1]], 1)
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    geometry = Geometry(
        tuple(old.spacing_mm_zyx[a] for a in order), tuple(old.index_to_position(corner).tolist()), direction
    )
    return Volume(np.ascontiguousarray(volume.voxels[steps].transpose(order)), geometry)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_48_orientations_of_a_file_give_one_array(spacing, tmp_path):
    """However a file lists its voxels, the network sees the same array, at the middle and at a named position."""
    volume = phantom(spacing)
    position = volume.centre_mm_lps + np.array([2.1, -1.7, 3.4])
    expected = [preprocess(volume, SPEC, centre) for centre in (None, position)]
    contents = set()
    for number, (order, flips) in enumerate(ORIENTATIONS):
        path = tmp_path / f"v{number}{'.nii' if number % 2 else '.mha'}"
        turned = stored(volume, order, flips)
        write_volume(turned, path)
        contents.add(turned.voxels.tobytes())
        found = read_volume(path)
        for centre, wanted in zip((None, position), expected, strict=True):
            np.testing.assert_allclose(preprocess(found, SPEC, centre), wanted, atol=1e-4)
    assert len(contents) == 48  # negative control: the files really differ


def test_three_spacings_of_one_object_look_alike():
    """Resampling recovers one object from three samplings, but for interpolation error and half-voxel starts."""
    crops = [prepare_crop(phantom(spacing), SPEC) for spacing in SPACINGS]
    offset = [np.abs(crop.geometry.index_to_position([2, 15, 14]) - [4, -7, 11]).max() for crop in crops]
    assert max(offset) < 2.5  # half of the thickest slice, obliquely
    for crop in crops[1:]:
        moved = scipy.ndimage.shift(
            crop.voxels, crops[0].geometry.position_to_index(crop.geometry.origin_mm_lps), order=1
        )
        inner = (slice(1, -1), slice(3, -3), slice(3, -3))
        difference = moved[inner] - crops[0].voxels[inner]
        assert np.abs(difference - difference.mean()).max() < 0.15


def volumes_and_specs(conform: bool = False):
    """Random volumes (oblique, any spacing) with random specs."""
    depth, plane = st.integers(1, 12), st.integers(8, 40)
    thick, thin = st.floats(1.5, 6), st.floats(0.3, 1.0)

    def build(values):
        shape, spacing, angles, size, wanted, seed = values
        voxels = np.random.default_rng(seed).normal(300, 60, shape).astype(np.float32)
        volume = Volume(voxels, Geometry(spacing, (-30.5, 12.25, 5.125), rotation(*angles)))
        return volume, InputSpec(spacing, shape) if conform else InputSpec(wanted, size)

    angle = st.floats(-0.4, 0.4)
    sizes = st.tuples(depth, plane, plane)
    spacings = st.tuples(thick, thin, thin)
    return st.tuples(sizes, spacings, st.tuples(angle, angle), sizes, spacings, st.integers(0, 99)).map(build)


@LAWS
@given(volumes_and_specs(conform=True), st.tuples(*[st.integers(1, 44)] * 3), st.tuples(*[st.floats(0, 1)] * 3))
def test_copying_is_interpolation_at_voxels(case, size, place):
    """A grid of the volume's own voxels, wherever it lies and however far it reaches beyond: bit for bit the same."""
    volume, spec = case
    centre = volume.geometry.index_to_position(np.array(place) * (np.array(volume.shape_zyx) - 1))
    found = resample(volume, spec, centre, size)
    start = np.rint(volume.geometry.position_to_index(found.geometry.origin_mm_lps))
    wanted = scipy.ndimage.affine_transform(
        volume.voxels, np.ones(3), start, output_shape=size, order=1, mode="nearest"
    )  # fmt: skip
    np.testing.assert_array_equal(found.voxels, np.where(found.inside, wanted, 0))
    assert found.inside.any()
    # negative control: the neighbouring voxels are others
    moved = scipy.ndimage.affine_transform(
        volume.voxels, np.ones(3), start + np.array([0, 0, 1]), output_shape=size, order=1, mode="nearest"
    )  # fmt: skip
    columns = found.inside.any((0, 1)).sum()
    assert columns == 1 or not np.array_equal(found.voxels, np.where(found.inside, moved, 0))


@LAWS
@given(volumes_and_specs())
def test_shape_and_statistics(case):
    """Any volume gives the spec's shape, mean 0 and deviation 1 over measured voxels, exactly 0 elsewhere."""
    volume, spec = case
    crop = prepare_crop(volume, spec)
    assert crop.voxels.shape == spec.size_zyx
    assert crop.voxels.dtype == np.float32
    measured = crop.voxels[crop.inside].astype(float)
    assert abs(measured.mean()) < 1e-5
    assert abs(measured.std() - 1) < 1e-5
    assert not crop.voxels[~crop.inside].any()


@LAWS
@given(volumes_and_specs(conform=True))
def test_a_conforming_volume_is_not_resampled(case):
    """A volume that already is the spec's grid is copied bit for bit, and only clipped and z-scored."""
    volume, spec = case
    region = resample(volume, spec)
    assert region.inside.all()
    np.testing.assert_array_equal(region.voxels, volume.voxels)
    np.testing.assert_allclose(region.geometry.origin_mm_lps, volume.geometry.origin_mm_lps, atol=1e-9)
    unclipped = InputSpec(spec.spacing_mm_zyx, spec.size_zyx, clip_percentiles=(0, 100))
    once = prepare_crop(volume, unclipped)
    np.testing.assert_allclose(preprocess(Volume(once.voxels, once.geometry), unclipped), once.voxels, atol=1e-5)


@LAWS
@given(volumes_and_specs(), st.data())
def test_a_marked_voxel_stays_where_it_is(case, data):
    """A bright voxel is found within one voxel (of the coarser grid) of its place, at the middle of the crop."""
    volume, spec = case
    mark = [data.draw(st.integers(0, size - 1)) for size in volume.shape_zyx]
    volume.voxels[:] = 0
    volume.voxels[tuple(mark)] = 1000
    place = volume.geometry.index_to_position(mark)
    region = resample(volume, spec, place)
    brightest = np.unravel_index(region.voxels.argmax(), region.voxels.shape)
    voxel = np.maximum(spec.spacing_mm_zyx, volume.geometry.spacing_mm_zyx)
    moved = (region.geometry.position_to_index(place) - brightest) * spec.spacing_mm_zyx / voxel
    assert np.abs(moved).max() < 1
    off = region.geometry.position_to_index(place) - (np.array(spec.size_zyx) - 1) / 2
    assert (np.abs(off) * spec.spacing_mm_zyx / voxel).max() < 0.5 + 2e-3


def test_zscore_comes_before_padding():
    """A study smaller than the crop keeps its own statistics and is surrounded by exact zeros."""
    voxels = np.random.default_rng(1).normal(400, 40, (6, 20, 22)).astype(np.float32)
    volume = Volume(voxels, Geometry((3.0, 0.5, 0.5)))
    crop = prepare_crop(volume, InputSpec(size_zyx=(16, 40, 40)))
    alone = preprocess(volume, InputSpec(size_zyx=(6, 20, 22)))
    assert crop.inside.sum() == alone.size
    np.testing.assert_array_equal(crop.voxels[crop.inside], alone.ravel())
    assert not crop.voxels[~crop.inside].any()
    # negative control: padding with 0 first moves mean and deviation far away
    padded = np.zeros((16, 40, 40), np.float32)
    padded[crop.inside] = voxels.ravel()
    late = normalise(padded, np.ones_like(crop.inside), InputSpec(size_zyx=(16, 40, 40)))
    assert np.abs(late[crop.inside] - alone.ravel()).max() > 0.3


def test_a_centre_outside_is_refused():
    """A position beyond the volume's faces is refused with the position and the centre; one just within is not."""
    volume = phantom(SPACINGS[0])
    assert preprocess(volume, SPEC, volume.geometry.index_to_position([-0.4, 5, 5])).shape == SPEC.size_zyx
    with pytest.raises(VolumeError, match=r"mm LPS is outside the volume .*; its centre is 4.0 -7.0 11.0; from"):
        preprocess(volume, SPEC, volume.geometry.index_to_position([-0.6, 5, 5]))


def test_a_constant_crop_is_refused():
    """A crop of one value is refused, also with a speck the clip removes; the varied corner beside it is not."""
    voxels = np.full((5, 80, 80), 7, np.int16)
    voxels[:, :20, :20] = np.arange(20)
    volume = Volume(voxels, Geometry((3.0, 0.5, 0.5)))
    with pytest.raises(VolumeError, match=r"constant \(7\)"):
        preprocess(volume, SPEC, volume.geometry.index_to_position([2, 60, 60]))
    voxels[2, 60, 60] = 900
    with pytest.raises(VolumeError, match="constant"):
        preprocess(volume, SPEC, volume.geometry.index_to_position([2, 60, 60]))
    assert preprocess(volume, SPEC, volume.geometry.index_to_position([2, 10, 10])).std() > 0.5


def test_preprocessing_needs_no_torch():
    """Deployment without torch can preprocess: importing and running it never imports torch."""
    code = (
        "import sys, numpy as np; from prostate_mim.preprocess import preprocess\n"
        "from prostate_mim.spec import InputSpec\n"
        "from prostate_mim.volume import Geometry, Volume\n"
        "v = Volume(np.arange(480.).reshape(3, 16, 10), Geometry((3., .4, .5)))\n"
        "assert preprocess(v, InputSpec(size_zyx=(2, 8, 8))).shape == (2, 8, 8)\n"
        "print('torch' in sys.modules); import torch; print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("depth", [1, 16])
def test_a_single_slice_is_one_slice_of_the_crop(depth):
    """A depth-1 array fills exactly one slice of the crop, whatever the crop's depth."""
    voxels = np.random.default_rng(2).normal(size=(1, 40, 40)).astype(np.float32)
    crop = prepare_crop(Volume(voxels, Geometry((3.0, 0.5, 0.5))), InputSpec(size_zyx=(depth, 32, 32)))
    assert crop.inside.any((1, 2)).sum() == 1
    assert crop.inside.sum() == 32 * 32
    alone = normalise(voxels[:, 4:36, 4:36], np.ones((1, 32, 32), bool), InputSpec())
    np.testing.assert_array_equal(crop.voxels[crop.inside], alone.ravel())


def test_a_slice_between_two_grid_points_is_met():
    """One slice of 2 mm on 16 slices of 3 mm: grid points at -0.5 and 1 slices would both miss it."""
    voxels = np.random.default_rng(3).normal(size=(1, 40, 40)).astype(np.float32)
    crop = prepare_crop(Volume(voxels, Geometry((2.0, 0.5, 0.5))), InputSpec(size_zyx=(16, 32, 32)))
    assert crop.inside.any((1, 2)).sum() == 1
    depth = int(crop.inside.any((1, 2)).argmax())
    assert crop.geometry.index_to_position([depth, 0, 0])[2] == pytest.approx(0)  # the slice itself, unmoved
    alone = normalise(voxels[:, 4:36, 4:36], np.ones((1, 32, 32), bool), InputSpec())
    np.testing.assert_allclose(crop.voxels[depth], alone[0], atol=1e-5)


def test_a_single_voxel_crop_reaches_the_outer_face():
    """A position on the very face of the volume belongs to the outermost voxel."""
    volume = phantom(SPACINGS[0])
    spec = InputSpec(size_zyx=(1, 16, 16))
    for index in (-0.5, 0.49, volume.shape_zyx[0] - 0.5):
        crop = prepare_crop(volume, spec, volume.geometry.index_to_position([index + (0.5 - index) * 1e-9, 20, 20]))
        assert crop.inside.all()


def test_a_ramp_survives_finer_and_coarser_grids():
    """Along x, voxel i of a 1 mm ramp is worth i: at 0.5 mm it reads 0, 0.5, 1, ...; at 2 mm 2, 4, 6, ..."""
    ramp = Volume(np.broadcast_to(np.arange(41.0), (3, 41, 41)).astype(np.float32), Geometry((3.0, 1.0, 1.0)))
    finer = resample(ramp, InputSpec((3.0, 1.0, 0.5), (1, 3, 9)))
    np.testing.assert_allclose(finer.voxels[0, 1], 18 + 0.5 * np.arange(9), atol=1e-4)
    coarser = resample(ramp, InputSpec((3.0, 1.0, 2.0), (1, 3, 9)))
    np.testing.assert_allclose(coarser.voxels[0, 1], 12 + 2.0 * np.arange(9), atol=1e-3)


def test_coarser_grids_do_not_alias(monkeypatch):
    """A one-voxel stripe pattern becomes its mean on a grid thrice as coarse, not a new pattern."""
    stripes = np.broadcast_to(np.where(np.arange(60) % 2, 1.0, -1.0), (3, 60, 60)).astype(np.float32)
    volume = Volume(stripes, Geometry((3.0, 0.5, 0.5)))
    spec = InputSpec((3.0, 0.5, 1.5), (1, 8, 8))
    assert np.abs(resample(volume, spec).voxels).max() < 0.05
    _no_antialiasing(monkeypatch)
    assert np.abs(resample(volume, spec).voxels).max() > 0.9  # negative control


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("spec", [InputSpec((3.0, 0.5, 0.5), (4, 16, 16)), InputSpec((2.0, 0.7, 0.4), (5, 15, 16))])
def test_the_middle_of_a_larger_region_is_the_crop(spacing: tuple[float, float, float], spec: InputSpec) -> None:
    """Training cuts crops from stored regions, prediction from the volume: the same grid, voxel for voxel."""
    volume = phantom(spacing)
    centre = np.asarray(volume.centre_mm_lps) + np.array([0.37, -1.21, 0.9])
    crop = resample(volume, spec, centre)
    z, y, x = spec.size_zyx
    region = resample(volume, spec, centre, (z + 2, y + 12, x + 4))
    middle = (slice(1, 1 + z), slice(6, 6 + y), slice(2, 2 + x))
    np.testing.assert_allclose(region.voxels[middle], crop.voxels, atol=1e-3)
    np.testing.assert_array_equal(region.inside[middle], crop.inside)
    start = region.geometry.index_to_position(np.array([1.0, 6.0, 2.0]))
    np.testing.assert_allclose(start, crop.geometry.index_to_position(np.zeros(3)), atol=1e-9)


def test_grids_begun_at_their_own_first_voxel_would_differ() -> None:
    """The control, in numbers: 0.7 mm voxels, 0.5 mm grid; sizes 16 and 28 rounded each for itself are 0.29 apart."""
    scale, centre = 0.5 / 0.7, 20.3
    first = {size: np.floor(centre - scale * (size - 1) / 2 + 0.5) for size in (16, 28)}
    assert abs(first[28] + 6 * scale - first[16]) > 0.1


def _golden() -> tuple[np.ndarray, np.ndarray, InputSpec, Callable[[np.ndarray], np.ndarray]]:
    found = importlib.util.spec_from_file_location("make_preprocess_golden", GOLDEN / "make_preprocess_golden.py")
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    with np.load(GOLDEN / "preprocess.npz") as data:
        voxels, expected = data["voxels"], data["expected"]
    np.testing.assert_array_equal(voxels, script.make_volume().voxels)

    def run(array: np.ndarray, spec: InputSpec = script.SPEC, swap: bool = False) -> np.ndarray:
        z, y, x = script.SPACING_MM_ZYX
        cx, cy, cz = script.CENTRE_MM_LPS
        if swap:
            return preprocess(Volume(array.transpose(0, 2, 1), Geometry((z, x, y))), spec, (cy, cx, cz))
        return preprocess(Volume(array, Geometry((z, y, x))), spec, (cx, cy, cz))

    return voxels, expected, script.SPEC, run


def test_golden_array():
    """The committed array is reproduced; whatever moves it belongs in the changelog under Numerics."""
    voxels, expected, _, run = _golden()
    np.testing.assert_allclose(run(voxels), expected, atol=1e-4)
    assert 0 < (expected == 0).mean() < 0.9  # the case has padding


def _swap_axes(monkeypatch, voxels, spec, run):
    return run(voxels, swap=True)


def _forget_clip(monkeypatch, voxels, spec, run):
    return run(voxels, InputSpec(spec.spacing_mm_zyx, spec.size_zyx, clip_percentiles=(0.0, 100.0)))


def _other_interpolation(order):
    def mistake(monkeypatch, voxels, spec, run):
        monkeypatch.setattr(prostate_mim.preprocess, "interpolate", partial(by_scipy, order=order, dtype=np.float32))
        return run(voxels)

    return mistake


def _align_corners(monkeypatch, voxels, spec, run):
    def stretched(source, start, scale, size):
        return interpolate(source, start, scale * size / np.maximum(size - 1, 1), size)

    monkeypatch.setattr(prostate_mim.preprocess, "interpolate", stretched)
    return run(voxels)


def _no_antialiasing(monkeypatch, voxels=None, spec=None, run=None):
    monkeypatch.setattr(prostate_mim.preprocess, "interpolate", partial(by_scipy, sigmas=0, dtype=np.float32))
    return run(voxels) if run else None


def _zscore_after_padding(monkeypatch, voxels, spec, run):
    right = prostate_mim.preprocess.normalise
    monkeypatch.setattr(prostate_mim.preprocess, "normalise", lambda v, i, s, n: right(v, np.ones_like(i), s, n))
    return run(voxels)


MISTAKES = {
    "x and y swapped": _swap_axes,
    "clip forgotten": _forget_clip,
    "nearest neighbour": _other_interpolation(0),
    "cubic": _other_interpolation(3),
    "align_corners": _align_corners,
    "no anti-aliasing": _no_antialiasing,
    "z-score after padding": _zscore_after_padding,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_golden_array_notices(mistake, monkeypatch):
    """Each plausible mistake moves the golden array at least a hundred times more than the tolerance."""
    voxels, expected, spec, run = _golden()
    assert np.abs(MISTAKES[mistake](monkeypatch, voxels, spec, run) - expected).max() > 1e-2


# Masks: another volume's labels on the grid of a crop.


def nearest_by_distance(mask: Volume, geometry: Geometry, size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The label of the voxel centre nearest in mm, found by measuring all, and which grid points are undecided.

    Undecided: within 1 % of a voxel of the middle between two voxels, or of the mask's outer faces.
    """
    points = grid_positions(size, geometry).reshape(-1, 3)
    centres = grid_positions(mask.shape_zyx, mask.geometry).reshape(-1, 3)
    closest = np.concatenate([((centres - p) ** 2).sum(1).argmin(keepdims=True) for p in points])
    index = mask.geometry.position_to_index(points)
    within = ((index > -0.5) & (index < np.array(mask.shape_zyx) - 0.5)).all(1)
    undecided = (np.abs(index % 1 - 0.5) < 0.01).any(1)
    return ((mask.voxels.ravel()[closest] > 0) & within).reshape(size), undecided.reshape(size)


@settings(max_examples=60, deadline=None)
@given(volumes_and_specs(), st.floats(-0.5, 0.5), st.tuples(*[st.floats(-3, 3)] * 3))
def test_a_mask_on_any_grid_takes_the_nearest_voxel(case, turn, shift):
    """Whatever the two grids (spacing, obliquity, overlap), each point has the label of the nearest voxel centre."""
    volume, _ = case
    mask = Volume((volume.voxels[:6, :9, :9] > 300).astype(np.int16), volume.geometry)
    size = (3, 7, 8)
    start = mask.centre_mm_lps + np.array(shift)
    geometry = Geometry((2.5, 0.6, 0.45), tuple(float(v) for v in start), rotation(turn, -turn) @ np.diag([-1, -1, 1]))
    found = mask_on_grid(mask, geometry, size)
    wanted, undecided = nearest_by_distance(mask, geometry, size)
    assert found.dtype == bool
    np.testing.assert_array_equal(found | undecided, wanted | undecided)


def test_the_nearest_voxel_by_hand():
    """Along x, voxels of 1 mm at 0 to 4 mm are F T T F T; points at -0.75, -0.25, 0.25, ... 4.75 mm are looked up."""
    mask = Volume(np.array([[[0, 3, 1, 0, 7]]], np.int16), Geometry((1.0, 1.0, 1.0)))
    found = mask_on_grid(mask, Geometry((1.0, 1.0, 0.5), (-0.75, 0.0, 0.0)), (1, 1, 12))
    assert "".join("FT"[int(v)] for v in found[0, 0]) == "FFFTTTTFFTTF"
    assert not mask_on_grid(mask, Geometry((1.0, 1.0, 0.5), (-0.75, 0.6, 0.0)), (1, 1, 12)).any()  # beside the mask


@LAWS
@given(volumes_and_specs(conform=True), st.integers(1, 14), st.integers(6, 44))
def test_a_mask_of_the_studys_grid_is_copied(case, depth, plane):
    """Thresholding before or after cutting a crop that is not interpolated gives the very same voxels."""
    volume, spec = case
    bright = Volume((volume.voxels > 300).astype(np.int16), volume.geometry)
    aside = volume.geometry.index_to_position(0.3 * (np.array(volume.shape_zyx) - 1))
    region = resample(volume, spec, aside, (depth, plane, plane))
    found = mask_on_grid(bright, region.geometry, (depth, plane, plane))
    np.testing.assert_array_equal(found, (region.voxels > 300) & region.inside)
    # negative control: one voxel off is noticed
    moved = Volume(np.roll(bright.voxels, 1, 2), bright.geometry)
    assert not found.any() or not np.array_equal(mask_on_grid(moved, region.geometry, found.shape), found)


MIDDLE_MM = np.array([4.0, -7.0, 11.0])  # of the phantom, x y z
NORMALS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, -0.64, 0.48]])


def off_by(found: np.ndarray, geometry: Geometry, outline: Geometry, normal: np.ndarray) -> float:
    """How far the wrong points of a mask of the half-space ``normal . (p - middle) < 0.1`` are from its plane.

    In units of what half a voxel of the outline along each of its axes may amount to: right is at most 1.
    """
    depth = (grid_positions(found.shape, geometry) - MIDDLE_MM) @ normal - 0.1
    half_voxel = (np.abs(normal @ outline.direction) * outline.spacing_mm_zyx[::-1]).sum() / 2
    wrong = found != (depth < 0)
    return float(np.abs(depth[wrong]).max(initial=0)) / half_voxel


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("flips", [(False, False, False), (False, True, True), (True, False, True)], ids=str)
def test_a_mask_file_of_another_grid_is_within_half_a_voxel(spacing, flips, tmp_path):
    """A half-space outlined at another spacing and stored in RAS, or upside down, is right to half a voxel."""
    outline = phantom(spacing)
    spec = InputSpec((3.0, 0.5, 0.5), (3, 21, 23))  # within the outline
    region = resample(phantom(SPACINGS[0]), spec)
    places = grid_positions(outline.shape_zyx, outline.geometry) - MIDDLE_MM
    for number, normal in enumerate(NORMALS):
        labels = Volume((places @ normal < 0.1).astype(np.int16), outline.geometry)
        order = (0, 2, 1) if number % 2 else (0, 1, 2)
        write_volume(stored(labels, order, flips), path := tmp_path / f"{number}{'.mha' if number % 2 else '.nii.gz'}")
        found = mask_on_grid(read_mask(path), region.geometry, spec.size_zyx)
        assert 0.2 < found.mean() < 0.8
        assert off_by(found, region.geometry, outline.geometry, normal) <= 1 + 2e-3
        # negative control: mirrored along every axis, everything is wrong
        assert off_by(found[::-1, ::-1, ::-1], region.geometry, outline.geometry, normal) > 1.5
