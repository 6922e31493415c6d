"""Where voxels are: Geometry (index <-> patient mm) and Volume, always in the canonical axial orientation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import VolumeError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """Position of a voxel grid in the patient (LPS, mm).

    Attributes:
        spacing_mm_zyx: distance between voxel centres along array axes z, y, x.
        origin_mm_lps: (x, y, z) of the centre of voxel [0, 0, 0].
        direction: (3, 3) orthonormal; column k is the patient direction of array axis x, y, z for k = 0, 1, 2
            (ITK's convention). Canonical axial volumes have it near the identity; oblique ones stay oblique.
    """

    spacing_mm_zyx: tuple[float, float, float]
    origin_mm_lps: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: FloatArray = field(default_factory=lambda: np.eye(3), compare=False)

    @property
    def _matrix(self) -> FloatArray:
        """(3, 3): index (x, y, z) -> mm offset."""
        spacing = np.asarray(self.spacing_mm_zyx[::-1], float)
        return np.asarray(np.asarray(self.direction, float) * spacing[None, :])

    @property
    def affine(self) -> FloatArray:
        """(4, 4): index (x, y, z, 1) -> position (x, y, z, 1) in mm, LPS."""
        whole = np.eye(4)
        whole[:3, :3], whole[:3, 3] = self._matrix, self.origin_mm_lps
        return whole

    def index_to_position(self, index_zyx: npt.ArrayLike) -> FloatArray:
        """(..., 3) continuous voxel index (z, y, x) -> (..., 3) position (x, y, z) in mm, LPS."""
        index = np.asarray(index_zyx, float)[..., ::-1]
        return np.asarray(index @ self._matrix.T + np.asarray(self.origin_mm_lps))

    def position_to_index(self, position_mm_lps: npt.ArrayLike) -> FloatArray:
        """(..., 3) position (x, y, z) in mm, LPS -> (..., 3) continuous voxel index (z, y, x)."""
        offset = np.asarray(position_mm_lps, float) - np.asarray(self.origin_mm_lps)
        return np.asarray((offset @ np.linalg.inv(self._matrix).T)[..., ::-1])

    def regrid(self, start_index_zyx: npt.ArrayLike, spacing_mm_zyx: tuple[float, float, float]) -> Geometry:
        """Geometry of a grid with the same axes whose voxel [0, 0, 0] is at ``start_index_zyx`` of this one."""
        x, y, z = (float(v) for v in self.index_to_position(start_index_zyx))
        return Geometry(spacing_mm_zyx, (x, y, z), self.direction)


@dataclass(frozen=True)
class Volume:
    """One T2w series: voxels (z, y, x) and where they are.

    Attributes:
        voxels: (z, y, x), C-contiguous, finite; any real dtype.
        geometry: position in the patient.
        source: the path as the user gave it, for error messages only; never published.
    """

    voxels: npt.NDArray[Any]
    geometry: Geometry
    source: str = "array"

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise VolumeError(f"{self.source}: array has {self.voxels.ndim} axes, expected 3 (z, y, x)")

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxel counts along z, y, x."""
        z, y, x = self.voxels.shape
        return z, y, x

    @property
    def centre_mm_lps(self) -> FloatArray:
        """(3,) position of the middle of the grid."""
        return self.geometry.index_to_position((np.asarray(self.voxels.shape) - 1) / 2)

    def contains(self, position_mm_lps: npt.ArrayLike) -> bool:
        """Whether a position lies within the voxels' outer faces."""
        index = self.geometry.position_to_index(position_mm_lps)
        return bool(np.all(index >= -0.5) and np.all(index <= np.asarray(self.voxels.shape) - 0.5))
