"""Lesions of two classes that differ in shape, margin and texture, not in size or mean signal.

Label 1 imitates clinically significant cancer: ill-defined and homogeneous; rounded in the peripheral zone,
lenticular in the transition zone. Label 0 are benign mimics: sharp wedges and patchy haemorrhage in the peripheral
zone, encapsulated heterogeneous nodules in the transition zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from prostate_mim.phantom.anatomy import Box, GlandPlan, GlandTissue, box_around, crop
from prostate_mim.phantom.fields import Array, Waves, smooth_noise, soft_line, soft_step

Zone = Literal["PZ", "TZ"]
Kind = Literal["cancer", "wedge", "haemorrhage", "nodule"]
FLOOR = 0.05


@dataclass(frozen=True)
class LesionPlan:
    """One lesion, independent of any grid.

    Attributes:
        label: 1 significant cancer, 0 benign mimic.
        zone: zone it lies in.
        kind: how it is drawn.
        centre_mm: (x, y, z) anatomical seed point, mm.
        radius_mm: radius of the ball of equal volume, mm.
        contrast: share of the zone's mean signal that is lost, 0..1.
        margin_mm: width of the edge.
        texture: internal standard deviation, relative to the zone's mean.
        axes: (3, 3) rows are the lesion's own unit axes (x, y, z).
        stretch: relative extents along these axes.
        outline: deformation of the edge.
        texture_seed: seed of the internal texture.
    """

    label: int
    zone: Zone
    kind: Kind
    centre_mm: tuple[float, float, float]
    radius_mm: float
    contrast: float
    margin_mm: float
    texture: float
    axes: npt.NDArray[np.float32]
    stretch: tuple[float, float, float]
    outline: Waves
    texture_seed: int


def draw_lesions(rng: np.random.Generator, gland: GlandPlan) -> tuple[LesionPlan, ...]:
    """One to three lesions of random class that keep clear of each other."""
    wanted = int(rng.choice((1, 2, 3), p=(0.45, 0.37, 0.18)))
    found: list[LesionPlan] = []
    for _ in range(wanted):
        zone: Zone = "PZ" if rng.random() < 0.62 else "TZ"
        radius = float(np.clip(rng.lognormal(np.log(5.6), 0.24), 3.8, 9.0))
        centre = _place(rng, gland, zone, radius, found)
        label = int(rng.random() < 0.45)
        plan_rng = np.random.default_rng(rng.integers(2**63))
        if centre is not None:
            found.append(_describe(plan_rng, zone, radius, centre, label))
    return tuple(found)


def _place(
    rng: np.random.Generator, gland: GlandPlan, zone: Zone, radius: float, others: list[LesionPlan]
) -> tuple[float, float, float] | None:
    """A random point of the zone away from the other lesions; None when there is no room."""
    x, y, z = (rng.uniform(-1, 1, (3, 800)) * np.asarray(gland.semi_mm)[:, None]).astype(np.float32)
    depth, zone_mm = gland.outside(x, y, z), gland.beyond_tz(x, y, z)
    good = np.abs(z) < 0.72 * gland.semi_mm[2]
    if zone == "PZ":
        good &= (depth < -2.5) & (zone_mm > 2.0) & (y > -0.25 * gland.semi_mm[1])
    else:
        good &= (depth < -4.0) & (zone_mm < -3.0)
    points = np.stack([x, y, z], 1)
    for other in others:
        clear = 1.35 * (radius + other.radius_mm) + 2
        good &= np.linalg.norm(points - np.asarray(other.centre_mm, np.float32), axis=1) > clear
    found = points[good]
    if len(found) == 0:
        return None
    px, py, pz = (float(v) for v in found[0])
    return px, py, pz


def _describe(
    rng: np.random.Generator, zone: Zone, radius: float, centre: tuple[float, float, float], label: int
) -> LesionPlan:
    """Draw what depends on the class. Contrast and radius do not."""
    contrast = float(np.clip(rng.normal(0.43, 0.07), 0.26, 0.6))
    kind: Kind = "cancer"
    if label == 0:
        kind = "nodule" if zone == "TZ" else ("wedge" if rng.random() < 0.6 else "haemorrhage")
    if label == 1:
        margin, texture = rng.uniform(2.0, 4.5), rng.uniform(0.01, 0.06)
    else:
        margin, texture = rng.uniform(0.5, 1.4), rng.uniform(0.11, 0.22)
    if kind == "haemorrhage":
        texture += 0.05
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    if kind == "cancer" and zone == "TZ":
        stretch = (float(rng.uniform(1.3, 1.7)), float(rng.uniform(0.55, 0.75)), float(rng.uniform(0.9, 1.3)))
    elif kind != "wedge":
        u, v, w = rng.uniform(0.85, 1.2, 3)
        stretch = (float(u), float(v), float(w))
    return LesionPlan(
        label, zone, kind, centre, radius, contrast, float(margin), float(texture), _orient(rng, kind, zone, centre),
        stretch, Waves.draw(rng, (1.6 * radius, 3.5 * radius), 4), int(rng.integers(2**31)),
    )  # fmt: skip


def _orient(
    rng: np.random.Generator, kind: Kind, zone: Zone, centre: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    """(3, 3) own axes: a wedge's second axis points outwards from the middle of the gland."""
    if kind == "wedge":
        angle = np.arctan2(centre[1] + 3.0, centre[0]) - np.pi / 2 + rng.normal(0, 0.12)
    else:
        angle = rng.normal(0, 0.35) if zone == "TZ" else rng.uniform(-np.pi, np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)


def _gauge(plan: LesionPlan, x: Array, y: Array, z: Array) -> Array:
    """Homogeneous size function of the lesion's shape, mm: the lesion is where it is below a threshold."""
    cx, cy, cz = plan.centre_mm
    u = plan.axes[0, 0] * (x - cx) + plan.axes[0, 1] * (y - cy)
    v = plan.axes[1, 0] * (x - cx) + plan.axes[1, 1] * (y - cy)
    w = z - np.float32(cz)
    if plan.kind == "wedge":
        sides = (np.abs(u) * np.float32(1.75) - v) * np.float32(0.62)
        return np.asarray(np.maximum(np.maximum(v * np.float32(0.95), sides), np.abs(w)), dtype=np.float32)
    su, sv, sw = plan.stretch
    size = np.sqrt((u / su) ** 2 + (v / sv) ** 2 + (w / sw) ** 2)
    rough = {"cancer": 0.05, "haemorrhage": 0.17, "nodule": 0.02, "wedge": 0.0}[plan.kind]
    size *= 1 + np.float32(rough) * plan.outline.at(x, y, z)
    return np.asarray(size, dtype=np.float32)


def paint_lesion(plan: LesionPlan, tissue: GlandTissue, free: npt.NDArray[np.bool_], zone_mean: float) -> Array:
    """Paint one lesion into the tissue.

    The threshold of the shape is the one that gives the wanted volume, and the level the one that gives the wanted
    mean signal, so neither depends on the class.

    Args:
        plan: the lesion.
        tissue: the gland; its ``signal`` is changed in place.
        free: (d, h, w) voxels no other lesion has taken.
        zone_mean: mean signal of the healthy zone.

    Returns:
        (d, h, w) membership 0/1, float32.
    """
    member: Array = np.zeros(tissue.signal.shape, np.float32)
    position = (tissue.x, tissue.y, tissue.z)
    box = box_around(position, plan.centre_mm, 3.2 * plan.radius_mm)
    if box is None:
        return member
    size = _gauge(plan, *crop(position, box))
    surface, zone_mm = tissue.surface[box], tissue.zone[box]
    allowed = (surface < -0.9) & free[box] & ((zone_mm > 0.7) if plan.zone == "PZ" else (zone_mm < -0.7))
    threshold = _threshold(size[allowed], plan.radius_mm, tissue.axes_mm)
    inside = allowed & (size <= threshold)
    if not inside.any():
        return member
    patch = tissue.signal[box]
    room = soft_step(surface + np.float32(0.7), 0.8)
    room *= soft_step(np.float32(0.6) - zone_mm if plan.zone == "PZ" else zone_mm + np.float32(0.6), 1.0)
    weight, pattern = _appearance(plan, tissue, box, size - threshold, room, zone_mean)
    target = (1 - plan.contrast) * zone_mean
    base = patch + weight * (pattern - patch)
    level, reach = np.float32(0), max(float(weight[inside].mean()), 0.2)
    for _ in range(4):  # more than once, because of the floor
        painted = np.maximum(base + level * weight, np.float32(FLOOR))
        level += np.float32((target - float(painted[inside].mean())) / reach)
    patch[...] = np.maximum(base + level * weight, np.float32(FLOOR))
    member[box] = inside
    return member


def _threshold(sizes: Array, radius_mm: float, axes_mm: tuple[Array, Array, Array]) -> np.float32:
    """Size below which the wanted volume lies (at most 60% of the room there is), mm."""
    if len(sizes) == 0:
        return np.float32(0)
    voxel_mm3 = float(np.prod([axis[1] - axis[0] for axis in axes_mm]))
    count = min(int(4 / 3 * np.pi * radius_mm**3 / voxel_mm3), int(0.6 * len(sizes)))
    return np.float32(np.partition(sizes, count)[count])


def _appearance(
    plan: LesionPlan, tissue: GlandTissue, box: Box, distance: Array, room: Array, zone_mean: float
) -> tuple[Array, Array]:
    """Opacity of the lesion and its zero-level pattern, each (d, h, w) of the box."""
    rng = np.random.default_rng(plan.texture_seed)
    axes = (tissue.axes_mm[0][box[0]], tissue.axes_mm[1][box[1]], tissue.axes_mm[2][box[2]])
    length = {"cancer": 2.2, "wedge": 1.6, "haemorrhage": 2.4, "nodule": 2.0}[plan.kind]
    pattern = smooth_noise(rng, axes, (1.6 * length, length, length))
    pattern *= np.float32(plan.texture * zone_mean)
    if plan.kind == "nodule":
        rim = soft_line(distance + np.float32(0.9), 1.3)
        pattern -= rim * np.float32((0.20 + 1.0 * plan.texture) * zone_mean)
    weight = soft_step(distance, plan.margin_mm)
    weight = weight * weight * (3 - 2 * weight)
    weight *= room
    return weight, pattern
