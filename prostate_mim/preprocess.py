"""Volume + InputSpec -> float32 crop. The only implementation: training, prediction and deployment call this.

resample to ``spec.spacing_mm_zyx`` -> crop around a centre -> clip at percentiles -> z-score -> pad with 0.
Statistics come from the voxels of the crop that lie inside the study, so padding never moves them. Masks that the
spec asks for follow as further channels. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import VolumeError
from prostate_mim.spec import InputSpec
from prostate_mim.volume.geometry import Geometry, Volume
from prostate_mim.volume.grids import holds_any, labelled_places
from prostate_mim.volume.resampling import interpolate

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Exact ties (an even volume in an odd crop) must not be decided by the last bit of a direction cosine.
_TIE = 1e-3
_ONE_ZONE = ("pz", "tz")


@dataclass(frozen=True)
class Crop:
    """A piece of a study on the network's grid.

    Attributes:
        voxels: (z, y, x) float32; z-scored if it comes from ``prepare_crop``; 0 where not inside.
        inside: (z, y, x) bool, True = measured, False = padding beyond the study's field of view.
        geometry: where the crop lies in the patient (LPS, mm).
        repeated: where the volume's only slice lies, on the crop's rows and columns, if every slice of the crop is a
            copy of it (``InputSpec.single_slice``); else None.
    """

    voxels: FloatArray
    inside: BoolArray
    geometry: Geometry
    repeated: Geometry | None = None


def preprocess(volume: Volume, spec: InputSpec, centre_mm_lps: npt.ArrayLike | None = None) -> FloatArray:
    """The image that a network sees of one volume; ``prepare_input`` adds the masks.

    Args:
        volume: as ``read_volume`` returns it.
        spec: the contract of the network.
        centre_mm_lps: (x, y, z) in mm around which to crop; the middle of the volume if None.

    Returns:
        voxels: ``spec.size_zyx`` float32, z-scored (mean 0, deviation 1 over measured voxels), 0 outside.

    Raises:
        VolumeError: the centre lies outside the volume, or the crop is constant.
    """
    return prepare_crop(volume, spec, centre_mm_lps).voxels


def prepare_crop(volume: Volume, spec: InputSpec, centre_mm_lps: npt.ArrayLike | None = None) -> Crop:
    """As ``preprocess``, with the geometry of the crop and which of its voxels were measured."""
    region = resample(volume, spec, centre_mm_lps)
    return replace(region, voxels=normalise(region.voxels, region.inside, spec, volume.source))


def prepare_input(
    volume: Volume,
    spec: InputSpec,
    centre_mm_lps: npt.ArrayLike | None = None,
    masks: Mapping[str, Volume] | None = None,
) -> FloatArray:
    """A network's whole input for one volume: the image, then a channel for each mask that the spec names.

    Args:
        volume: as ``read_volume`` returns it.
        spec: the contract of the network.
        centre_mm_lps: (x, y, z) in mm around which to crop; the middle of the volume if None.
        masks: by the names of ``spec.CHANNELS``, each on its own grid, above 0 = True; others are not looked at.

    Returns:
        (C, D, H, W) float32: ``preprocess``'s voxels, then masks as 0 and 1, 0 in padding.

    Raises:
        VolumeError: as ``preprocess``; or a mask is missing, empty, or nothing of it lies within the volume.
    """
    given = masks or {}
    for name in spec.masks:
        _check_mask(name, given.get(name), volume)
    crop = prepare_crop(volume, spec, centre_mm_lps)
    return np.stack([crop.voxels, *(mask_on_crop(given[name], crop).astype(np.float32) for name in spec.masks)])


def _check_mask(name: str, mask: Volume | None, volume: Volume) -> None:
    if mask is None:
        raise VolumeError(
            f"{volume.source}: the {name} mask is missing, and the model looks at it; give one, or use a model without"
        )
    places = labelled_places(mask)
    if not len(places) and name in _ONE_ZONE:
        return  # a crop may show but one of the zones
    if not len(places) or not holds_any(places, volume):
        raise VolumeError(
            f"{volume.source}: the {name} mask is empty, or nothing of it lies within the volume; it needs the "
            "geometry of this very series"
        )


def resample(
    volume: Volume,
    spec: InputSpec,
    centre_mm_lps: npt.ArrayLike | None = None,
    size_zyx: tuple[int, int, int] | None = None,
) -> Crop:
    """Crop a grid of the spec's spacing around a centre, in the volume's own intensities.

    The grid point at the centre (of an even number, the one after it) lies on a voxel of the volume. So an axis that
    already has the spec's spacing is copied, not interpolated, and the middle of a region that is larger by an even
    number of voxels is the very crop. Other axes are interpolated linearly, after a Gaussian where voxels grow. A study
    too thin for any grid point (one slice between two of them) is met by moving the grid, less than a voxel. What
    becomes of a volume of one slice is the spec's ``single_slice``.

    Args:
        size_zyx: voxels of the crop; the spec's if None.
    """
    centre = volume.centre_mm_lps if centre_mm_lps is None else np.asarray(centre_mm_lps, float)
    check_inside(volume, centre)
    size = np.asarray(spec.size_zyx if size_zyx is None else size_zyx)
    scale = np.asarray(spec.spacing_mm_zyx) / np.asarray(volume.geometry.spacing_mm_zyx)
    scale = np.where(np.abs(scale - 1) < 1e-4, 1.0, scale)
    start = _start(volume.geometry.position_to_index(centre), scale, size, volume.shape_zyx)
    geometry = volume.geometry.regrid(start, spec.spacing_mm_zyx)
    if spec.single_slice == "pad" or volume.shape_zyx[0] > 1:
        return Crop(*_cut(volume, start, scale, size), geometry)
    depth = size[0]
    start[0], scale[0], size = 0, 1, np.array([1, *size[1:]])
    voxels, inside = _cut(volume, start, scale, size)
    place = volume.geometry.regrid(start, spec.spacing_mm_zyx)
    return Crop(np.repeat(voxels, depth, 0), np.repeat(inside, depth, 0), geometry, place)


def check_inside(volume: Volume, position_mm_lps: npt.ArrayLike) -> None:
    """Refuse a place (x, y, z in mm, LPS) that is not in the volume, and say where the volume is.

    Raises:
        VolumeError: it lies outside.
    """
    place = np.asarray(position_mm_lps, float)
    if volume.contains(place):
        return
    voxel, size = _text(volume.geometry.position_to_index(place)), " ".join(map(str, volume.shape_zyx))
    raise VolumeError(
        f"{volume.source}: position {_text(place)} mm LPS is outside the volume (voxel z y x {voxel} of {size}); "
        f"its centre is {_text(volume.centre_mm_lps)}; from a viewer in RAS negate x and y"
    )


def _cut(
    volume: Volume, start: npt.NDArray[np.float64], scale: npt.NDArray[np.float64], size: npt.NDArray[np.int_]
) -> tuple[FloatArray, BoolArray]:
    """Intensities of a grid, 0 where not inside; and what is inside: (z, y, x) float32 and bool."""
    inside = _inside(start, scale, size, volume.shape_zyx)
    copied = bool((scale == 1).all())  # then the start is a whole number
    voxels = _copied(volume, start, size) if copied else interpolate(volume.voxels, start, scale, size)
    voxels[~inside] = 0
    return voxels, inside


def normalise(voxels: FloatArray, inside: BoolArray, spec: InputSpec, source: str = "array") -> FloatArray:
    """Clip at the spec's percentiles and z-score, both over ``inside`` voxels; the rest becomes 0.

    Raises:
        VolumeError: nothing is inside, or all of it has one value.
    """
    whole = bool(inside.all())  # then nothing needs to be picked out, which takes as long as the rest
    measured = (voxels.ravel() if whole else voxels[inside]).astype(np.float64)
    if measured.size == 0:
        raise VolumeError(f"{source}: the crop holds no voxel of the study; check the centre")
    low, high = np.percentile(measured, spec.clip_percentiles)
    clipped = np.clip(measured, low, high)
    deviation = clipped.std()
    if not deviation > 1e-6 * max(1.0, abs(float(clipped.mean()))):
        raise VolumeError(f"{source}: the crop is constant ({low:g}); there is nothing to z-score, check the centre")
    scored = (clipped - clipped.mean()) / deviation
    if whole:
        return np.asarray(scored, np.float32).reshape(voxels.shape)
    result = np.zeros(voxels.shape, np.float32)
    result[inside] = scored
    return result


def mask_on_crop(mask: Volume, crop: Crop) -> BoolArray:
    """A mask on a crop: (z, y, x) bool, False in padding. On a repeated slice, the mask of that slice is repeated."""
    depth, height, width = crop.voxels.shape
    if crop.repeated is None:
        return mask_on_grid(mask, crop.geometry, (depth, height, width)) & crop.inside
    return np.repeat(mask_on_grid(mask, crop.repeated, (1, height, width)), depth, 0) & crop.inside


def mask_on_grid(mask: Volume, geometry: Geometry, size_zyx: tuple[int, int, int]) -> BoolArray:
    """A mask on another grid: each grid point gets the mask's nearest voxel, by position in the patient.

    Spacing, axes and extent of the mask may be its own. A mask on the grid of a study lands on the very voxels that
    ``resample`` copies from it.

    Args:
        mask: labels; everything above 0 counts as True.
        geometry: of the grid, such as ``Crop.geometry``.
        size_zyx: voxels of the grid.

    Returns:
        (z, y, x) bool; False at positions outside the mask's volume.
    """
    corners = np.vstack([np.zeros(3), np.eye(3)])
    first, *others = mask.geometry.position_to_index(geometry.index_to_position(corners))
    (to_z, to_y, to_x), (z, y, x) = (other - first for other in others), np.ogrid[tuple(slice(n) for n in size_zyx)]
    found = np.ones(size_zyx, bool)
    nearest = []
    for axis, available in enumerate(mask.shape_zyx):
        index = first[axis] + z * to_z[axis] + y * to_y[axis] + x * to_x[axis]
        whole = np.floor(index + 0.5 - _TIE).astype(int)
        found &= (whole >= 0) & (whole < available)
        nearest.append(np.clip(whole, 0, available - 1))
    return np.asarray(found & (mask.voxels[tuple(nearest)] > 0))


def _start(
    centre: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    size: npt.NDArray[np.int_],
    shape: tuple[int, int, int],
) -> npt.NDArray[np.float64]:
    """Index in the volume of the crop's first voxel."""
    middle = size // 2  # of an even number, the grid point after the centre
    start = np.floor(centre + scale * (middle - (size - 1) / 2) + 0.5 - _TIE) - scale * middle
    for axis, available in enumerate(shape):
        index = start[axis] + scale[axis] * np.arange(size[axis])
        if not _measured(index, available).any():
            voxel = np.clip(np.rint(centre[axis]), 0, available - 1)
            start[axis] += voxel - index[np.abs(index - voxel).argmin()]
    return np.asarray(start)


def _measured(index: npt.NDArray[np.float64], available: int) -> BoolArray:
    """Which indices along an axis lie within half a voxel of the outermost voxel centres."""
    return np.asarray((index > -0.5) & (index < available - 0.5))


def _copied(volume: Volume, start: npt.NDArray[np.float64], size: npt.NDArray[np.int_]) -> FloatArray:
    """A grid whose points all are voxels of the volume: interpolation would give the same, in several times the time.

    Args:
        start: whole numbers.

    Returns:
        (z, y, x) float32; 0 outside of the volume.
    """
    first = start.astype(int)
    low, high = np.maximum(first, 0), np.minimum(first + size, volume.shape_zyx)
    voxels = np.zeros(size, np.float32)
    taken = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    voxels[tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))] = volume.voxels[taken]
    return voxels


def _inside(
    start: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    size: npt.NDArray[np.int_],
    shape: tuple[int, int, int],
) -> BoolArray:
    """(z, y, x) bool: grid points that were measured."""
    z, y, x = (
        _measured(first + step * np.arange(count), available)
        for first, step, count, available in zip(start, scale, size, shape, strict=True)
    )
    return np.asarray(z[:, None, None] & y[None, :, None] & x[None, None, :])


def _text(values: npt.NDArray[np.float64]) -> str:
    return " ".join(f"{v:.1f}" for v in values)
