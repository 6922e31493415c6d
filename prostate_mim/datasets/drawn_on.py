"""Which of a patient's series a segmentation was drawn on: the one with its grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prostate_mim.datasets.mask_files import look_at_image
from prostate_mim.errors import NotFoundError, VolumeError
from prostate_mim.volume import Volume, read_mask

_TOLERANCE_MM = 0.1


def readable(images: Sequence[Path]) -> list[tuple[Path, Volume]]:
    """Those of several images that can be read, in order."""
    return [(path, volume) for path in images if (volume := look_at_image(path)) is not None]


def drawn_on(labels: Path | None, images: Sequence[tuple[Path, Volume]]) -> tuple[Path, Volume] | None:
    """The one image that a segmentation shares its grid with, or the only image there is; None where neither is so."""
    fitting = [item for item in images if labels is not None and _same_grid(labels, item[1])]
    clear = fitting if len(fitting) == 1 else images
    return clear[0] if len(clear) == 1 else None


def _same_grid(labels: Path, volume: Volume) -> bool:
    """Equal sizes, and the voxels of two opposite corners at equal places."""
    try:
        mask = read_mask(labels)
    except (VolumeError, NotFoundError):
        return False
    if mask.shape_zyx != volume.shape_zyx:
        return False
    corners = [(0, 0, 0), tuple(size - 1 for size in volume.shape_zyx)]
    places = (mask.geometry.index_to_position(corners), volume.geometry.index_to_position(corners))
    return bool(np.allclose(*places, atol=_TOLERANCE_MM))
