"""Volumes: voxels (z, y, x) with geometry in mm (LPS), read strictly; only here do nibabel and SimpleITK appear."""

from __future__ import annotations

from prostate_mim.volume.checks import MAX_VOXELS
from prostate_mim.volume.geometry import Geometry, Volume
from prostate_mim.volume.mask_writing import write_mask_like
from prostate_mim.volume.read import read_mask, read_volume
from prostate_mim.volume.voxel_hash import voxel_hash
from prostate_mim.volume.write import write_volume

__all__ = [
    "MAX_VOXELS",
    "Geometry",
    "Volume",
    "read_mask",
    "read_volume",
    "voxel_hash",
    "write_mask_like",
    "write_volume",
]
