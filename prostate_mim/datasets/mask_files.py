"""What an importer must know of an image and its masks before it writes a row: readable, filled, and where."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import NotFoundError, VolumeError
from prostate_mim.files import make_folder
from prostate_mim.manifest import Point
from prostate_mim.studies import FARTHEST_FROM_GLAND_MM
from prostate_mim.volume import Volume, read_mask, read_volume, write_volume
from prostate_mim.volume.grids import distance_to_mask_mm, holds_any, labelled_places

IMAGE_REFUSED = "image not readable as an axial volume"
LESION_REFUSED = "lesion mask damaged, or off its image"
OFF_GLAND = f"lesion over {FARTHEST_FROM_GLAND_MM:g} mm from the gland mask"
FILLED, EMPTY, DAMAGED, OUTSIDE, ABSENT = "filled", "empty", "damaged", "outside", "absent"


@dataclass(frozen=True)
class MaskLook:
    """A mask as far as an importer needs it.

    Attributes:
        state: ``filled``, ``empty``, ``damaged`` (refused by ``read_mask``), ``outside`` (nothing of it lies in the
            image) or ``absent`` (no such file).
        path: the file to name in the manifest; None unless ``filled``.
        components: connected parts (voxels that touch by a face, an edge or a corner belong together).
        centre_mm_lps: centroid (x, y, z) of the largest part; None unless ``filled``.
        values: the labels in it, other than 0.
        rounded: the file was not of whole numbers, and ``path`` is a rounded copy.
        mask: its labels; None unless ``filled``.
    """

    state: str
    path: Path | None = None
    components: int = 0
    centre_mm_lps: Point | None = None
    values: tuple[int, ...] = ()
    rounded: bool = False
    mask: Volume | None = field(default=None, compare=False, repr=False)


def look_at_image(path: Path, spacing_mm_zyx: Point | None = None, sha256: str = "") -> Volume | None:
    """The volume, read as training will read it; None where ``read_volume`` refuses it."""
    try:
        return read_volume(path, spacing_mm_zyx=spacing_mm_zyx, sha256=sha256 or None)
    except (VolumeError, NotFoundError):
        return None


def look_at_mask(
    path: Path | None, volume: Volume, *, spacing_mm_zyx: Point | None = None, rounded_copy: Path | None = None
) -> MaskLook:
    """Read a mask, and say whether something of it lies in its image, whatever its own grid.

    Args:
        path: the file; None for none.
        volume: its image.
        spacing_mm_zyx: of a bare array.
        rounded_copy: where to write a copy with whole numbers if the file's are off by more than ``read_mask``
            accepts; such a file counts as damaged where this is None.
    """
    if path is None or not os.path.isfile(path):  # unlike Path.is_file, it never raises for a strange name
        return MaskLook(ABSENT)
    try:
        mask, used = read_mask(path, spacing_mm_zyx=spacing_mm_zyx), path
    except (VolumeError, NotFoundError):
        copy = None if rounded_copy is None else _rounded(path, rounded_copy)
        if copy is None:
            return MaskLook(DAMAGED)
        mask, used = copy, rounded_copy or path
    if not (mask.voxels > 0).any():
        return MaskLook(EMPTY)
    unlike = spacing_mm_zyx is not None and mask.shape_zyx != volume.shape_zyx  # bare arrays have no place to compare
    if unlike or not holds_any(labelled_places(mask), volume):
        return MaskLook(OUTSIDE)
    parts, centre = _parts(mask)
    values = tuple(int(value) for value in np.unique(mask.voxels) if value > 0)
    return MaskLook(FILLED, used, parts, centre, values, used != path, mask)


def off_gland(gland: MaskLook, lesion: MaskLook, position_mm_lps: Point | None = None) -> bool:
    """Whether a lesion lies so far from its gland mask that ``open_study`` would refuse the row; False without both."""
    if gland.mask is None:
        return False
    places = [labelled_places(lesion.mask)] if lesion.mask is not None else []
    places += [np.array([position_mm_lps])] if position_mm_lps is not None else []
    return any(distance_to_mask_mm(place, gland.mask) > FARTHEST_FROM_GLAND_MM for place in places)


def _parts(mask: Volume) -> tuple[int, Point]:
    """Number of connected parts, and the centroid of the largest; of equal ones, that which comes first."""
    from scipy import ndimage

    marked: npt.NDArray[np.int32]
    filled = np.argwhere(mask.voxels > 0)
    first, last = filled.min(0), filled.max(0)
    box = mask.voxels[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]  # the rest only costs time
    marked, count = ndimage.label(box > 0, structure=np.ones((3, 3, 3)))
    largest = int(np.bincount(marked.ravel())[1:].argmax()) + 1
    centre = mask.geometry.index_to_position(np.argwhere(marked == largest).mean(0) + first)
    x, y, z = (float(value) for value in centre)
    return int(count), (x, y, z)


def _rounded(path: Path, copy: Path) -> Volume | None:
    """The mask with its values rounded, written to ``copy``; None where the file cannot be read, or holds no labels."""
    try:
        volume = read_volume(path)
    except (VolumeError, NotFoundError):
        return None
    values = np.rint(volume.voxels.astype(np.float64))
    if values.min() < 0 or values.max() > 255:
        return None
    mask = Volume(values.astype(np.int16), volume.geometry, volume.source)
    make_folder(copy.parent)
    write_volume(mask, copy)
    return mask


def counted(what: Counter[str]) -> tuple[str, ...]:
    """Notes of an importer with their counts: ``3 studies: ...``; those that never occurred are left out."""
    return tuple(f"{count} {'study' if count == 1 else 'studies'}: {text}" for text, count in what.items() if count)
