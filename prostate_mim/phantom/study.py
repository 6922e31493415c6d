"""One synthetic study: anatomy and lesions of a patient, imaged once by a synthetic scanner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.phantom.acquisition import Frame, average_slices, record
from prostate_mim.phantom.anatomy import Box, GlandPlan, paint_gland
from prostate_mim.phantom.fields import Array, soft_step
from prostate_mim.phantom.lesions import LesionPlan, Zone, draw_lesions, paint_lesion
from prostate_mim.phantom.pelvis import paint_pelvis
from prostate_mim.volume.geometry import Geometry, Volume

PZ, TZ = 1, 2
SUBSTEPS = 3
SECOND_STUDY = 0.053
Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PhantomLesion:
    """One lesion of a synthetic study.

    Attributes:
        lesion_id: unique within the study; the same in two studies of a patient.
        label: 1 looks like significant cancer, 0 is a benign mimic.
        zone: "PZ" or "TZ".
        position_mm_lps: (x, y, z) of the mask's centroid in the patient, mm.
        mask: (z, y, x) uint8 on the study's grid.
    """

    lesion_id: str
    label: int
    zone: Zone
    position_mm_lps: tuple[float, float, float]
    mask: Volume


@dataclass(frozen=True)
class PhantomStudy:
    """One synthetic examination; all volumes share one grid.

    Attributes:
        study_id: unique within a seed.
        patient_id: shared by about one study in ten with another one.
        centre: name of the synthetic scanner.
        volume: (z, y, x) int16 T2w grey values.
        gland: (z, y, x) uint8, 1 inside the gland.
        zones: (z, y, x) uint8, peripheral zone 1, transition zone 2, 0 outside the gland.
        lesions: one to three.
    """

    study_id: str
    patient_id: str
    centre: str
    volume: Volume
    gland: Volume
    zones: Volume
    lesions: tuple[PhantomLesion, ...]


@dataclass(frozen=True)
class GlandImage:
    """The gland with its lesions, imaged without coil and noise.

    Attributes:
        box: where its arrays lie in the study's grid.
        signal: (d, h, w) relative signal, weighted by ``cover``.
        cover: (d, h, w) share of the voxel that is gland, 0..1.
        gland: (d, h, w) uint8.
        zones: (d, h, w) uint8, peripheral 1, transition 2.
        lesions: (plan, (d, h, w) uint8 mask) pairs.
    """

    box: Box
    signal: Array
    cover: Array
    gland: Mask
    zones: Mask
    lesions: tuple[tuple[LesionPlan, Mask], ...]


def _generator(seed: int, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, index, stream)))


def patient_of(seed: int, index: int) -> int:
    """Index of the patient's first study: ``index`` itself, or ``index - 1`` for about one study in twenty."""
    streak = 0
    while index - streak > 0 and _generator(seed, index - streak, 0).random() < SECOND_STUDY:
        streak += 1
    return index - streak % 2


def make_study(seed: int, index: int) -> PhantomStudy:
    """Make synthetic study number ``index`` of the cohort ``seed``; the same arguments give the same voxels.

    Raises:
        UsageError: ``seed`` or ``index`` is negative.
    """
    if seed < 0 or index < 0:
        raise UsageError(f"phantom seed {seed} and index {index} must be 0 or larger")
    patient = patient_of(seed, index)
    frame, plan, image = image_patient(seed, index)
    signal = paint_pelvis(_generator(seed, patient, 3), frame, plan)
    patch = signal[image.box]
    patch *= 1 - image.cover
    patch += image.signal
    voxels = record(_generator(seed, index, 4), frame, signal)
    geometry = frame.geometry
    return PhantomStudy(
        study_id=f"phantom-{seed}-{index:05d}",
        patient_id=f"phantom-{seed}-p{patient:05d}",
        centre=frame.scanner.name,
        volume=Volume(voxels, geometry, "phantom"),
        gland=_embed(image.gland, image.box, frame.shape_zyx, geometry),
        zones=_embed(image.zones, image.box, frame.shape_zyx, geometry),
        lesions=_locate(image, frame.shape_zyx, geometry),
    )


def image_patient(seed: int, index: int) -> tuple[Frame, GlandPlan, GlandImage]:
    """The grid of a study, the patient's gland, and its noise-free image: ``make_study`` without the pelvis."""
    frame = Frame.draw(_generator(seed, index, 1))
    plan, lesions = plan_patient(seed, patient_of(seed, index))
    return frame, plan, image_gland(plan, lesions, frame)


def plan_patient(seed: int, patient: int) -> tuple[GlandPlan, tuple[LesionPlan, ...]]:
    """The gland and the lesions of a patient, independent of any grid."""
    rng = _generator(seed, patient, 2)
    gland = GlandPlan.draw(rng)
    return gland, draw_lesions(rng, gland)


def _gland_box(plan: GlandPlan, frame: Frame) -> Box:
    """Index box of the grid that holds the gland with a margin."""
    reach = np.asarray(plan.semi_mm) * 1.25 + 3
    cos, sin = np.cos(frame.tilt), np.sin(frame.tilt)
    half = (np.hypot(reach[1] * sin, reach[2] * cos), np.hypot(reach[1] * cos, reach[2] * sin), reach[0])
    middle = -(frame.direction.T @ np.asarray(frame.offset_mm))[::-1]
    slices = []
    for axis in range(3):
        near = np.flatnonzero(np.abs(frame.axis_mm(axis) - middle[axis]) <= half[axis])
        slices.append(slice(int(near[0]), int(near[-1]) + 1))
    return slices[0], slices[1], slices[2]


def image_gland(plan: GlandPlan, lesions: tuple[LesionPlan, ...], frame: Frame) -> GlandImage:
    """Paint the gland and its lesions on thin sub-slices, and average them to the study's slices."""
    box = _gland_box(plan, frame)
    thin = frame.axis_mm(0, SUBSTEPS)[box[0].start * SUBSTEPS : box[0].stop * SUBSTEPS]
    rows, columns = frame.axis_mm(1)[box[1]], frame.axis_mm(2)[box[2]]
    tissue = paint_gland(plan, frame.anatomical(rows, columns, thin), (thin, rows, columns))
    inside = tissue.surface < -1.5
    zones = {"PZ": inside & (tissue.zone > 0.7), "TZ": inside & (tissue.zone < -0.7)}
    means = {name: float(tissue.signal[where].mean()) for name, where in zones.items()}
    free = np.ones(inside.shape, bool)
    members = []
    for lesion in lesions:
        member = paint_lesion(lesion, tissue, free, means[lesion.zone])
        free &= member == 0
        members.append(member)
    cover = soft_step(tissue.surface - np.float32(0.5), 1.0)
    tissue.signal *= cover
    shares = [average_slices(m, SUBSTEPS, 0.0) for m in (soft_step(tissue.surface, 0.6), soft_step(tissue.zone, 0.6))]
    gland = shares[0] >= 0.5
    label = np.where(gland, np.where(shares[1] >= 0.5, TZ, PZ), 0).astype(np.uint8)
    found = []
    for lesion, member in zip(lesions, members, strict=True):
        mask = (average_slices(member, SUBSTEPS, 0.0) >= 0.5) & gland
        if mask.any():
            found.append((lesion, mask.astype(np.uint8)))
    signal, share = average_slices(tissue.signal, SUBSTEPS, 0.45), average_slices(cover, SUBSTEPS, 0.45)
    return GlandImage(box, signal, share, gland.astype(np.uint8), label, tuple(found))


def _embed(mask: Mask, box: Box, shape_zyx: tuple[int, int, int], geometry: Geometry) -> Volume:
    """A mask of the box as a volume on the whole grid."""
    whole = np.zeros(shape_zyx, np.uint8)
    whole[box] = mask
    return Volume(whole, geometry, "phantom")


def _locate(image: GlandImage, shape_zyx: tuple[int, int, int], geometry: Geometry) -> tuple[PhantomLesion, ...]:
    """The study's lesions with their masks on the whole grid and their centroids in mm."""
    corner = np.array([part.start for part in image.box])
    lesions = []
    for number, (plan, mask) in enumerate(image.lesions, start=1):
        centroid = np.argwhere(mask).mean(axis=0) + corner
        x, y, z = (float(v) for v in geometry.index_to_position(centroid))
        volume = _embed(mask, image.box, shape_zyx, geometry)
        lesions.append(PhantomLesion(str(number), plan.label, plan.zone, (x, y, z), volume))
    return tuple(lesions)
