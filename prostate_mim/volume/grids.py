"""How far apart two grids, or a place and a mask, are in the patient, in mm."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from prostate_mim.volume.geometry import FloatArray, Volume

SAME_GRID_MM = 0.1
"""Corners that lie closer are one grid: files round positions, as much as two forms of one NIfTI header may differ."""

_FACES = 0.5


def same_grid(first: Volume, second: Volume) -> bool:
    """Whether two volumes have one shape, and every corner voxel at one place to within ``SAME_GRID_MM``."""
    if first.shape_zyx != second.shape_zyx:
        return False
    corners = np.array(list(product((0.0, 1.0), repeat=3))) * (np.asarray(first.shape_zyx) - 1)
    moved = first.geometry.index_to_position(corners) - second.geometry.index_to_position(corners)
    return bool(np.linalg.norm(moved, axis=1).max() <= SAME_GRID_MM)


def off_grid_mm(places_mm_lps: FloatArray, volume: Volume) -> float:
    """Largest distance from places to the nearest voxel centre of a volume: how far a mask on its grid would move them.

    Args:
        places_mm_lps: (n, 3) positions, such as the labelled voxel centres of a mask on another grid; n > 0.
        volume: whose voxel centres count; beyond its edge the outermost ones do.
    """
    index = volume.geometry.position_to_index(places_mm_lps)
    nearest = np.clip(np.rint(index), 0, np.asarray(volume.shape_zyx) - 1)
    moved = volume.geometry.index_to_position(nearest) - places_mm_lps
    return float(np.linalg.norm(moved, axis=1).max())


def grid_note(mask: Volume, volume: Volume) -> str:
    """What a person should know of a mask on another grid than its image; empty where the two are on one.

    Args:
        mask: with at least one voxel above 0.
        volume: the image.
    """
    if same_grid(mask, volume):
        return ""
    off = off_grid_mm(labelled_places(mask), volume)
    return f"is on another grid than the t2w (up to {off:.2f} mm off its voxels) and is put there by place"


def holds_any(places_mm_lps: FloatArray, volume: Volume) -> bool:
    """Whether any of (n, 3) places lies within the volume's outer faces."""
    index = volume.geometry.position_to_index(places_mm_lps)
    return bool(((index > -_FACES) & (index < np.asarray(volume.shape_zyx) - _FACES)).all(1).any())


def labelled_places(mask: Volume) -> FloatArray:
    """(n, 3) positions in mm, LPS, of the centres of a mask's voxels above 0."""
    return mask.geometry.index_to_position(np.argwhere(mask.voxels > 0))


def distance_to_mask_mm(places_mm_lps: npt.ArrayLike, mask: Volume) -> float:
    """Smallest distance between any of the places and a mask; 0 where one lies in a labelled voxel.

    Args:
        places_mm_lps: (n, 3) positions; n > 0.
        mask: with at least one voxel above 0, to whose centres the distance is taken.
    """
    places = np.atleast_2d(np.asarray(places_mm_lps, float))
    index = np.rint(mask.geometry.position_to_index(places)).astype(int)
    index = index[((index >= 0) & (index < np.asarray(mask.shape_zyx))).all(1)]
    if len(index) and bool((mask.voxels[tuple(index.T)] > 0).any()):
        return 0.0
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(labelled_places(mask)).query(places)
    return float(np.min(distances))
