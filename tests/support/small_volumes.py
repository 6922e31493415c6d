"""Tiny axial T2w-like volumes and masks, and writers of the formats that data sets come in: tests in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prostate_mim.volume import Geometry, Volume

SHAPE = (6, 32, 32)
SPACING_MM_ZYX = (3.0, 0.5, 0.5)
ORIGIN_MM_LPS = (-8.0, -8.0, -9.0)
SAGITTAL = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
CORONAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def t2w_volume(
    seed: int = 0,
    *,
    shape: tuple[int, int, int] = SHAPE,
    spacing_mm_zyx: tuple[float, float, float] = SPACING_MM_ZYX,
    origin_mm_lps: tuple[float, float, float] = ORIGIN_MM_LPS,
    direction: np.ndarray | None = None,
) -> Volume:
    """A bright gland on a darker ground with noise: (z, y, x) int16, 0 to 1000; another seed, another patient.

    By default voxel (3, 16, 16) is at (0, 0, 0) mm, and the volume ends 8 mm from it in plane.
    """
    noise = np.random.default_rng(seed).normal(0, 30, shape)
    z, y, x = (np.arange(size) - size / 2 for size in shape)
    inside = (z[:, None, None] / 2.5) ** 2 + (y[:, None] / 9) ** 2 + (x / 11) ** 2 < 1
    voxels = np.clip(np.where(inside, 600, 250) + noise, 0, 1000).astype("i2")
    return Volume(voxels, Geometry(spacing_mm_zyx, origin_mm_lps, np.eye(3) if direction is None else direction))


def ball(
    volume: Volume, centre_mm_lps: tuple[float, float, float] = (0.0, 0.0, 0.0), radius_mm: float = 4.0, value: int = 1
) -> Volume:
    """A mask on a volume's grid: int16, ``value`` within the radius of a place (x, y, z) in mm, 0 elsewhere."""
    index = np.stack(np.meshgrid(*(np.arange(size) for size in volume.shape_zyx), indexing="ij"), -1)
    away = np.linalg.norm(volume.geometry.index_to_position(index) - np.asarray(centre_mm_lps), axis=-1)
    return Volume(np.where(away < radius_mm, value, 0).astype("i2"), volume.geometry)


def write_itk(volume: Volume, path: Path) -> Path:
    """Write with SimpleITK, whose writer is not ours: ``.nrrd``, ``.mhd`` (with ``.raw``), ``.mha``, ``.nii.gz``."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(volume.voxels)
    image.SetSpacing([float(v) for v in volume.geometry.spacing_mm_zyx[::-1]])
    image.SetOrigin([float(v) for v in volume.geometry.origin_mm_lps])
    image.SetDirection([float(v) for v in np.asarray(volume.geometry.direction).ravel()])
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), useCompression=path.suffix == ".nrrd")
    return path


def write_csv(path: Path, text: str) -> Path:
    """A table; the margin that the test's own indentation makes is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n", encoding="utf-8")
    return path
