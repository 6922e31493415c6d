"""Closed surfaces of triangles (STL) in patient millimetres: centroid, volume, and which points lie inside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import NotFoundError, VolumeError
from prostate_mim.volume import Volume

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_MAX_BYTES = 1 << 26
_HEADER, _RECORD = 84, 50
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_NUMBER = rb"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?"
_VERTEX = re.compile(rb"vertex\s+(%b)\s+(%b)\s+(%b)" % (_NUMBER, _NUMBER, _NUMBER), re.IGNORECASE)
_FARTHEST_MM = 1e5
# A ray through an edge would be counted for both its triangles: no corner of a drawing lies at such a fraction.
_ASIDE = (1.618034e-5, 2.718282e-5)


@dataclass(frozen=True, eq=False)
class Surface:
    """A surface of triangles.

    Attributes:
        triangles: (n, 3, 3) corners of each triangle as (x, y, z) in mm, in the frame of the file.
    """

    triangles: FloatArray

    @cached_property
    def closed(self) -> bool:
        """Whether every edge belongs to two triangles (or another even number): it has an inside."""
        _, names = np.unique(self.triangles.reshape(-1, 3), axis=0, return_inverse=True)
        a, b, c = names.reshape(-1, 3).T
        edges = np.sort(np.concatenate([np.stack(pair, 1) for pair in ((a, b), (b, c), (c, a))]), axis=1)
        edges = edges[edges[:, 0] != edges[:, 1]]  # of triangles that are a line or a point
        _, counts = np.unique(edges, axis=0, return_counts=True)
        return bool(len(counts)) and not bool(np.any(counts % 2))

    @property
    def volume_mm3(self) -> float:
        """What it encloses; meaningless where it is not closed."""
        return float(abs(self._tetrahedra()[0].sum()))

    @property
    def centroid_mm(self) -> FloatArray:
        """(3,) of the enclosed volume; of the area where the surface is not closed, or encloses nothing."""
        volumes, start = self._tetrahedra()
        middles = self.triangles.mean(1)
        if self.closed and abs(volumes.sum()) > 1e-6:
            return np.asarray(start + 0.75 * ((middles - start) * volumes[:, None]).sum(0) / volumes.sum())
        a, b, c = self.triangles.transpose(1, 0, 2)
        areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        return np.asarray((middles * areas[:, None]).sum(0) / areas.sum())

    def _tetrahedra(self) -> tuple[FloatArray, FloatArray]:
        """Signed volumes of the tetrahedra that the triangles form with one point, and that point."""
        start = np.asarray(self.triangles.mean((0, 1)))
        a, b, c = (self.triangles - start).transpose(1, 0, 2)
        return np.asarray(np.einsum("ij,ij->i", a, np.cross(b, c)) / 6), start

    def contains(self, points_mm: npt.ArrayLike) -> BoolArray:
        """(n, 3) points -> (n,) whether each lies inside: a ray along z crosses the surface an odd number of times."""
        points = np.asarray(points_mm, float)
        low, high = self.triangles.min((0, 1)), self.triangles.max((0, 1))
        inside = np.asarray(((points >= low) & (points <= high)).all(1))
        for index in np.flatnonzero(inside):
            heights = _heights(self.triangles, points[index, 0] + _ASIDE[0], points[index, 1] + _ASIDE[1])
            inside[index] = np.count_nonzero(heights > points[index, 2]) % 2 == 1
        return inside

    def voxels(self, image: Volume) -> BoolArray:
        """(z, y, x) which voxel centres of an image lie inside; the surface must be in the image's frame, LPS."""
        depth, height, width = image.shape_zyx
        corners = image.geometry.position_to_index(self.triangles)[..., ::-1]  # (n, 3, 3) index x, y, z
        crossed = np.zeros((depth + 1, height, width), bool)
        sizes = np.array([width, height])
        first = np.clip(np.floor(corners[..., :2].min(1)), 0, sizes).astype(int)
        last = np.clip(np.ceil(corners[..., :2].max(1)) + 1, 0, sizes).astype(int)
        for triangle, (x0, y0), (x1, y1) in zip(corners, first, last, strict=True):
            y, x = (grid.ravel() for grid in np.mgrid[y0:y1, x0:x1])
            z = _heights(triangle[None], x + _ASIDE[0], y + _ASIDE[1]).reshape(-1)
            hit = np.isfinite(z)
            slot = np.clip(np.ceil(z[hit]), 0, depth).astype(int)
            crossed[slot, y[hit], x[hit]] ^= True
        return np.asarray(np.logical_xor.accumulate(crossed, axis=0)[:depth])


def _heights(triangles: FloatArray, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
    """Heights at which the vertical line through (x, y) meets each triangle; NaN where it passes beside it.

    Many lines and one triangle, or one line and many triangles.
    """
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = triangles.transpose(1, 2, 0)
    x, y = np.asarray(x, float), np.asarray(y, float)
    with np.errstate(divide="ignore", invalid="ignore"):  # an upright triangle is met by no vertical line
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        second = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) / area
        third = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) / area
        met = (second >= 0) & (third >= 0) & (second + third <= 1) & (area != 0)
        return np.where(met, az + second * (bz - az) + third * (cz - az), np.nan)


def read_stl(path: Path) -> Surface:
    """Read an STL file, binary or text.

    Raises:
        NotFoundError: no such file.
        VolumeError: it is no STL file, holds no triangle, or numbers that are no millimetres of a body.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such surface; check the path")
    if path.stat().st_size > _MAX_BYTES:
        raise VolumeError(f"{path}: {path.stat().st_size} bytes are too many for a surface, at most {_MAX_BYTES}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    triangles = _binary(data) if _is_binary(data) else _text(data)
    if triangles is None or len(triangles) == 0:
        raise VolumeError(f"{path}: is no STL file, binary or text, or was cut short; copy it again")
    if not (np.abs(triangles) < _FARTHEST_MM).all():  # also refuses NaN
        raise VolumeError(f"{path}: corners are not finite millimetres; copy the surface again")
    return Surface(triangles)


def _is_binary(data: bytes) -> bool:
    """By its length, which a binary file states: its free header may well begin with the text format's ``solid``."""
    return len(data) >= _HEADER and len(data) == _HEADER + _RECORD * int.from_bytes(data[80:84], "little")


def _binary(data: bytes) -> FloatArray:
    return np.frombuffer(data, _FACET, offset=_HEADER)["corners"].astype(np.float64)


def _text(data: bytes) -> FloatArray | None:
    if data.lstrip()[:5].lower() != b"solid" or b"endsolid" not in data[-1024:].lower():
        return None
    numbers = _VERTEX.findall(data)
    if not numbers or len(numbers) % 3:
        return None
    try:
        return np.array(numbers, dtype="S32").astype(np.float64).reshape(-1, 3, 3)
    except ValueError:
        return None
