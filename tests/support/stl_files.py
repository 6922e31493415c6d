"""Surfaces for tests: boxes and tetrahedra as triangles, and STL files of them, binary and text."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Triangles = npt.NDArray[np.float64]
_FACES = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))


def box(low: npt.ArrayLike, high: npt.ArrayLike) -> Triangles:
    """(12, 3, 3) outward triangles of the box between two corners (x, y, z)."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    corners = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)]) * (high - low) + low
    return np.array([corners[[a, b, c]] for f in _FACES for a, b, c in ((f[0], f[1], f[2]), (f[0], f[2], f[3]))])


def tetrahedron(*corners: Sequence[float]) -> Triangles:
    """(4, 3, 3) triangles of the tetrahedron of four corners."""
    points = np.asarray(corners, float)
    return points[np.array([(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)])]


def write_stl(path: Path, triangles: Triangles, *, text: bool = False) -> Path:
    """Write an STL file, binary unless ``text``; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if text:
        lines = ["solid made"]
        for triangle in triangles:
            lines += ["facet normal 0 0 0", "outer loop"]
            lines += [f"vertex {x:.6e} {y:.6e} {z:.6e}" for x, y, z in triangle]
            lines += ["endloop", "endfacet"]
        path.write_text("\n".join([*lines, "endsolid made", ""]))
        return path
    records = [struct.pack("<12fH", 0, 0, 0, *triangle.ravel(), 0) for triangle in triangles]
    path.write_bytes(b"made by a test".ljust(80) + struct.pack("<I", len(records)) + b"".join(records))
    return path
