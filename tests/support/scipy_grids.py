"""The values of a volume on another grid as SciPy computes them: the independent reference of our own."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter


def by_scipy(
    voxels: np.ndarray,
    start: np.ndarray,
    scale: np.ndarray,
    size: np.ndarray,
    *,
    order: int = 1,
    sigmas: float = 1.0,
    dtype: type = np.float64,
) -> np.ndarray:
    """(z, y, x) of the given size in ``dtype``, in which every step is rounded.

    Args:
        voxels: (z, y, x).
        start, scale: (3,) in voxels, where the first grid point lies and how far the next.
        size: (3,) grid points.
        order: of the interpolation; 1 is linear.
        sigmas: what the Gaussian against aliasing is made wider by.
        dtype: float32 or float64.
    """
    smooth = gaussian_filter(voxels.astype(dtype), sigmas * np.maximum(0.0, (scale - 1) / 2), mode="nearest")
    return affine_transform(smooth, scale, start, output_shape=tuple(size), order=order, mode="nearest")
