"""Volumes as text of a page: NIfTI bytes without free text, packed; masks as few labels with colours."""

from __future__ import annotations

import base64
import gzip
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.pictures import MASK_COLOURS
from prostate_mim.preprocess import mask_on_grid
from prostate_mim.volume import Volume, write_volume

# Of the same colours as ``MASK_COLOURS``, for other labels.
_FURTHER_COLOURS = ("#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#0072B2")
MOST_LABELS = 20
LOW, HIGH = 1.0, 98.0  # percentiles of the grey window
_WIDE_MM = 100.0  # an image of at least this field of view shows more than the prostate
_COMPRESSION = 6


@dataclass(frozen=True, eq=False)
class Overlay:
    """A mask on the grid of the image it is drawn over.

    Attributes:
        name: of the mask, as the legend shows it.
        labels: (z, y, x) uint8; the values 1 to n stand for the labels of the file in ascending order.
        legend: (name, colour as ``#rrggbb``, volume in ml) of each label.
    """

    name: str
    labels: Volume
    legend: tuple[tuple[str, str, float], ...]

    @property
    def box(self) -> tuple[list[int], list[int]]:
        """First and last index (x, y, z) of the labelled voxels; last below first where there is none."""
        found = np.argwhere(self.labels.voxels > 0)[:, ::-1]
        if len(found) == 0:
            return [0, 0, 0], [-2, -2, -2]
        return [int(v) for v in found.min(0)], [int(v) for v in found.max(0)]


def grey_window(volume: Volume) -> tuple[float, float]:
    """Darkest and brightest grey of a T2w image: percentiles of the middle half of every slice, or of all of a crop.

    Further out, fat beside a surface coil or the dark outside the body would decide; above the upper percentile lies
    what an endorectal coil brightens.
    """
    voxels = volume.voxels
    _, rows, columns = voxels.shape
    if min(n * mm for n, mm in zip((rows, columns), volume.geometry.spacing_mm_zyx[1:], strict=True)) >= _WIDE_MM:
        voxels = voxels[:, rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
    low, high = (float(v) for v in np.percentile(voxels, (LOW, HIGH)))
    if low == high:
        low, high = float(volume.voxels.min()), float(volume.voxels.max())
    return low, high if high > low else low + 1.0


def overlays(masks: Mapping[str, Volume], volume: Volume) -> tuple[Overlay, ...]:
    """Masks on the grid of a volume, with a colour for each label.

    Args:
        masks: by name; on any grid, brought to the volume's by position (nearest voxel).
        volume: the image below them.

    Raises:
        VolumeError: a mask has more labels than colours can tell apart, or nothing of it lies in the volume.
    """
    free = iter(_FURTHER_COLOURS * (1 + MOST_LABELS * len(masks) // len(_FURTHER_COLOURS)))
    return tuple(_overlay(name, given, volume, free) for name, given in masks.items())


def _overlay(name: str, given: Volume, volume: Volume, free: Any) -> Overlay:
    values = [int(value) for value in np.unique(given.voxels) if value > 0]
    if len(values) > MOST_LABELS:
        raise VolumeError(f"{given.source}: {len(values)} labels, at most {MOST_LABELS} can be told apart; merge some")
    labels = np.zeros(volume.shape_zyx, np.uint8)
    legend = []
    millilitres = float(np.prod(given.geometry.spacing_mm_zyx)) / 1000
    for number, value in enumerate(values, 1):
        one = Volume((given.voxels == value).astype(np.uint8), given.geometry, given.source)
        labels[mask_on_grid(one, volume.geometry, volume.shape_zyx)] = number
        shown = name if len(values) == 1 else f"{name} {value}"
        colour = MASK_COLOURS[name] if len(values) == 1 and name in MASK_COLOURS else next(free)
        legend.append((shown, colour, int(one.voxels.sum()) * millilitres))
    if not values:
        legend.append((f"{name} (empty)", next(free), 0.0))
    elif not labels.any():
        raise VolumeError(f"{given.source}: nothing of the mask lies in the image; is it of this very series?")
    return Overlay(name, Volume(labels, volume.geometry, given.source), tuple(legend))


def packed(volume: Volume) -> str:
    """A volume as gzipped NIfTI in base64: voxels and geometry, no text of the file it came from.

    Whole numbers that fit become int16; others float32, which every browser's graphics can show.
    """
    voxels = volume.voxels
    if voxels.dtype != np.uint8:
        whole = voxels.dtype.kind in "iu" and voxels.min() >= -(2**15) and voxels.max() < 2**15
        voxels = voxels.astype(np.int16 if whole else np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.nii"
        write_volume(Volume(voxels, volume.geometry, volume.source), path)
        written = path.read_bytes()
    return base64.b64encode(gzip.compress(written, compresslevel=_COMPRESSION, mtime=0)).decode()


def affine_ras(volume: Volume) -> list[list[float]]:
    """(3, 4) voxel index (x, y, z) -> position in mm, RAS, the convention of NIfTI and of the viewer."""
    corners = np.vstack([np.zeros(3), np.eye(3)[::-1]])  # index (z, y, x): none, then one step along x, y, z
    start, *steps = volume.geometry.index_to_position(corners) * (-1.0, -1.0, 1.0)
    columns = [step - start for step in steps] + [start]
    return [[float(column[axis]) for column in columns] for axis in range(3)]
