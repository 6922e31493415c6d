"""Writing a mask that lies on its image in every viewer: on the axes, origin and spacing of the image's own file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.volume.checks import as_labels
from prostate_mim.volume.geometry import Geometry, Volume
from prostate_mim.volume.orient import canonical, on_file_axes
from prostate_mim.volume.read import read_stored
from prostate_mim.volume.write import write_volume


def write_mask_like(labels: npt.ArrayLike, reference: Volume | str | os.PathLike[str], path: str | Path) -> None:
    """Write a mask atomically with the origin, direction and spacing of a reference, and nothing else of it.

    A mask for a file is stored in the order of axes of that file, so that tools which overlay voxel by voxel are right
    as well. The header is a new one: no text, comment or extension of the reference is copied.

    Args:
        labels: (z, y, x) on the grid of ``read_volume(reference)``: booleans, or whole numbers 0 to 32767.
        reference: the image's file or DICOM folder; or a Volume, whose axes are the canonical ones.
        path: ends in ``.nii``, ``.nii.gz`` or ``.mha``. Stored as uint8, int16 where a label is over 255.

    Raises:
        UsageError: labels of another shape than the reference, another ending, or the folder cannot be written.
        VolumeError, NotFoundError: the reference cannot be read, or the labels are none.
        ResourceError: the disk is full, or out of memory.
    """
    found = np.asarray(labels)
    if found.dtype.kind not in "biuf":
        raise VolumeError(f"mask: values of type {found.dtype} are no labels; give booleans or whole numbers")
    if isinstance(reference, Volume):
        _check_shape(found, reference.shape_zyx)
        write_volume(Volume(_small(found), reference.geometry, "mask"), path)
        return
    image = read_stored(reference)
    _check_shape(found, canonical(image, str(reference)).shape_zyx)
    stored = np.ascontiguousarray(on_file_axes(_small(found), image))
    i, j, k = image.spacing_mm_ijk
    # Geometry holds for any axes: here array axes (k, j, i) are the file's own, not the canonical ones.
    write_volume(Volume(stored, Geometry((k, j, i), image.origin_mm_lps, image.direction), "mask"), path)


def _small(found: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if found.dtype.kind == "b":
        return found.astype(np.uint8)
    labels = as_labels("mask", found)
    return labels.astype(np.uint8) if labels.max() <= 255 else labels


def _check_shape(found: npt.NDArray[np.generic], shape_zyx: tuple[int, int, int]) -> None:
    if found.shape != shape_zyx:
        raise UsageError(f"the mask has {found.shape} voxels, its reference {shape_zyx}; give it on the grid as read")
