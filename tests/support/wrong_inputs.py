"""Volumes that are not what they claim to be: each made from a good axial T2w volume, or drawn from scratch.

Every function takes a good volume (z, y, x) and a generator, and returns a volume whose header says "axial". They are
used by the tests of the modality guard and by ``hub_cards/make_reference.py``, which measures the guard.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter, zoom

from prostate_mim.volume import Volume
from prostate_mim.volume.geometry import Geometry

Spacing = tuple[float, float, float]
Wrong = Callable[[Volume, np.random.Generator], Volume]


def volume_of(voxels: np.ndarray, spacing_mm_zyx: Spacing) -> Volume:
    """An array as a volume of int16 whose header claims plain axial axes."""
    return Volume(np.ascontiguousarray(np.rint(voxels), np.int16), Geometry(spacing_mm_zyx), "wrong")


def regrid(voxels: np.ndarray, spacing: Spacing, new: Spacing) -> np.ndarray:
    """Linear resampling to other spacings, the same field of view."""
    factors = [a / b for a, b in zip(spacing, new, strict=True)]
    return np.asarray(zoom(voxels.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True))


def sagittal(volume: Volume, rng: np.random.Generator) -> Volume:
    """Re-sliced along x: columns run to posterior, rows to inferior; 3 mm slices of 0.5 mm pixels."""
    voxels = volume.voxels.transpose(2, 0, 1)[:, ::-1]
    z, y, x = volume.geometry.spacing_mm_zyx
    return _thick_slices(volume_of(regrid(voxels, (x, z, y), (3.0, 0.5, 0.5)), (3.0, 0.5, 0.5)))


def coronal(volume: Volume, rng: np.random.Generator) -> Volume:
    """Re-sliced along y: columns run to the left, rows to inferior; 3 mm slices of 0.5 mm pixels."""
    voxels = volume.voxels.transpose(1, 0, 2)[:, ::-1]
    z, y, x = volume.geometry.spacing_mm_zyx
    return _thick_slices(volume_of(regrid(voxels, (y, z, x), (3.0, 0.5, 0.5)), (3.0, 0.5, 0.5)))


def _thick_slices(volume: Volume) -> Volume:
    """The middle 72 mm of a re-sliced stack, as many slices as one acquires."""
    spare = max(0, volume.shape_zyx[0] - 24) // 2
    return Volume(np.ascontiguousarray(volume.voxels[spare : spare + 24]), volume.geometry, volume.source)


def inverted(volume: Volume, rng: np.random.Generator) -> Volume:
    """Largest value minus value: what was bright is dark."""
    return Volume(volume.voxels.max() - volume.voxels, volume.geometry, "wrong")


def inverted_clipped(volume: Volume, rng: np.random.Generator) -> Volume:
    """As ``inverted`` about the 99.5th percentile, clipped at 0, so that the darkest values are 0 as in an MR image."""
    top = np.percentile(volume.voxels, 99.5)
    return Volume(np.clip(top - volume.voxels, 0, None).astype(volume.voxels.dtype), volume.geometry, "wrong")


def localiser(volume: Volume, rng: np.random.Generator) -> Volume:
    """Three to five slices of 256 x 256 pixels of 1.4 mm, 10 mm apart; beyond the source there is air."""
    count = int(rng.integers(3, 6))
    spacing = np.asarray(volume.geometry.spacing_mm_zyx)
    new = np.asarray((10.0, 1.4, 1.4))
    shape = (count, 256, 256)
    scale = new / spacing
    start = (np.asarray(volume.voxels.shape) - 1) / 2 - scale * (np.asarray(shape) - 1) / 2
    voxels = affine_transform(volume.voxels.astype(np.float32), scale, start, output_shape=shape, order=1)
    noise = np.hypot(*rng.normal(0, 0.01 * float(np.percentile(volume.voxels, 99)), (2, *shape)))
    return volume_of(voxels + noise, (10.0, 1.4, 1.4))


def noise_only(volume: Volume, rng: np.random.Generator) -> Volume:
    """Rician noise without any signal, on the volume's grid."""
    return volume_of(np.hypot(*rng.normal(0, 60, (2, *volume.shape_zyx))), volume.geometry.spacing_mm_zyx)


def low_resolution(volume: Volume, rng: np.random.Generator) -> Volume:
    """As diffusion images are: 2 mm pixels, its own spacing in the header."""
    z, y, x = volume.geometry.spacing_mm_zyx
    smooth = gaussian_filter(volume.voxels.astype(np.float32), (0, 1 / y, 1 / x))
    return volume_of(regrid(smooth, (z, y, x), (z, 2.0, 2.0)), (z, 2.0, 2.0))


def upsampled(volume: Volume, rng: np.random.Generator) -> Volume:
    """``low_resolution`` interpolated linearly back to the volume's pixels."""
    low = low_resolution(volume, rng)
    z, y, x = volume.geometry.spacing_mm_zyx
    return volume_of(regrid(low.voxels, low.geometry.spacing_mm_zyx, (z, y, x)), (z, y, x))


def repeated_pixels(volume: Volume, rng: np.random.Generator) -> Volume:
    """Every second pixel, twice in each direction: nearest-neighbour scaling."""
    half = volume.voxels[:, ::2, ::2]
    return Volume(np.ascontiguousarray(half.repeat(2, 1).repeat(2, 2)), volume.geometry, "wrong")


def scaled(factor: float) -> Wrong:
    """Spacings times a factor: units or a matrix size mixed up."""

    def change(volume: Volume, rng: np.random.Generator) -> Volume:
        z, y, x = (factor * mm for mm in volume.geometry.spacing_mm_zyx)
        return Volume(volume.voxels, Geometry((z, y, x)), "wrong")

    return change


def shifted(volume: Volume, rng: np.random.Generator) -> Volume:
    """Half the field of view, from a corner: its centre lies in the pelvic wall."""
    _, h, w = volume.shape_zyx
    row, column = int(rng.integers(2)) * (h - h // 2), int(rng.integers(2)) * (w - w // 2)
    part = volume.voxels[:, row : row + h // 2, column : column + w // 2]
    return Volume(np.ascontiguousarray(part), Geometry(volume.geometry.spacing_mm_zyx), "wrong")


def _flipped(axis: int) -> Wrong:
    def change(volume: Volume, rng: np.random.Generator) -> Volume:
        return Volume(np.ascontiguousarray(np.flip(volume.voxels, axis)), volume.geometry, "wrong")

    return change


def _ellipsoid(shape: tuple[int, int, int], spacing: Spacing, centre: Spacing, semi: Spacing) -> np.ndarray:
    """(z, y, x) bool; centre and half extents in mm from the middle of the grid."""
    axes = [
        (np.arange(n) - (n - 1) / 2) * mm - c for n, mm, c in zip(shape, spacing, centre, strict=True)
    ]  # fmt: skip
    z, y, x = (axis / s for axis, s in zip(axes, semi, strict=True))
    return np.asarray(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2 <= 1)


def head(volume: Volume, rng: np.random.Generator) -> Volume:
    """A T2w head of ellipsoids: scalp, dark skull, bright fluid, grey and white matter, ventricles, eyes; no organ."""
    shape, spacing = (24, 320, 320), (4.0, 0.72, 0.72)
    grow = float(rng.uniform(0.92, 1.08))
    image = np.zeros(shape, np.float32)
    layers = (
        ((85, 98, 76), 0.7), ((80, 92, 70), 0.08), ((76, 88, 66), 1.4), ((74, 84, 63), 0.55), ((68, 76, 56), 0.38),
    )  # fmt: skip
    for semi, level in layers:
        z, y, x = (grow * s for s in semi)
        image[_ellipsoid(shape, spacing, (-10, 0, 0), (z, y, x))] = level
    for side in (-1.0, 1.0):
        image[_ellipsoid(shape, spacing, (0, -5, side * 12 * grow), (20, 34, 7))] = 1.5
        image[_ellipsoid(shape, spacing, (-36, -72 * grow, side * 32), (12, 12, 12))] = 1.5
        image[_ellipsoid(shape, spacing, (0, 8, side * 24), (14, 16, 8))] = 0.5
    folds = gaussian_filter(rng.normal(size=shape), (0.7, 3, 3))
    image *= 1 + 1.2 * folds.astype(np.float32) * (image > 0.3)
    image = gaussian_filter(image, (0.3, 0.8, 0.8))
    image = np.hypot(image + rng.normal(0, 0.025, shape), rng.normal(0, 0.025, shape))
    return volume_of(float(rng.uniform(200, 900)) * image, spacing)


def _ct(rng: np.random.Generator, offset: int) -> Volume:
    shape, spacing = (30, 320, 320), (3.0, 0.75, 0.75)
    image = np.full(shape, -1000, np.float32)
    grow = float(rng.uniform(0.9, 1.1))
    for centre, semi, level in (
        ((0, 0, 0), (900, 100, 112), -100), ((0, 0, 0), (900, 84, 98), 45), ((0, 0, 0), (900, 60, 66), -95),
        ((0, 60, 0), (900, 12, 22), 400), ((0, 5, 0), (25, 22, 26), 40), ((-30, -20, 0), (30, 30, 36), 8),
        ((0, 38, 0), (900, 16, 16), 35), ((0, 40, 0), (900, 7, 7), -900),
    ):  # fmt: skip
        z, y, x = (grow * s for s in semi)
        image[_ellipsoid(shape, spacing, centre, (z, y, x))] = level
    for side in (-1.0, 1.0):
        for centre, semi, level in (((0, 10, 78), (40, 24, 22), 700), ((0, 10, 78), (37, 20, 18), 280)):
            image[_ellipsoid(shape, spacing, (centre[0], centre[1], side * grow * centre[2]), semi)] = level
    image = gaussian_filter(image, (0.3, 0.9, 0.9)) + gaussian_filter(rng.normal(0, 60, shape), (0, 0.8, 0.8))
    return volume_of(image + offset, spacing)


def ct(volume: Volume, rng: np.random.Generator) -> Volume:
    """A pelvis of ellipsoids in Hounsfield units."""
    return _ct(rng, 0)


def ct_offset(volume: Volume, rng: np.random.Generator) -> Volume:
    """``ct`` stored with 1024 added, as scanners do: nothing is negative."""
    return volume_of(np.clip(_ct(rng, 1024).voxels, 0, None), (3.0, 0.75, 0.75))


WRONG: dict[str, Wrong] = {
    "sagittal": sagittal,
    "coronal": coronal,
    "head": head,
    "CT, Hounsfield units": ct,
    "CT, 1024 added": ct_offset,
    "inverted": inverted,
    "inverted, clipped": inverted_clipped,
    "localiser": localiser,
    "noise only": noise_only,
    "low resolution": low_resolution,
    "low resolution, upsampled": upsampled,
    "pixels repeated": repeated_pixels,
    "spacing x 2": scaled(2.0),
    "spacing / 2": scaled(0.5),
    "corner of the pelvis": shifted,
    "anterior and posterior swapped": _flipped(1),
    "superior and inferior swapped": _flipped(0),
    "left and right swapped": _flipped(2),
}
