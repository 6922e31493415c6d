"""Numbers that say what kind of image a volume is, each from a small part of its voxels. No torch.

Nothing is read but the volume; percentiles come from about a hundred thousand voxels, the rest from a few slices, so
that all of it costs less than reading the file did.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from prostate_mim.volume import Volume

FloatArray = npt.NDArray[np.float64]

_SAMPLE = 100_000  # voxels that percentiles are taken of
_SLICES = 3  # slices that sharpness is measured in
_BLOCKS = 40  # columns that left-right symmetry is measured in
_SHIFT = 3  # half columns that the plane of symmetry may be off the middle


def geometry_measures(volume: Volume) -> dict[str, float]:
    """Spacing, extent and proportions, in mm where they have a unit.

    Returns:
        pixel_mm (the larger of y and x), pixel_shape (spacing y / x), slice_mm, fov_y_mm, fov_x_mm, slices, extent_mm
        (of the stack), thickness (slice spacing / pixel).
    """
    z, y, x = volume.geometry.spacing_mm_zyx
    depth, height, width = volume.shape_zyx
    return {
        "pixel_mm": max(y, x),
        "pixel_shape": y / x,
        "slice_mm": z,
        "fov_y_mm": height * y,
        "fov_x_mm": width * x,
        "slices": float(depth),
        "extent_mm": depth * z,
        "thickness": z / max(y, x),
    }


def intensity_measures(volume: Volume) -> dict[str, float]:
    """The histogram, as ratios that do not depend on the scanner's grey scale.

    Returns:
        lowest, negative and zeros (shares of all voxels), typical (median / 99th percentile), darkest (1st / 99th
        percentile), middle (share between 15 and 45 % of the 99th percentile), spread (interquartile range / median),
        skewness. The last five are NaN without a positive 99th percentile, a positive median, or any variation.
    """
    voxels = volume.voxels
    sample = _sample(voxels)
    low, quarter, median, three, high = _percentiles(sample, (1, 25, 50, 75, 99))
    centred = sample - sample.mean()
    deviation = float(np.sqrt(np.mean(centred * centred)))
    middle = (sample > 0.15 * high) & (sample < 0.45 * high)
    cubed = centred * centred * centred  # as a product: NumPy's power of 3 takes a hundred times as long
    return {
        "lowest": float(voxels.min()),
        "negative": float(np.mean(sample < 0)),
        "zeros": float(np.mean(sample == 0)),
        "typical": median / high if high > 0 else math.nan,
        "darkest": low / high if high > 0 else math.nan,
        "middle": float(np.mean(middle)) if high > 0 else math.nan,
        "spread": (three - quarter) / median if median > 0 else math.nan,
        "skewness": float(cubed.mean()) / deviation**3 if deviation > 0 else math.nan,
    }


def sharpness_measures(volume: Volume) -> dict[str, float]:
    """How pixels differ from their neighbours, in three slices about the middle.

    Returns:
        sharpness: mean squared difference of neighbours / of pixels two apart, in-plane; 1 for white noise, 0.25 for
        a smooth image. repeated: share of neighbours along a row or a column (the larger) with the same value,
        zeros left out. NaN where the slices are constant or smaller than 4 x 4.
    """
    depth, height, width = volume.shape_zyx
    if min(height, width) < 4:
        return {"sharpness": math.nan, "repeated": math.nan}
    first = max(0, (depth - _SLICES) // 2)
    planes = volume.voxels[first : first + _SLICES].astype(np.float32)
    (near, same), (far, _) = (_steps(planes, lag) for lag in (1, 2))
    return {"sharpness": near / far if far > 0 else math.nan, "repeated": same}


def symmetry(volume: Volume) -> float:
    """Correlation of the image with its mirror image left to right: a pelvis, and a head, are nearly symmetric.

    The mean of the middle half of the slices, in blocks of 1/40 of the width, square roots (so that a bright coil
    counts less); the plane of symmetry may lie up to 1.5 blocks off the middle. NaN for images below 40 x 40 pixels.
    """
    depth, height, width = volume.shape_zyx
    if min(height, width) < _BLOCKS:
        return math.nan
    step_y, step_x = height // _BLOCKS, width // _BLOCKS
    rows, columns = height // step_y, width // step_x
    first, last = depth // 4, max(3 * depth // 4, depth // 4 + 1)
    middle = volume.voxels[first:last, : rows * step_y, : columns * step_x].mean(0, dtype=np.float32)
    blocks = middle.reshape(rows, step_y, columns, step_x).mean((1, 3))
    blocks = np.sqrt(blocks - min(0.0, float(blocks.min())))
    return max(_mirrored(blocks, shift) for shift in range(-_SHIFT, _SHIFT + 1))


def _sample(voxels: npt.NDArray[np.generic]) -> FloatArray:
    """(n,) about ``_SAMPLE`` voxels on a regular in-plane grid of every slice."""
    step = max(1, int(math.sqrt(voxels.size / _SAMPLE)))
    return np.asarray(voxels[:, ::step, ::step], np.float64).ravel()


def _percentiles(sample: FloatArray, shares: tuple[float, ...]) -> list[float]:
    """As ``np.percentile``; of a whole sort, which for this many values is several times as fast."""
    ordered = np.sort(sample)
    place = np.asarray(shares) / 100 * (len(ordered) - 1)
    below = place.astype(int)
    first, second = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)]
    return [float(value) for value in first + (second - first) * (place - below)]


def _steps(planes: npt.NDArray[np.float32], lag: int) -> tuple[float, float]:
    """Mean squared difference of pixels ``lag`` apart, columns and rows together; the larger share that is equal."""
    squares, shares = 0.0, []
    for one in (planes, planes.swapaxes(1, 2)):
        later, earlier = one[:, lag:], one[:, :-lag]
        gap = later - earlier
        squares += float(np.mean(gap * gap))
        equal, empty = int(np.count_nonzero(gap == 0)), int(np.count_nonzero((later == 0) & (earlier == 0)))
        shares.append((equal - empty) / (gap.size - empty) if gap.size > empty else math.nan)
    return squares, max(shares)


def _mirrored(blocks: npt.NDArray[np.float32], shift: int) -> float:
    """Correlation of columns with those on the other side of a plane ``shift`` / 2 columns off the middle."""
    count = blocks.shape[1]
    columns = np.arange(max(0, shift), min(count, count + shift))
    left, right = blocks[:, columns], blocks[:, count - 1 + shift - columns]
    if not (left.std() > 0 and right.std() > 0):
        return 1.0  # constant: symmetric, whatever else it is
    return float(np.corrcoef(left.ravel(), right.ravel())[0, 1])
