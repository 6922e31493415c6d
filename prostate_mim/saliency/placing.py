"""A map put on another grid by position in the patient: from the crop to the study, and between studies' grids."""

from __future__ import annotations

import numpy as np

from prostate_mim.saliency.cells import FloatArray
from prostate_mim.volume import Geometry, Volume

_ROUNDING = 1e-6  # of an index: a face shared by both grids must not be decided by the last bit


def place_on(found: FloatArray, own: Geometry, geometry: Geometry, size_zyx: tuple[int, int, int]) -> FloatArray:
    """Interpolate a map linearly at the voxel centres of another grid.

    Args:
        found: (z, y, x) on the grid ``own``.
        own: spacing, axes and origin may differ from those of the other grid.
        geometry: of the other grid.
        size_zyx: its voxels.

    Returns:
        ``size_zyx`` float32; 0 at positions beyond the outer faces of the map's voxels.
    """
    from scipy.ndimage import affine_transform

    result = np.zeros(size_zyx, np.float32)
    corners = np.stack(np.meshgrid(*((-0.5, n - 0.5) for n in found.shape), indexing="ij"), -1).reshape(-1, 3)
    reached = geometry.position_to_index(own.index_to_position(corners))
    low = np.clip(np.ceil(reached.min(0) - _ROUNDING).astype(int), 0, size_zyx)
    high = np.clip(np.floor(reached.max(0) + _ROUNDING).astype(int) + 1, low, size_zyx)
    if (high == low).any():
        return result
    to_own = own.position_to_index(geometry.index_to_position(np.vstack([low, low + np.eye(3)])))
    start, steps = to_own[0], (to_own[1:] - to_own[0]).T
    shape = tuple(int(n) for n in high - low)
    placed = affine_transform(found, steps, start, output_shape=shape, order=1, mode="nearest")
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    for axis, available in enumerate(found.shape):
        index = start[axis] + steps[axis, 0] * z + steps[axis, 1] * y + steps[axis, 2] * x
        placed[(index < -0.5 - _ROUNDING) | (index > available - 0.5 + _ROUNDING)] = 0
    result[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = placed
    return result


def on_grid_of(found: Volume, volume: Volume) -> Volume:
    """A map on the grid of a volume, float32; the same values where the grids are the same."""
    placed = place_on(np.asarray(found.voxels, np.float32), found.geometry, volume.geometry, volume.shape_zyx)
    return Volume(placed, volume.geometry, found.source)
