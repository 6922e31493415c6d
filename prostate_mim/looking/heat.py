"""A saliency map over a study: checked, brought to the study's grid, with the colours that the page offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.saliency.placing import on_grid_of
from prostate_mim.volume import Volume, read_volume
from prostate_mim.volume.orient import canonical
from prostate_mim.volume.read import read_stored

COLOURS = ("inferno", "viridis", "hot")
OPACITY, LOW = 0.6, 0.1
_NODES = 17
_OPAQUE_FROM = 0.5  # of the map's maximum; below it the colours fade out


@dataclass(frozen=True, eq=False)
class Heat:
    """A map to be drawn over a study.

    Attributes:
        volume: (z, y, x) of numbers from 0; its grid may be its own.
        words: what the page says of it; never a path or an identifier.
    """

    volume: Volume
    words: str = ""


def read_heat(path: Path, volume: Volume, spacing_mm_zyx: tuple[float, float, float] | None = None) -> Heat:
    """A saliency map from a file.

    Args:
        path: as ``read_volume`` takes it, on any grid.
        volume: the study below it.
        spacing_mm_zyx: of bare arrays.

    Raises:
        VolumeError, NotFoundError: the file cannot be read, or is no map of this study.
    """
    if spacing_mm_zyx is None:  # as a mask is read: an empty map is constant, which read_volume refuses
        found = canonical(read_stored(path), str(path))
    else:
        found = read_volume(path, spacing_mm_zyx=spacing_mm_zyx)
    if spacing_mm_zyx is not None and found.shape_zyx != volume.shape_zyx:
        raise VolumeError(
            f"saliency: the map has {found.shape_zyx} voxels, the study {volume.shape_zyx}; "
            "arrays without geometry need one shape"
        )
    heat = Heat(Volume(found.voxels, found.geometry, "saliency"))
    heat_on(heat, volume)
    return heat


def heat_on(heat: Heat, volume: Volume) -> Volume:
    """The map on the grid of a study, float32, divided by its maximum; an empty one stays 0.

    Raises:
        VolumeError: values below 0 or not finite, or nothing of the map lies within the study.
    """
    voxels = heat.volume.voxels
    low, high = float(voxels.min()), float(voxels.max())
    if not (np.isfinite([low, high]).all() and low >= 0):
        raise VolumeError(
            f"{heat.volume.source}: values from {low:g} to {high:g}; a saliency map has none below 0; is it an image?"
        )
    placed = on_grid_of(heat.volume, volume)
    most = float(placed.voxels.max())
    if high > 0 and most == 0:
        raise VolumeError(f"{heat.volume.source}: nothing of the map lies within the study; is it of this very series?")
    return Volume(placed.voxels / np.float32(most), placed.geometry, placed.source) if most else placed


def heat_values(heat: Heat) -> Mapping[str, Any]:
    """What the page's script reads: words, first settings, and nodes (0 to 255) of each choice of colours."""
    import matplotlib as mpl

    place = np.linspace(0, 1, _NODES)
    alpha = np.minimum(1, place / _OPAQUE_FROM)
    colours = {}
    for name in COLOURS:
        parts = (*mpl.colormaps[name](place)[:, :3].T, alpha, place)
        colours[name] = {
            key: (255 * part).round().astype(int).tolist() for key, part in zip("RGBAI", parts, strict=True)
        }
    return {"words": heat.words, "opacity": OPACITY, "low": LOW, "colours": colours}
