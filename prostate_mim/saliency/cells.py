"""Feature maps spread over the input's voxels, by where their cells look."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def over_voxels(
    cells: FloatArray, centre_zyx: tuple[float, float, float], stride_zyx: tuple[int, int, int], size_zyx: Any
) -> FloatArray:
    """Interpolate a map of cells linearly at every voxel; beyond the outermost cells their values go on.

    Args:
        cells: (d, h, w).
        centre_zyx: of the first cell, in voxels; as ``StageInfo.begin_zyx``.
        stride_zyx: voxels from cell to cell.
        size_zyx: voxels of the result.

    Returns:
        (z, y, x) float32.
    """
    from scipy.ndimage import affine_transform

    scale = 1 / np.asarray(stride_zyx, float)
    start = -np.asarray(centre_zyx, float) * scale
    spread = affine_transform(cells, scale, start, output_shape=tuple(size_zyx), order=1, mode="nearest")
    return np.asarray(spread, np.float32)
