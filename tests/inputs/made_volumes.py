"""Small studies with masks, written as files: what the tests of a network's input read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume, write_volume

SPEC = InputSpec(size_zyx=(4, 16, 16))
WIDE = SPEC.with_channels("t2w", "gland", "lesion", "pz", "tz")
SHAPE = (6, 24, 24)
GEOMETRY = Geometry(SPEC.spacing_mm_zyx, (-3.0, 5.0, 20.0))
COLUMNS = (
    "study_id", "patient_id", "t2w", "gland_mask", "lesion_mask", "zone_mask", "position_mm_lps", "is_crop", "label",
    "isup",
)  # fmt: skip


def image(shape: tuple[int, int, int] = SHAPE, seed: int = 0, geometry: Geometry = GEOMETRY) -> Volume:
    """Noise of whole numbers."""
    return Volume(np.random.default_rng(seed).integers(50, 900, shape).astype(np.int16), geometry)


def block(*ranges: tuple[int, int], value: int = 1, shape: tuple[int, int, int] = SHAPE) -> Volume:
    """A mask: a box of half-open ranges along z, y, x."""
    voxels = np.zeros(shape, np.int16)
    voxels[tuple(slice(low, high) for low, high in ranges)] = value
    return Volume(voxels, GEOMETRY)


def all_masks() -> dict[str, Volume]:
    """A gland, a lesion off its middle, and the two halves of the gland as zones; all different."""
    zones = zone_labels().voxels
    return {
        "gland": block((1, 5), (4, 20), (6, 18)),
        "lesion": block((2, 4), (6, 9), (7, 11)),
        "pz": Volume((zones == 1).astype(np.int16), GEOMETRY),
        "tz": Volume((zones == 2).astype(np.int16), GEOMETRY),
    }


def zone_labels() -> Volume:
    """1 behind, 2 in front."""
    voxels = block((1, 5), (4, 20), (6, 18), value=2).voxels
    voxels[1:5, 12:20, 6:18] = 1
    return Volume(voxels, GEOMETRY)


def write_study(folder: Path, name: str = "a", seed: int = 0, **cells: str) -> dict[str, str]:
    """The files of one study with every mask, and its manifest row; cells replace the row's own."""
    write_volume(image(seed=seed), folder / f"{name}.nii.gz")
    for mask in ("gland", "lesion"):
        write_volume(all_masks()[mask], folder / f"{name}_{mask}.nii.gz")
    write_volume(zone_labels(), folder / f"{name}_zones.nii.gz")
    row = {
        "study_id": name, "patient_id": name, "t2w": f"{name}.nii.gz", "gland_mask": f"{name}_gland.nii.gz",
        "lesion_mask": f"{name}_lesion.nii.gz", "zone_mask": f"{name}_zones.nii.gz", "label": "1",
    }  # fmt: skip
    return {**row, **cells}


def write_rows(path: Path, *rows: dict[str, str]) -> Path:
    """A manifest of such rows."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows({name: row.get(name, "") for name in COLUMNS} for row in rows)
    return path
