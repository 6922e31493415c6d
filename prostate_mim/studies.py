"""A manifest row -> its volume, its masks and the centre to crop around. Errors speak of rows, not of paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import ManifestError, NotFoundError, ProstateMimError, UsageError
from prostate_mim.manifest import Manifest, ManifestRow, Point
from prostate_mim.preprocess import BoolArray, Crop, mask_on_grid
from prostate_mim.volume import Volume, read_mask, read_volume

MASKS = ("gland", "lesion")
_SHORTEST_NAME = 4  # a shorter file name identifies nobody, and would be found inside other words


@dataclass(frozen=True)
class Study:
    """An opened row.

    Attributes:
        row: where it came from.
        volume: the T2w series.
        centre_mm_lps: (x, y, z) of the lesion, else of the gland, else of the image.
        where: how messages name the row.
    """

    row: ManifestRow
    volume: Volume
    centre_mm_lps: Point
    where: str

    def read_mask(self, name: str) -> Volume | None:
        """The row's mask, read now; None where the row has none. A position is no mask.

        Args:
            name: one of ``MASKS``; ``lesion`` is the row's own lesion, not every lesion of the study.

        Returns:
            (z, y, x) int16 labels on the mask's own grid; at least one is above 0.

        Raises:
            VolumeError, NotFoundError: as ``prostate_mim.volume.read_mask``, with the row in place of the path.
            ManifestError: the mask is empty, or not of this volume.
            UsageError: an unknown name.
        """
        if name not in MASKS:
            raise UsageError(f"mask {name!r} is unknown; choose {' or '.join(MASKS)}")
        path = self.row.gland_mask if name == "gland" else self.row.lesion_mask
        if path is None:
            return None
        where = f"{self.where} ({name}_mask)"
        found, indices = _filled_mask(where, path, self.row.spacing_mm_zyx)
        bare = self.row.spacing_mm_zyx is not None  # arrays without a place: only an equal shape tells that they match
        if bare and found.shape_zyx != self.volume.shape_zyx:
            raise ManifestError(
                f"{where}: the mask has {found.shape_zyx} voxels, the volume {self.volume.shape_zyx}; "
                "arrays without geometry need one shape"
            )
        places = self.volume.geometry.position_to_index(found.geometry.index_to_position(indices))
        if not ((places > -0.5) & (places < np.asarray(self.volume.shape_zyx) - 0.5)).all(1).any():
            raise ManifestError(
                f"{where}: nothing of the mask lies within the volume; it needs the geometry of this very series"
            )
        return found

    def mask_on(self, crop: Crop, name: str) -> BoolArray | None:
        """The row's mask on the grid of one of the study's crops: (z, y, x) bool, False in padding; None without one.

        Raises:
            VolumeError, NotFoundError, ManifestError, UsageError: as ``read_mask``.
        """
        found = self.read_mask(name)
        if found is None:
            return None
        z, y, x = crop.voxels.shape
        return mask_on_grid(found, crop.geometry, (z, y, x)) & crop.inside


def open_study(manifest: Manifest, row: ManifestRow) -> Study:
    """Read one row's volume and find its centre.

    Raises:
        VolumeError, NotFoundError: as ``read_volume``, with the row in place of the path.
        ManifestError: the lesion lies outside the volume, or a mask is empty.
    """
    with _speak_of(f"{manifest.where(row)} (t2w)", row.t2w):
        volume = read_volume(row.t2w, spacing_mm_zyx=row.spacing_mm_zyx, sha256=row.sha256)
    return _place(manifest, row, volume)


def open_all(manifest: Manifest) -> Iterator[Study]:
    """Every row in order; a volume shared by consecutive rows is read once."""
    last: Study | None = None
    for row in manifest.rows:
        shared = last is not None and _read_of(last.row) == _read_of(row)
        last = _place(manifest, row, last.volume) if shared and last else open_study(manifest, row)
        yield last


def _read_of(row: ManifestRow) -> tuple[Path, str | None, Point | None]:
    """All that decides what ``read_volume`` returns for a row."""
    return row.t2w, row.sha256, row.spacing_mm_zyx


def _place(manifest: Manifest, row: ManifestRow, volume: Volume) -> Study:
    where = manifest.where(row)
    named = Volume(volume.voxels, volume.geometry, source=f"{where} (t2w)")
    centre = _centre(manifest, row, named)
    if not named.contains(centre):
        raise ManifestError(
            f"{where}: the lesion at ({centre[0]:.1f}, {centre[1]:.1f}, {centre[2]:.1f}) mm lies outside the volume; "
            "position_mm_lps is x y z in LPS (not RAS, not voxels) of this very series"
        )
    return Study(row, named, centre, where)


def _centre(manifest: Manifest, row: ManifestRow, volume: Volume) -> Point:
    if row.position_mm_lps is not None:
        return row.position_mm_lps
    for name, path in (("lesion_mask", row.lesion_mask), ("gland_mask", row.gland_mask)):
        if path is not None and not row.is_crop:
            return mask_centre(f"{manifest.where(row)} ({name})", path, row.spacing_mm_zyx)
    x, y, z = (float(v) for v in volume.centre_mm_lps)
    return x, y, z


def mask_centre(where: str, path: Path, spacing_mm_zyx: Point | None = None) -> Point:
    """Centroid (x, y, z) in mm, LPS, of a mask's non-zero voxels.

    Raises:
        ManifestError: the mask is empty.
    """
    mask, indices = _filled_mask(where, path, spacing_mm_zyx)
    x, y, z = (float(v) for v in mask.geometry.index_to_position(indices.mean(0)))
    return x, y, z


def _filled_mask(where: str, path: Path, spacing_mm_zyx: Point | None) -> tuple[Volume, npt.NDArray[np.intp]]:
    """A mask, and the (n, 3) indices z, y, x of its non-zero voxels, of which there is at least one."""
    with _speak_of(where, path):
        mask = read_mask(path, spacing_mm_zyx=spacing_mm_zyx)
    indices = np.argwhere(mask.voxels > 0)
    if len(indices) == 0:
        raise ManifestError(f"{where}: the mask is empty; remove it or give a position")
    return mask, indices


@contextmanager
def _speak_of(where: str, path: Path) -> Iterator[None]:
    """Replace the path in a reader's message by the row: paths of patients stay in the manifest."""
    try:
        yield
    except NotFoundError:  # its hint would name a neighbouring file
        raise NotFoundError(f"{where}: the file is no longer there; check the path in the manifest") from None
    except ProstateMimError as error:
        raise type(error)(f"{where}: {_without(path, str(error))}") from None


def _without(path: Path, message: str) -> str:
    """A reader's message without the name of its file, of the slices in it, or of a data file named alike."""
    # Readers show a path on one line of at most 500 printable letters.
    shown = "".join(c if c.isprintable() else "?" for c in " ".join(str(path).split())[:500])
    inner = sorted((f"{shown}/{name}" for name in os.listdir(path)), key=len, reverse=True) if path.is_dir() else []
    stem = path.name.split(".")[0]
    for name in (*inner, shown, str(path), path.name, stem):
        if len(name) >= _SHORTEST_NAME:
            message = message.replace(name, "the file")
    return message.removeprefix("the file:").strip()
