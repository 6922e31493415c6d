"""Values between the voxels of a grid: linear, smoothed where voxels grow, each axis one small matrix. NumPy only.

A grid with the axes of its volume needs one matrix per axis (``axis_matrix``), here as in a graph of matrix products.
BLAS is not used: it would start threads beside those of loaders, and give other last bits with another number of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_TRUNCATE = 4.0  # where the Gaussian ends, in sigmas


def axis_matrix(start: float, scale: float, size: int, available: int) -> Array:
    """What each voxel of an axis adds to each grid point on it: (size, available) float64; every row sums to 1.

    Grid point ``i`` gets from the voxels ``v``, by way of ``s``, which is ``v`` smoothed against aliasing::

        (1 - c + f) * s[f] + (c - f) * s[f + 1],    c = min(max(start + scale * i, 0), available - 1),    f = floor(c)
        s[j]  = sum over k = -r .. r of g[k] * v[min(max(j + k, 0), available - 1)]
        g[k]  = exp(-k * k / (2 * sigma * sigma)), divided by the sum over all k
        sigma = max(0, (scale - 1) / 2),    r = floor(4 * sigma + 0.5)

    So ``s`` is ``v`` unless voxels grow, and with ``scale`` 1 and a whole ``start`` every row is a single 1.

    Args:
        start: where the first grid point lies, in voxels; 0 is the centre of the first voxel.
        scale: from one grid point to the next, in voxels.
        size: number of grid points.
        available: number of voxels, at least 1.
    """
    place = np.clip(start + scale * np.arange(size), 0, available - 1)
    below = np.floor(place)
    kernel = _gaussian(max(0.0, (scale - 1) / 2))
    reach = np.arange(len(kernel)) - len(kernel) // 2
    # (size, 2, kernel): of each grid point, the smoothed voxels before and after it, and what those are made of
    beside = np.minimum(below.astype(int)[:, None] + [0, 1], available - 1)
    voxel = np.clip(beside[..., None] + reach, 0, available - 1)
    weight = np.stack([1 - place + below, place - below], 1)[..., None] * kernel
    cell = np.arange(size)[:, None, None] * available + voxel
    return np.asarray(np.bincount(cell.ravel(), weight.ravel(), size * available).reshape(size, available), np.float64)


def _gaussian(sigma: float) -> Array:
    """(2 r + 1,) weights that sum to 1."""
    radius = int(_TRUNCATE * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (sigma or 1.0)) ** 2)
    return np.asarray(kernel / kernel.sum())


def interpolate(
    voxels: npt.NDArray[Any], start: npt.NDArray[np.float64], scale: npt.NDArray[np.float64], size: npt.NDArray[np.int_]
) -> npt.NDArray[np.float32]:
    """A volume's values on another grid; beyond its outermost voxels, the nearest of them counts.

    Computed in float64. Where all grid points of an axis are voxels (scale 1, a whole start), slices across it are
    copied: each is what it would be alone.

    Args:
        voxels: (z, y, x), any real dtype, finite.
        start, scale, size: (3,) each, by axis, as for ``axis_matrix``.

    Returns:
        (z, y, x) float32 of the given size.
    """
    matrices: dict[int, Array] = {}
    values = voxels
    for axis, available in enumerate(voxels.shape):
        if scale[axis] == 1 and start[axis] % 1 == 0:
            values = values.take(np.clip(int(start[axis]) + np.arange(size[axis]), 0, available - 1), axis)
            continue
        matrix = axis_matrix(float(start[axis]), float(scale[axis]), int(size[axis]), available)
        used = np.flatnonzero(matrix.any(0))
        needed = slice(int(used[0]), int(used[-1]) + 1)
        values, matrices[axis] = values[(slice(None),) * axis + (needed,)], matrix[:, needed]
    for axis in sorted(matrices, key=lambda axis: size[axis] / values.shape[axis]):  # first the one that leaves least
        values = _along(values, matrices[axis], axis)
    return np.ascontiguousarray(values, np.float32)


def _along(values: npt.NDArray[Any], matrix: Array, axis: int) -> Array:
    """The product of a matrix and one axis of (z, y, x), over the few columns where a row is not 0."""
    first = (matrix != 0).argmax(1)
    count = int((matrix.shape[1] - (matrix[:, ::-1] != 0).argmax(1) - first).max())
    first = np.minimum(first, matrix.shape[1] - count)
    moved = np.moveaxis(values, axis, 0)
    rows = np.ascontiguousarray(moved, np.float64).reshape(len(moved), -1)
    result, part = np.empty((len(matrix), rows.shape[1])), np.empty(rows.shape[1])
    for total, weights, begin in zip(result, matrix, first, strict=True):
        np.multiply(rows[begin], weights[begin], out=total)
        for column in range(begin + 1, begin + count):
            np.multiply(rows[column], weights[column], out=part)
            total += part
    return np.moveaxis(result.reshape(-1, *moved.shape[1:]), 0, axis)
