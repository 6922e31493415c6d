"""Random fields and soft edges: the brushes every synthetic tissue is painted with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def soft_step(distance_mm: Array, width_mm: float) -> Array:
    """Membership of a region from its signed distance: 1 inside, 0 outside, linear over ``width_mm``.

    Args:
        distance_mm: any shape, negative inside, mm.
        width_mm: width of the ramp, mm.
    """
    ramp = distance_mm * np.float32(-1.0 / width_mm)
    ramp += np.float32(0.5)
    return np.clip(ramp, 0.0, 1.0, out=ramp)


def soft_line(distance_mm: Array, thickness_mm: float) -> Array:
    """Membership (0..1) of a thin sheet of ``thickness_mm`` around ``distance_mm == 0``, any shape."""
    return np.asarray(np.clip(np.float32(1.5) - np.abs(distance_mm) * np.float32(2.0 / thickness_mm), 0.0, 1.0))


def _kernel(axis_mm: Array, length_mm: float) -> tuple[Array, int]:
    """(n, k) unit-norm Gaussian weights from k knots to the n points of an axis."""
    low, high = float(axis_mm.min()) - 2 * length_mm, float(axis_mm.max()) + 2 * length_mm
    count = int(np.ceil((high - low) / length_mm)) + 1
    knots = low + length_mm * np.arange(count, dtype=np.float32)
    weights = np.exp(-0.5 * ((axis_mm[:, None] - knots[None]) / (0.7 * length_mm)) ** 2)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32), count


def smooth_noise(
    rng: np.random.Generator, axes_mm: tuple[Array, Array, Array], length_mm: tuple[float, float, float]
) -> Array:
    """Zero-mean, unit-variance Gaussian noise, correlated over ``length_mm`` (z, y, x).

    Args:
        rng: owner of the randomness.
        axes_mm: coordinates of the z, y and x axes, each 1D, mm.
        length_mm: correlation length along z, y, x, mm.

    Returns:
        (z, y, x) float32.
    """
    (kz, nz), (ky, ny), (kx, nx) = (_kernel(axis, size) for axis, size in zip(axes_mm, length_mm, strict=True))
    knots = rng.standard_normal((nz, ny, nx), dtype=np.float32)
    planes = np.tensordot(kz, knots, axes=(1, 0))
    return np.asarray(np.matmul(np.matmul(ky, planes), kx.T), dtype=np.float32)


def resample_plane(image: Array, rows: Array, columns: Array) -> Array:
    """Linear in-plane resampling of (z, h, w) at fractional ``rows`` (H,) and ``columns`` (W,) -> (z, H, W)."""
    return np.asarray(np.matmul(np.matmul(_linear(rows, image.shape[1]), image), _linear(columns, image.shape[2]).T))


def _linear(points: Array, count: int) -> Array:
    """(n, count) matrix of linear interpolation at fractional indices, clamped at both ends."""
    place = np.clip(points, 0, count - 1)
    hat = 1 - np.abs(place[:, None] - np.arange(count, dtype=np.float32)[None])
    return np.asarray(np.clip(hat, 0, 1), dtype=np.float32)


@dataclass(frozen=True)
class Waves:
    """A smooth random function of position, independent of any grid: a sum of plane waves.

    Attributes:
        vectors: (k, 3) wave vectors along x, y, z, radians per mm.
        phases: (k,) radians.
    """

    vectors: npt.NDArray[np.float32]
    phases: npt.NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength_mm: tuple[float, float], count: int = 6) -> Waves:
        """Waves of random directions and of wavelengths within the given range, mm."""
        direction = rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = rng.uniform(*wavelength_mm, (count, 1))
        vectors = (2 * np.pi * direction / length).astype(np.float32)
        return cls(vectors, rng.uniform(0, 2 * np.pi, count).astype(np.float32))

    def at(self, x: Array, y: Array, z: Array) -> Array:
        """Value (about unit variance) at positions in mm; the three arrays broadcast together."""
        total: Array = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32)
        for (kx, ky, kz), phase in zip(self.vectors, self.phases, strict=True):
            plane = ky * y + kz * z + phase
            total += np.cos(kx * x) * np.cos(plane) - np.sin(kx * x) * np.sin(plane)
        total *= np.float32(np.sqrt(2.0 / len(self.phases)))
        return total
