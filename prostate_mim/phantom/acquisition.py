"""The synthetic scanner: where slices lie, and what the coil, the slice profile and the noise do to the signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prostate_mim.phantom.fields import Array, smooth_noise
from prostate_mim.volume.geometry import FloatArray, Geometry


@dataclass(frozen=True)
class Scanner:
    """One synthetic imaging centre.

    Attributes:
        name: value of the manifest's ``centre`` column.
        scale: stored grey value of tissue of relative signal 1 (fat is about 0.8).
        noise: standard deviation of each noise channel, relative to signal 1.
        matrices: in-plane matrix sizes it may reconstruct.
        endorectal: chance of a bright spot by a coil near the rectum.
    """

    name: str
    scale: float
    noise: float
    matrices: tuple[int, ...]
    endorectal: float


SCANNERS = (
    Scanner("alder-3t", 420.0, 0.022, (320, 384), 0.0),
    Scanner("birch-3t", 1700.0, 0.018, (384,), 0.05),
    Scanner("cedar-1t5", 170.0, 0.042, (256, 288), 0.35),
    Scanner("elm-3t", 800.0, 0.030, (288, 320), 0.10),
    Scanner("fir-1t5", 290.0, 0.036, (256, 320), 0.20),
)


@dataclass(frozen=True)
class Frame:
    """The grid of one study, seen from the anatomy (origin at the gland's centre, mm, axes LPS).

    Attributes:
        scanner: the synthetic centre.
        shape_zyx: voxel counts.
        spacing_mm_zyx: voxel spacing, mm.
        tilt: rotation of the stack about x, radians.
        offset_mm: (x, y, z) of the middle of the grid, relative to the gland's centre.
        gland_mm_lps: (x, y, z) of the gland's centre in the patient.
    """

    scanner: Scanner
    shape_zyx: tuple[int, int, int]
    spacing_mm_zyx: tuple[float, float, float]
    tilt: float
    offset_mm: tuple[float, float, float]
    gland_mm_lps: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Frame:
        """A random plausible prescription: FOV 140-200 mm, slices 3.0-4.5 mm apart, tilted by 0-15 degrees."""
        scanner = SCANNERS[int(rng.integers(len(SCANNERS)))]
        matrix = int(rng.choice(scanner.matrices))
        in_plane = round(float(rng.uniform(140, 200)) / matrix, 4)
        between = round(float(rng.choice((3.0, 3.0, 3.3, 3.6, 4.0, 4.5))), 2)
        slices = int(np.clip(round(float(rng.uniform(76, 96)) / between), 19, 28))
        tilt = float(np.radians(rng.uniform(0, 15))) if rng.random() < 0.7 else 0.0
        x, y, z = rng.normal(0, 1, 3) * (2.5, 4.0, 1.5)
        offset = (float(x), float(np.clip(y, -9, 9)), float(np.clip(z + 2, -2, 5)))
        px, py, pz = (float(v) for v in rng.uniform(-60, 60, 3).round(2))
        return cls(scanner, (slices, matrix, matrix), (between, in_plane, in_plane), tilt, offset, (px, py, pz))

    @property
    def direction(self) -> FloatArray:
        """(3, 3) direction cosines, ITK's convention."""
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        return np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])

    @property
    def geometry(self) -> Geometry:
        """Geometry of the written grid."""
        corner = -(np.asarray(self.shape_zyx[::-1]) - 1) / 2 * np.asarray(self.spacing_mm_zyx[::-1])
        origin = np.asarray(self.gland_mm_lps) + np.asarray(self.offset_mm) + self.direction @ corner
        x, y, z = (float(v) for v in origin)
        return Geometry(self.spacing_mm_zyx, (x, y, z), self.direction)

    def anatomical(self, rows_mm: Array, columns_mm: Array, slices_mm: Array) -> tuple[Array, Array, Array]:
        """Anatomical coordinates of grid points, given along the grid's own axes from its middle, in mm.

        Args:
            rows_mm: (h,) along array axis y.
            columns_mm: (w,) along array axis x.
            slices_mm: (d,) along array axis z.

        Returns:
            x (1, 1, w), y (d, h, 1), z (d, h, 1), mm, float32.
        """
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        row, depth = rows_mm[None, :, None], slices_mm[:, None, None]
        ox, oy, oz = (np.float32(v) for v in self.offset_mm)
        return columns_mm[None, None, :] + ox, cos * row - sin * depth + oy, sin * row + cos * depth + oz

    def axis_mm(self, axis: int, substeps: int = 1) -> Array:
        """Coordinates (mm, from the middle of the grid) along array axis 0-2, each voxel cut into ``substeps``."""
        count, spacing = self.shape_zyx[axis], self.spacing_mm_zyx[axis]
        fine = (np.arange(count * substeps) + 0.5) / substeps - count / 2
        return (fine * spacing).astype(np.float32)


def average_slices(fine: Array, substeps: int, overlap: float) -> Array:
    """Slice profile: mean of the ``substeps`` sub-slices of a slice, with a share of its two neighbours.

    Args:
        fine: (z * substeps, y, x).
        substeps: sub-slices a slice.
        overlap: weight of the nearest sub-slice on either side, against 1 for the slice's own.

    Returns:
        (z, y, x) float32.
    """
    count = fine.shape[0] // substeps
    weights = np.zeros((count, fine.shape[0]), np.float32)
    for k in range(count):
        weights[k, k * substeps : (k + 1) * substeps] = 1.0
        weights[k, max(k * substeps - 1, 0)] += overlap
        weights[k, min((k + 1) * substeps, fine.shape[0] - 1)] += overlap
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights @ fine.reshape(fine.shape[0], -1)).reshape(count, *fine.shape[1:])


def coil_gain(rng: np.random.Generator, frame: Frame) -> Array:
    """Smooth multiplicative sensitivity of the coil, (z, y, x) float32, about 1 in the middle."""
    axes = (frame.axis_mm(0), frame.axis_mm(1), frame.axis_mm(2))
    gain = smooth_noise(rng, axes, (120.0, 90.0, 90.0))
    gain *= np.float32(rng.uniform(0.05, 0.16))
    slope, bow = rng.normal(0, 0.0012), rng.uniform(-2e-5, 4e-5)
    rows, columns = axes[1][:, None], axes[2][None, :]
    gain += (np.float32(slope) * rows + np.float32(bow) * (rows**2 + columns**2))[None]
    np.clip(gain, -0.7, 0.9, out=gain)
    np.exp(gain, out=gain)
    if rng.random() < frame.scanner.endorectal:
        near, height = rng.uniform(22, 34), rng.uniform(0.8, 1.8)
        spot = np.exp(-(columns**2 + (rows - 32) ** 2) / np.float32(2 * near**2)).astype(np.float32)
        depth = np.exp(-(axes[0] ** 2) / np.float32(2 * 38.0**2)).astype(np.float32)
        gain *= 1 + np.float32(height) * depth[:, None, None] * spot[None]
    return gain


def record(rng: np.random.Generator, frame: Frame, signal: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """Coil, Rician noise and the scanner's grey scale.

    Args:
        rng: owner of the randomness.
        frame: the grid, with its scanner.
        signal: (z, y, x) noise-free relative signal; overwritten.

    Returns:
        (z, y, x) int16 grey values, >= 0.
    """
    signal *= coil_gain(rng, frame)
    sigma = np.float32(frame.scanner.noise * rng.uniform(0.75, 1.3))
    channel = rng.standard_normal(signal.shape, dtype=np.float32)
    channel *= sigma
    signal += channel
    signal *= signal
    rng.standard_normal(signal.shape, dtype=np.float32, out=channel)
    channel *= sigma
    channel *= channel
    signal += channel
    np.sqrt(signal, out=signal)
    signal *= np.float32(frame.scanner.scale * rng.uniform(0.85, 1.18))
    np.clip(signal, 0, 32000, out=signal)
    return np.rint(signal, out=signal).astype(np.int16)
