"""What every volume must satisfy, whatever the format: size, kind of number, finite, not constant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import VolumeError

MAX_VOXELS = 2**26
"""Most voxels a volume may have: 1024 x 1024 x 64, several times the largest prostate T2w series."""

SPACING_RANGE_MM = (0.1, 10.0)
Array = npt.NDArray[np.generic]


def check_size(name: str, field: str, sizes: Sequence[int], max_voxels: int) -> int:
    """Number of voxels of a grid of ``sizes``, checked before anything is allocated.

    Raises:
        VolumeError: a size below 1, or more than ``max_voxels`` voxels.
    """
    shown = "x".join(str(size) for size in sizes)
    if any(size < 1 for size in sizes):
        raise VolumeError(f"{name}: {field} is {shown}, every size must be at least 1; the header is damaged")
    voxels = math.prod(sizes)
    if voxels > max_voxels:
        raise VolumeError(f"{name}: {field} is {shown} = {voxels} voxels, at most {max_voxels} allowed; crop it first")
    return voxels


def check_dtype(name: str, dtype: np.dtype[np.generic]) -> None:
    """Refuse anything but real numbers of at most 8 bytes.

    Raises:
        VolumeError: complex, object, text, structured (RGB) or extended-precision voxels.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise VolumeError(f"{name}: voxel type {dtype} is not a real number of 1 to 8 bytes; store int16 or float32")


def check_spacing(name: str, field: str, spacing_mm: Sequence[float]) -> None:
    """Refuse a voxel spacing outside 0.1 to 10 mm on any axis (NaN included).

    Raises:
        VolumeError: naming the field, the values found and the range.
    """
    low, high = SPACING_RANGE_MM
    if len(spacing_mm) != 3 or not all(low <= value <= high for value in spacing_mm):
        shown = ", ".join(f"{value:g}" for value in spacing_mm)
        raise VolumeError(
            f"{name}: {field} is ({shown}) mm, allowed three values of {low:g} to {high:g} mm; correct it"
        )


def check_finite(name: str, voxels: Array) -> None:
    """Refuse NaN and infinity.

    Raises:
        VolumeError: with the number of non-finite voxels.
    """
    if voxels.dtype.kind != "f":
        return
    bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if bad:
        raise VolumeError(
            f"{name}: {bad} of {voxels.size} voxels are NaN or infinite, all must be finite; convert it again"
        )


def check_varies(name: str, voxels: Array) -> None:
    """Refuse an image whose voxels all have one value.

    Raises:
        VolumeError: with that value.
    """
    first = voxels.flat[0]
    if bool((voxels[0] == first).all() and (voxels == first).all()):  # mostly, the first slice shows it
        raise VolumeError(
            f"{name}: all {voxels.size} voxels are {first}, an image needs at least two values; check its source"
        )


def as_labels(name: str, voxels: Array) -> npt.NDArray[np.int16]:
    """Voxels of a mask as int16 labels; masks stored as floating point are rounded.

    Raises:
        VolumeError: a value more than 0.01 from a whole number, or outside 0 to 32767.
    """
    check_finite(name, voxels)
    low, high = voxels.min(), voxels.max()
    if float(low) < -0.01 or float(high) > 32767:
        raise VolumeError(f"{name}: mask values run from {low} to {high}, labels must be 0 to 32767; is this an image?")
    if voxels.dtype.kind != "f":
        return voxels.astype(np.int16, order="C")
    values = voxels.astype(np.float64)
    rounded = np.rint(values)
    off = float(np.abs(values - rounded).max())
    if off > 0.01:
        raise VolumeError(
            f"{name}: mask values are up to {off:.3g} off whole numbers, at most 0.01 allowed; is it an image?"
        )
    return rounded.astype(np.int16, order="C")
