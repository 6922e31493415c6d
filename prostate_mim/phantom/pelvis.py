"""What surrounds the gland: fat, muscle, bone, bladder, rectum, vessels; painted on a coarse in-plane grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prostate_mim.phantom.acquisition import Frame, average_slices
from prostate_mim.phantom.anatomy import GlandPlan
from prostate_mim.phantom.fields import Array, resample_plane, smooth_noise, soft_step

GRID_MM = 0.8
SUBSTEPS = 2
FAT, MUSCLE, MARROW, CORTEX, BLADDER = 0.80, 0.13, 0.42, 0.07, 1.35
Triple = tuple[float, float, float]


@dataclass
class Canvas:
    """A coarse grid in anatomical mm that soft ellipsoids are painted on.

    Attributes:
        signal: (d, h, w) relative signal.
        x: (d, h, w) warped coordinate, mm.
        y: (d, h, w) warped coordinate, mm.
        z: (d, h, 1) coordinate, mm.
        plain_x: (w,) coordinate before warping.
        plain_y: (d, h) coordinate before warping.
        fine: (d, h, w) unit noise, short correlation.
        striae: (d, h, w) unit noise, streaky as muscle fibres.
        coarse: (d, h, w) unit noise, long correlation.
    """

    signal: Array
    x: Array
    y: Array
    z: Array
    plain_x: Array
    plain_y: Array
    fine: Array
    striae: Array
    coarse: Array

    def _box(self, centre: Triple, reach: Triple) -> tuple[slice, slice, slice] | None:
        near_y = np.abs(self.plain_y - centre[1]) <= reach[1]
        near_y &= np.abs(self.z[:, :, 0] - centre[2]) <= reach[2]
        picks = (near_y.any(axis=1), near_y.any(axis=0), np.abs(self.plain_x - centre[0]) <= reach[0])
        found = [np.flatnonzero(pick) for pick in picks]
        if any(len(index) == 0 for index in found):
            return None
        d, h, w = (slice(int(index[0]), int(index[-1]) + 1) for index in found)
        return d, h, w

    def ellipsoid(
        self,
        centre: Triple,
        semi: Triple,
        layers: Sequence[tuple[float, float]],
        *,
        angle: float = 0.0,
        lean: float = 0.0,
        texture: str = "fine",
        amount: float = 0.08,
        edge_mm: float = 1.2,
    ) -> None:
        """Paint nested layers of an ellipsoid.

        Args:
            centre: x, y, z, mm.
            semi: half extents along its own axes, mm.
            layers: (depth below the surface in mm, relative signal), from the outside in.
            angle: rotation about z, radians.
            lean: shift of the centre along y for each mm of height.
            texture: which noise of the canvas modulates the layers.
            amount: relative strength of that noise.
            edge_mm: softness of the edges.
        """
        widest = max(semi[0], semi[1]) if angle else 0.0
        tall = abs(lean) * semi[2]
        reach = (max(semi[0], widest) + 10, max(semi[1], widest) + 10 + tall, semi[2] + 3)
        box = self._box(centre, reach)
        if box is None:
            return
        distance = self._distance(box, centre, semi, angle, lean)
        patch = self.signal[box]
        noise = getattr(self, texture)[box]
        for depth, level in layers:
            value = np.float32(level) * (1 + np.float32(amount) * noise)
            patch += soft_step(distance + np.float32(depth), edge_mm) * (value - patch)

    def _distance(
        self, box: tuple[slice, slice, slice], centre: Triple, semi: Triple, angle: float, lean: float
    ) -> Array:
        """Signed distance (mm, approximate) to an ellipsoid within an index box."""
        up = self.z[box[0], box[1]] - np.float32(centre[2])
        dx = self.x[box] - np.float32(centre[0])
        dy = self.y[box] - (np.float32(centre[1]) + np.float32(lean) * up)
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        radius = ((cos * dx + sin * dy) * np.float32(1 / semi[0])) ** 2
        radius += ((cos * dy - sin * dx) * np.float32(1 / semi[1])) ** 2
        radius += (up * np.float32(1 / semi[2])) ** 2
        scale = np.float32(min(semi[0], semi[1], semi[2] * 1.5))
        return np.asarray((np.sqrt(radius) - 1) * scale, dtype=np.float32)

    def pair(self, centre: Triple, semi: Triple, layers: Sequence[tuple[float, float]], angle: float = 0.0,
             texture: str = "fine", amount: float = 0.08, lean: float = 0.0) -> None:  # fmt: skip
        """The same ellipsoid on both sides; ``angle`` is that of the left one (x > 0)."""
        for side in (1.0, -1.0):
            self.ellipsoid(
                (side * centre[0], centre[1], centre[2]), semi, layers,
                angle=side * angle, texture=texture, amount=amount, lean=lean,
            )  # fmt: skip


def paint_pelvis(rng: np.random.Generator, frame: Frame, gland: GlandPlan) -> Array:
    """The pelvis without the gland, on the study's grid.

    Args:
        rng: owner of the randomness (the patient's, so two studies share their anatomy).
        frame: the study's grid.
        gland: the gland the organs are placed around.

    Returns:
        (z, y, x) relative signal, float32.
    """
    extent = frame.shape_zyx[1] * frame.spacing_mm_zyx[1]
    count = int(np.ceil(extent / GRID_MM)) + 1
    plane = ((np.arange(count) - (count - 1) / 2) * GRID_MM).astype(np.float32)
    canvas = _blank(rng, frame, plane)
    _paint_wall(rng, canvas)
    _paint_bones(rng, canvas, gland)
    _paint_floor(rng, canvas, gland)
    _paint_rectum(rng, canvas, gland)
    _paint_vesicles(rng, canvas, gland)
    _paint_bladder(rng, canvas, gland)
    slices = average_slices(canvas.signal, SUBSTEPS, 0.35)
    rows = frame.axis_mm(1) / GRID_MM + (count - 1) / 2
    return resample_plane(slices, rows.astype(np.float32), rows.astype(np.float32))


def _blank(rng: np.random.Generator, frame: Frame, plane: Array) -> Canvas:
    """Warped coordinates, and a body of fat with septa in air."""
    depth = frame.axis_mm(0, SUBSTEPS)
    axes = (depth, plane, plane)
    x, y, z = frame.anatomical(plane, plane, depth)
    wx, wy = (place + _warp(rng, axes) for place in (x, y))
    fine = smooth_noise(rng, axes, (3, 1.3, 1.3))
    striae = smooth_noise(rng, axes, (12, 1.4, 7.0))
    coarse = smooth_noise(rng, axes, (25, 16, 16))
    septa = np.zeros_like(fine)
    for length, thin, depth_of in (((9, 6, 6), 8.0, 0.30), ((7, 3.5, 3.5), 5.0, 0.20), ((16, 12, 12), 14.0, 0.34)):
        ridge = np.clip(1 - np.abs(smooth_noise(rng, axes, length)) * np.float32(thin), 0, 1)
        septa += np.float32(depth_of) * ridge
    septa *= np.clip(coarse * np.float32(0.7) + np.float32(0.6), 0, 1)
    front = float(rng.uniform(74, 96))
    body = (np.sqrt((wx / 200) ** 2 + ((wy - 25) / np.float32(25 + front)) ** 2) - 1) * np.float32(90)
    signal = np.float32(FAT) * (1 + np.float32(0.07) * coarse + np.float32(0.035) * fine)
    signal *= 1 - np.clip(septa, 0, np.float32(0.6))
    skin = soft_step(body + 2, 1.5)
    signal = (np.float32(0.3) + skin * (signal - np.float32(0.3))) * soft_step(body, 1.5)
    return Canvas(signal, wx, wy, z, x[0, 0], y[:, :, 0], fine, striae, coarse)


def _warp(rng: np.random.Generator, axes: tuple[Array, Array, Array]) -> Array:
    """(d, h, w) displacement in mm, rough at three scales, that makes outlines organic."""
    total = np.float32(2.0) * smooth_noise(rng, axes, (30, 26, 26))
    total += np.float32(1.0) * smooth_noise(rng, axes, (14, 11, 11))
    total += np.float32(0.45) * smooth_noise(rng, axes, (6, 4.5, 4.5))
    return total


def _paint_wall(rng: np.random.Generator, canvas: Canvas) -> None:
    """Muscles and vessels of the abdominal and pelvic wall."""
    muscle = [(0.0, MUSCLE * float(rng.uniform(0.85, 1.25)))]
    shift = float(rng.normal(0, 2.0))
    canvas.pair((13, -66 + shift, 30), (16, 5.0, 44), muscle, 0.12, "striae", 0.25)
    canvas.pair((54, -34 + shift, -30), (38, 10, 40), muscle, 0.60, "striae", 0.30)
    canvas.pair((66, -44 + shift, -24), (40, 9, 60), muscle, 0.55, "striae", 0.35)
    canvas.pair((80, -60 + shift, 0), (30, 10, 80), muscle, 0.30, "striae", 0.30)
    canvas.pair((98, -34, -10), (22, 16, 80), muscle, 0.9, "striae", 0.35)
    canvas.pair((70, 90, 10), (64, 19, 100), muscle, -0.38, "striae", 0.45)
    canvas.pair((40, 97, 10), (36, 10, 100), muscle, -0.20, "striae", 0.50)
    canvas.pair((86, 48, -16), (26, 11, 26), muscle, 0.3, "striae", 0.30)
    canvas.pair((84, 62, 16), (24, 7, 26), muscle, -0.5, "striae", 0.30)
    for place, radius in (((52, -64), 5.5), ((63, -60), 5.0), ((38, -62), 3.0), ((58, -52), 3.2)):
        x, y = place[0] + float(rng.normal(0, 2)), place[1] + shift + float(rng.normal(0, 2))
        canvas.pair((x, y, 0), (radius, radius * 0.9, 90), [(0.0, 0.35), (1.0, 0.06)], lean=-0.15)


def _paint_bones(rng: np.random.Generator, canvas: Canvas, gland: GlandPlan) -> None:
    """Femoral heads in their sockets, ischium and pubis, with the obturator muscles that line them."""
    marrow = MARROW * float(rng.uniform(0.85, 1.3))
    bone = [(0.0, CORTEX), (1.7, marrow)]
    muscle = [(0.0, MUSCLE * float(rng.uniform(0.8, 1.1)))]
    wide = float(max(0.0, gland.semi_mm[0] - 22.0) + rng.normal(0, 1.5))
    front = -gland.semi_mm[1] - 26
    canvas.pair((74 + wide, -4, 22), (19, 31, 34), bone, 0.25, "coarse", 0.14)
    canvas.pair((68 + wide, 36, -2), (13, 21, 40), bone, -0.45, "coarse", 0.14)
    canvas.pair((92 + wide, 6, 12), (25, 24, 25), [(0.0, CORTEX), (1.8, 0.34), (2.8, CORTEX), (4.4, marrow * 1.25)],
                0.0, "coarse", 0.10)  # fmt: skip
    canvas.pair((53 + wide, 4, 6), (8.0, 42, 46), muscle, -0.22, "striae", 0.30)
    canvas.pair((51 + wide, 36, -10), (7.5, 20, 30), muscle, 0.35, "striae", 0.30)
    canvas.pair((17, front, -12), (21, 12, 27), bone, -0.75, "coarse", 0.18)
    canvas.pair((30, front + 14, -36), (20, 6, 20), bone, 0.85, "coarse", 0.16)
    canvas.pair((46, front - 9, 0), (24, 8, 16), bone, -0.12, "coarse", 0.16)
    canvas.ellipsoid((0, front - 2, -14), (2.6, 13, 22), [(0.0, 0.14), (1.3, 0.30)])


def _paint_floor(rng: np.random.Generator, canvas: Canvas, gland: GlandPlan) -> None:
    """Levator sling, venous plexus, neurovascular bundles and the sphincter below the apex."""
    a, b, c = gland.semi_mm
    grey = float(rng.uniform(0.13, 0.19))
    sling = float(rng.uniform(2.2, 3.2))
    inner = FAT * 0.85
    canvas.ellipsoid((0, 0.95 * b, -0.2 * c), (a + 5.5, b + 19, c + 26), [(0.0, grey), (sling, inner)],
                     lean=-0.18, texture="coarse", amount=0.1)  # fmt: skip
    canvas.ellipsoid((0, -b - 3, 0.0), (0.75 * a, 6, c + 4), [(0.0, 0.55)], texture="fine", amount=0.35)
    for _ in range(16):
        angle = float(rng.choice((0.62, 2.52))) + float(rng.normal(0, 0.35))
        out = 1.0 + float(rng.uniform(0.10, 0.28))
        spot = (a * out * float(np.cos(angle)), b * out * float(np.sin(angle)), float(rng.normal(0, 0.5 * c)))
        size = float(rng.uniform(1.0, 2.1))
        canvas.ellipsoid(spot, (size, size, 12), [(0.0, float(rng.choice((0.15, 0.25, 1.1))))], lean=0.1)
    canvas.ellipsoid((0, -0.1 * b, -c - 12), (10, 9, 18), [(0.0, 0.16), (3.2, 0.45), (6.5, 0.7)])
    canvas.ellipsoid((0, 0.9 * b + 14, -c - 22), (13, 15, 26), [(0.0, 0.14), (4.5, 0.34), (9.0, 0.6)], lean=-0.2)


def _paint_rectum(rng: np.random.Generator, canvas: Canvas, gland: GlandPlan) -> None:
    """Rectum behind the gland: wall, mucosa, then gas, stool or a collapsed lumen."""
    _, b, c = gland.semi_mm
    radius = float(rng.uniform(10, 19))
    centre = (float(rng.normal(0, 3)), 0.93 * b + 2.5 + radius, 6.0)
    semi = (radius * float(rng.uniform(1.0, 1.25)), radius, c + 48)
    wall: list[tuple[float, float]] = [(0.0, 0.19), (2.6, 0.42)]
    filling = str(rng.choice(("gas", "stool", "collapsed"), p=(0.35, 0.35, 0.3)))
    inside = {"gas": [(3.8, 0.03)], "stool": [(3.8, 0.22)], "collapsed": [(4.4, 0.62), (7.0, 0.2)]}[filling]
    amount = {"gas": 0.1, "stool": 0.5, "collapsed": 0.25}[filling]
    canvas.ellipsoid(centre, semi, wall + inside, lean=0.10, amount=amount, texture="fine")


def _paint_vesicles(rng: np.random.Generator, canvas: Canvas, gland: GlandPlan) -> None:
    """Seminal vesicles: small bright lobules with dark walls behind the bladder."""
    a, b, c = gland.semi_mm
    for side in (1.0, -1.0):
        for k in range(9):
            along = (k + float(rng.uniform(0, 0.8))) / 9
            spot = (
                side * (4 + along * (a + 4)),
                0.35 * b + float(rng.normal(0, 1.8)) - 3 * along,
                c + 4 + 8 * along + float(rng.normal(0, 2.0)),
            )
            size = float(rng.uniform(3.0, 4.6))
            canvas.ellipsoid(spot, (size, size, 1.6 * size), [(0.0, 0.2), (1.2, float(rng.uniform(0.8, 1.25)))])


def _paint_bladder(rng: np.random.Generator, canvas: Canvas, gland: GlandPlan) -> None:
    """Bladder above and before the gland: dark wall, very bright urine."""
    _, b, c = gland.semi_mm
    full = float(rng.uniform(0.75, 1.25))
    semi = (33 * full, 23 * full, 26 * full)
    wall = float(rng.uniform(2.6, 4.8))
    centre = (float(rng.normal(0, 2)), -0.55 * b - 6, 0.62 * c + semi[2])
    layers = [(0.0, 0.18), (wall, BLADDER * float(rng.uniform(0.85, 1.15)))]
    canvas.ellipsoid(centre, semi, layers, lean=-0.15, texture="coarse", amount=0.02)
