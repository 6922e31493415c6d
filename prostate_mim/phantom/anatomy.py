"""The gland: shape, zones and benign tissue, in anatomical mm from its centre (x left, y back, z up)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prostate_mim.phantom.fields import Array, Waves, smooth_noise, soft_line, soft_step


@dataclass(frozen=True)
class GlandPlan:
    """Everything that is fixed about one patient's gland, independent of any grid.

    Attributes:
        semi_mm: half width, half antero-posterior and half supero-inferior extent.
        lobe: size of the transition-zone lobes relative to the gland (about 1).
        signal_pz: relative signal of healthy peripheral zone.
        signal_tz: relative signal of transition-zone stroma.
        outline: deformation of the outer surface.
        inner: deformation of the zone boundary.
        nodules: (k, 8) centre x, y, z, radius (mm), signal, rim signal, texture, elongation.
        texture_seed: seed of the fine texture.
    """

    semi_mm: tuple[float, float, float]
    lobe: float
    signal_pz: float
    signal_tz: float
    outline: Waves
    inner: Waves
    nodules: npt.NDArray[np.float32]
    texture_seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> GlandPlan:
        """A random gland, 32-58 mm wide; larger ones have larger transition zones with more nodules."""
        grown = float(rng.beta(1.4, 1.8))
        jitter = rng.normal(0, 1, 3)
        semi = (
            float(np.clip(19.0 + 8.0 * grown + 1.0 * jitter[0], 16.5, 28.5)),
            float(np.clip(14.0 + 7.0 * grown + 0.8 * jitter[1], 13.0, 21.5)),
            float(np.clip(17.0 + 8.0 * grown + 1.0 * jitter[2], 15.5, 26.0)),
        )
        lobe = float(0.88 + 0.2 * grown + rng.normal(0, 0.03))
        return cls(
            semi_mm=semi,
            lobe=lobe,
            signal_pz=float(rng.uniform(0.72, 0.98)),
            signal_tz=float(rng.uniform(0.36, 0.48)),
            outline=Waves.draw(rng, (28, 60)),
            inner=Waves.draw(rng, (22, 45)),
            nodules=_draw_nodules(rng, semi, lobe, int(6 + 16 * grown)),
            texture_seed=int(rng.integers(2**31)),
        )

    def outside(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance (mm, approximate, negative inside) to the gland's surface; inputs broadcast."""
        a, b, c = (np.float32(v) for v in self.semi_mm)
        upper = 1 + np.float32(0.10) * np.clip(z / c, -1, 1)
        flat = np.where(y > 0, np.float32(1.08), np.float32(0.97)) * y / b
        radius = np.sqrt((x / (a * upper)) ** 2 + flat**2 + (z / c) ** 2)
        notch = np.float32(0.11) * np.exp(-((x / (np.float32(0.3) * a)) ** 2)) * np.clip(y / b, 0, 1)
        radius += notch + np.float32(0.035) * self.outline.at(x, y, z)
        length = np.sqrt(x**2 + y**2 + z**2)
        return np.asarray(length * (1 - 1 / np.maximum(radius, np.float32(0.05))), dtype=np.float32)

    def beyond_tz(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance (mm, approximate) to the transition zone (with the anterior stroma), negative inside it."""
        a, b, c = (np.float32(v) for v in self.semi_mm)
        g = np.float32(self.lobe)
        side = np.abs(x)
        lobes = np.sqrt(
            ((side - 0.27 * a) / (0.40 * a * g)) ** 2
            + ((y + 0.24 * b) / (0.60 * b * g)) ** 2
            + ((z - 0.14 * c) / (0.76 * c * g)) ** 2
        )
        lobes += np.float32(0.07) * self.inner.at(x, y, z)
        bend = np.float32(0.25) * a
        front = y + np.float32(0.22) * b + np.float32(1.25) * b * (np.sqrt(x**2 + bend**2) - bend) / a
        return np.asarray(np.minimum((lobes - 1) * (0.45 * b), front), dtype=np.float32)


def _draw_nodules(
    rng: np.random.Generator, semi_mm: tuple[float, float, float], lobe: float, count: int
) -> npt.NDArray[np.float32]:
    """(count, 8) benign nodules, large ones first so that small ones stay visible."""
    a, b, c = semi_mm
    radius = np.sort(np.clip(rng.lognormal(np.log(3.6), 0.42, count), 2.0, 0.40 * a))[::-1]
    ball = rng.standard_normal((count, 3))
    ball *= (rng.random((count, 1)) ** (1 / 3)) / np.linalg.norm(ball, axis=1, keepdims=True)
    room = np.clip(1 - radius / (0.55 * b), 0.25, 1)[:, None]
    place = ball * room * (0.40 * a * lobe, 0.58 * b * lobe, 0.74 * c * lobe)
    place += np.stack([rng.choice((-0.29, 0.29), count) * a, np.full(count, -0.24 * b), np.full(count, 0.14 * c)], 1)
    stromal = rng.random(count) < 0.42
    signal = np.where(stromal, rng.uniform(0.24, 0.36, count), rng.uniform(0.42, 0.78, count))
    rim = rng.uniform(0.14, 0.24, count)
    texture = np.where(stromal, rng.uniform(0.03, 0.07, count), rng.uniform(0.08, 0.22, count))
    stretch = rng.uniform(0.8, 1.25, count)
    return np.column_stack([place, radius, signal, rim, texture, stretch]).astype(np.float32)


@dataclass
class GlandTissue:
    """A gland painted on a grid, every array (z, y, x) float32.

    Attributes:
        x: (1, 1, w) anatomical coordinate, mm.
        y: (d, h, 1) anatomical coordinate, mm.
        z: (d, h, 1) anatomical coordinate, mm.
        surface: signed distance to the gland's surface, mm.
        zone: signed distance to the transition zone, mm.
        signal: relative signal.
        axes_mm: the grid's own coordinates along z, y, x, mm.
    """

    x: Array
    y: Array
    z: Array
    surface: Array
    zone: Array
    signal: Array
    axes_mm: tuple[Array, Array, Array]


def paint_gland(
    plan: GlandPlan, coordinates: tuple[Array, Array, Array], axes_mm: tuple[Array, Array, Array]
) -> GlandTissue:
    """Healthy and benign tissue of the gland, without lesions."""
    x, y, z = coordinates
    rng = np.random.default_rng(plan.texture_seed)
    surface, zone = plan.outside(x, y, z), plan.beyond_tz(x, y, z)
    fine, coarse = smooth_noise(rng, axes_mm, (3.0, 1.1, 1.1)), smooth_noise(rng, axes_mm, (6.0, 4.0, 4.0))
    inner = _paint_tz(plan, (x, y, z), fine, coarse)
    outer = plan.signal_pz * (1 + 0.055 * fine + 0.075 * coarse + 0.09 * _septa(plan, x, y))
    inside_tz = soft_step(zone, 0.9)
    signal = outer + inside_tz * (inner - outer)
    for distance, thickness, level, strength in ((zone, 1.3, 0.17, 0.75), (surface + 0.1, 1.1, 0.16, 0.85)):
        line = soft_line(distance, thickness)
        line *= np.float32(strength)
        signal += line * (np.float32(level) - signal)
    _paint_urethra(plan, signal, (x, y, z))
    np.maximum(signal, np.float32(0.06), out=signal)
    return GlandTissue(x, y, z, surface, zone, signal.astype(np.float32), axes_mm)


def _septa(plan: GlandPlan, x: Array, y: Array) -> Array:
    """Radial streaks of the peripheral zone, zero mean, (d, h, w)."""
    a, b, _ = plan.semi_mm
    angle = np.arctan2(y / b + np.float32(0.4), x / a)
    phase = np.float32(plan.texture_seed % 628) / 100
    return np.asarray(np.sin(23 * angle + phase) * np.sin(9 * angle + 2 * phase), dtype=np.float32)


def _paint_tz(plan: GlandPlan, position: tuple[Array, Array, Array], fine: Array, coarse: Array) -> Array:
    """Signal of the transition zone: stroma, anterior fibromuscular stroma, nodules; (d, h, w)."""
    x, y, z = position
    a, b, c = plan.semi_mm
    signal: Array = np.asarray(plan.signal_tz * (1 + 0.09 * fine + 0.13 * coarse), dtype=np.float32)
    for row in plan.nodules:
        _paint_nodule(signal, position, fine, row)
    front = np.sqrt((x / (0.5 * a)) ** 2 + ((y + 0.92 * b) / (0.38 * b)) ** 2 + ((z - 0.1 * c) / (0.9 * c)) ** 2)
    weight = soft_step((front - 1) * np.float32(0.4 * b), 3.0)
    signal += weight * (0.19 + 0.012 * fine - signal)
    return np.asarray(signal, dtype=np.float32)


def _paint_nodule(
    signal: Array, position: tuple[Array, Array, Array], fine: Array, row: npt.NDArray[np.float32]
) -> None:
    """Paint one encapsulated nodule in place, touching only the voxels around it."""
    cx, cy, cz, radius, level, rim, texture, stretch = (float(v) for v in row)
    box = box_around(position, (cx, cy, cz), 1.3 * radius + 2)
    if box is None:
        return
    x, y, z = crop(position, box)
    distance = np.sqrt(((x - cx) * stretch) ** 2 + ((y - cy) / stretch) ** 2 + (z - cz) ** 2) - np.float32(radius)
    patch = signal[box]
    patch += soft_step(distance, 0.8) * (level + texture * fine[box] - patch)
    patch += np.float32(0.8) * soft_line(distance, 1.2) * (rim - patch)


def _paint_urethra(plan: GlandPlan, signal: Array, position: tuple[Array, Array, Array]) -> None:
    """A bright lumen with a dark muscular ring along the gland's axis, in place."""
    _, b, c = plan.semi_mm
    box = box_around(position, (0.0, -0.05 * b, 0.0), 12.0, tall=True)
    if box is None:
        return
    x, y, z = crop(position, box)
    centre = np.float32(-0.12 * b) - np.float32(0.25 * b) * z / np.float32(c)
    distance = np.sqrt(x**2 + ((y - centre) * np.float32(1.3)) ** 2)
    patch = signal[box]
    patch += np.float32(0.7) * soft_step(distance - np.float32(3.6), 1.2) * (np.float32(0.24) - patch)
    patch += np.float32(0.8) * soft_step(distance - np.float32(1.5), 1.0) * (np.float32(0.72) - patch)


Box = tuple[slice, slice, slice]


def box_around(
    position: tuple[Array, Array, Array], centre: tuple[float, float, float], reach_mm: float, tall: bool = False
) -> Box | None:
    """Index box of the grid within ``reach_mm`` of a point (any height if ``tall``); None when it is empty."""
    x, y, z = position
    near = np.abs(y - np.float32(centre[1])) <= reach_mm
    if not tall:
        near &= np.abs(z - np.float32(centre[2])) <= reach_mm
    picks = (near.any(axis=(1, 2)), near.any(axis=(0, 2)), np.abs(x[0, 0] - np.float32(centre[0])) <= reach_mm)
    found = [np.flatnonzero(pick) for pick in picks]
    if any(len(index) == 0 for index in found):
        return None
    first, second, third = (slice(int(index[0]), int(index[-1]) + 1) for index in found)
    return first, second, third


def crop(position: tuple[Array, Array, Array], box: Box) -> tuple[Array, Array, Array]:
    """The three coordinate arrays within an index box."""
    x, y, z = position
    return x[:, :, box[2]], y[box[0], box[1]], z[box[0], box[1]]
