"""Small made-up regions: what the tests of data, batches and loaders draw crops from."""

from __future__ import annotations

import numpy as np

from prostate_mim.engine.data import DrawDataset, Region
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedStudy
from prostate_mim.volume import Geometry

SPEC = InputSpec(size_zyx=(4, 16, 16))
JITTER = (4, 16, 16)
SIZE = (8, 32, 32)


def region(
    voxels: np.ndarray, row: int = 1, *, box=None, gland=None, lesion=None, label: int = -1, scale=1.0, offset=0.0
) -> Region:
    """A region of int16 voxels (z, y, x); measured within ``box``, everywhere if None."""
    labels = np.zeros(voxels.shape, np.uint8)
    masks = {name: found for name, found in (("gland", gland), ("lesion", lesion)) if found is not None}
    for name, found in masks.items():
        labels |= np.where(found, {"gland": 1, "lesion": 2}[name], 0).astype(np.uint8)
    box = tuple((0, n) for n in voxels.shape) if box is None else box
    study = PreparedStudy(
        voxels.astype(np.int16),
        scale,
        offset,
        box,
        labels if masks else None,
        frozenset(masks),
        Geometry(SPEC.spacing_mm_zyx),
    )
    return Region(study, label, row)


def noise_regions(count: int = 5, masks: bool = False) -> list[Region]:
    """Regions of noise, with or without masks; the third has no lesion mask."""
    rng = np.random.default_rng(0)
    made = []
    for row in range(1, count + 1):
        voxels = rng.normal(300, 100, SIZE)
        gland, lesion = (voxels > 300, voxels > 400) if masks else (None, None)
        made.append(region(voxels, row, label=row % 2, gland=gland, lesion=None if row == 3 else lesion))
    return made


def noise_dataset(count: int = 5, seed: int = 0, masks: bool = False) -> DrawDataset:
    """Draws of ``noise_regions``."""
    return DrawDataset(noise_regions(count, masks), SPEC, JITTER, seed)
