"""What in a crop speaks for label 1: a map on the grid of the study, with the prediction that it explains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.prediction import Prediction
from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.manifest import Point
from prostate_mim.nets.modes import evaluating
from prostate_mim.preprocess import BoolArray, Crop, prepare_crop
from prostate_mim.saliency import METHODS
from prostate_mim.saliency.cells import FloatArray
from prostate_mim.saliency.gradcam import encoders_of, gradcam, stage_number
from prostate_mim.saliency.occlusion import BOX_MM_ZYX, box_voxels, occlusion
from prostate_mim.saliency.placing import place_on
from prostate_mim.volume import Geometry, Volume, write_volume
from prostate_mim.volume.orient import on_file_axes
from prostate_mim.volume.read import read_stored

NEAR_MM = 10.0


@dataclass(frozen=True, eq=False)
class Explanation:
    """A saliency map and where it came from.

    Attributes:
        volume: (z, y, x) float32 on the grid of the study, 0 to 1; 0 outside of the crop.
        crop: what the network was given of the image, with its geometry.
        crop_map: (z, y, x) float32 on the grid of the crop, 0 to 1; 0 in padding.
        prediction: probability, model, revision and spec.
        method: of ``METHODS``.
        stage: of Grad-CAM and HiResCAM, 0 is the finest; None for occlusion.
        cell_mm_zyx: what the map can tell apart: a cell of the stage, or the covering box.
        centre_mm_lps: (x, y, z) around which the crop was taken.
        strongest: value of the map where it is 1, in logits; 0 where nothing speaks for label 1.
        in_padding: share (0 to 1) of the map that lay in padding, before it was set to 0 there.
    """

    volume: Volume
    crop: Crop
    crop_map: FloatArray
    prediction: Prediction
    method: str
    stage: int | None
    cell_mm_zyx: Point
    centre_mm_lps: Point
    strongest: float
    in_padding: float

    @property
    def empty(self) -> bool:
        """Nothing in the crop speaks for label 1."""
        return self.strongest == 0

    @property
    def hottest_mm_lps(self) -> Point | None:
        """(x, y, z) in mm of the middle of the hottest voxels; None where the map is empty."""
        if self.empty:
            return None
        found, _, geometry = _once(self.crop_map, self.crop)
        place = np.argwhere(found > 0.999 * found.max()).mean(0)
        x, y, z = (float(v) for v in geometry.index_to_position(place))
        return x, y, z

    @property
    def distance_mm(self) -> float | None:
        """From the centre to the hottest voxels; None where the map is empty."""
        hottest = self.hottest_mm_lps
        return None if hottest is None else float(np.linalg.norm(np.subtract(hottest, self.centre_mm_lps)))

    def share_near(self, within_mm: float = NEAR_MM) -> tuple[float, float]:
        """Share (0 to 1) of the map within a distance of the centre, and the share that an even map would have."""
        found, inside, geometry = _once(self.crop_map, self.crop)
        index = np.indices(found.shape).transpose(1, 2, 3, 0)
        away = np.linalg.norm(geometry.index_to_position(index) - np.asarray(self.centre_mm_lps), axis=-1)
        near = (away <= within_mm) & inside
        total = float(found.sum())
        return (float(found[near].sum()) / total if total else 0.0), float(near.sum() / inside.sum())

    @property
    def half_ml(self) -> float:
        """Volume in ml where the map is above 0.5."""
        found, _, geometry = _once(self.crop_map, self.crop)
        return float((found > 0.5).sum() * np.prod(geometry.spacing_mm_zyx) / 1000)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; no voxels, no path, no identifier."""
        near, even = self.share_near()
        hottest = self.hottest_mm_lps
        return {
            "probability": self.prediction.probability, "model": self.prediction.model,
            "revision": self.prediction.revision, "spec": self.prediction.spec, "device": self.prediction.device,
            "method": self.method, "stage": self.stage, "cell_mm_zyx": list(self.cell_mm_zyx),
            "centre_mm_lps": list(self.centre_mm_lps), "hottest_mm_lps": list(hottest) if hottest else None,
            "distance_mm": self.distance_mm, "share_within_10_mm": near, "even_share_within_10_mm": even,
            "half_ml": self.half_ml, "in_padding": self.in_padding, "strongest_logit": self.strongest,
        }  # fmt: skip


def explain(
    model: LesionClassifier,
    volume: Volume,
    position_mm_lps: Point | None = None,
    *,
    masks: Mapping[str, Volume] | None = None,
    method: str = "gradcam",
    stage: int = -1,
    box_mm_zyx: Point = BOX_MM_ZYX,
) -> Explanation:
    """Predict, and find what in the crop speaks for label 1.

    Args:
        model: the classifier; it keeps its mode, its gradients and no hook.
        volume: as ``read_volume`` returns it.
        position_mm_lps: (x, y, z) of the lesion in mm, LPS; the image centre if None.
        masks: for a model with mask channels, by the names of ``model.spec.channels``; others are not looked at.
        method: ``gradcam`` (one backward pass), ``hirescam`` (the same, cell by cell: fair to pooling that counts the
            centre more), or ``occlusion`` (hundreds of forward passes, and no gradient).
        stage: of Grad-CAM and HiResCAM: -1 is the coarsest, whose cells are 12 x 8 x 8 mm by default; -2 is finer
            and noisier.
        box_mm_zyx: of occlusion.

    Raises:
        UsageError: an unknown method or stage, a box that does not fit.
        VolumeError: the position lies outside the volume, the crop is constant, or a mask is missing.
        IntegrityError: the weights give no finite map.
    """
    cell = _cell_mm(model, method, stage, box_mm_zyx)
    crop = prepare_crop(volume, model.spec, position_mm_lps)
    batch = model.prepare(volume, position_mm_lps, masks)
    with evaluating(model):
        prediction = model.predict(volume, position_mm_lps, masks)
    found = crop_saliency(model, batch, method=method, stage=stage, box_mm_zyx=box_mm_zyx)
    crop_map, strongest, in_padding = _scaled(found, crop)
    number = stage_number(encoders_of(model)[0], stage) if method != "occlusion" else None
    x, y, z = (float(v) for v in (volume.centre_mm_lps if position_mm_lps is None else position_mm_lps))
    once, _, grid = _once(crop_map, crop)
    placed = Volume(place_on(once, grid, volume.geometry, volume.shape_zyx), volume.geometry, "saliency")
    return Explanation(placed, crop, crop_map, prediction, method, number, cell, (x, y, z), strongest, in_padding)


def saliency(
    model: LesionClassifier,
    volume: Volume,
    position_mm_lps: Point | None = None,
    *,
    method: str = "gradcam",
    stage: int = -1,
) -> Volume:
    """The map of ``explain`` alone: float32 on the grid of the volume, 0 to 1, 0 outside of the crop.

    Raises:
        UsageError, VolumeError, IntegrityError: as ``explain``.
    """
    return explain(model, volume, position_mm_lps, method=method, stage=stage).volume


def crop_saliency(
    model: LesionClassifier, batch: Tensor, *, method: str = "gradcam", stage: int = -1, box_mm_zyx: Point = BOX_MM_ZYX
) -> FloatArray:
    """What speaks for label 1 in a crop that is ready for the network, unscaled.

    Args:
        model: the classifier.
        batch: (1, C, D, H, W) float32.
        method: of ``METHODS``.
        stage: of Grad-CAM and HiResCAM.
        box_mm_zyx: of occlusion.

    Returns:
        (D, H, W) float32, 0 and above.

    Raises:
        UsageError: an unknown method or stage, or a box that does not fit.
        IntegrityError: the weights give no finite map.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r} is unknown; choose {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    if method == "occlusion":
        found = occlusion(model, batch, box_mm_zyx)
    else:
        found = gradcam(model, batch, stage, each_cell=method == "hirescam")
    if not np.isfinite(found).all():
        raise IntegrityError(f"{model.name}: the saliency map is not finite; the weights are damaged or diverged")
    return found


def write_saliency(made: Explanation, path: str | Path, like: str | Path | None = None) -> Path:
    """Write the map with origin, direction and spacing of the study, and nothing else of it.

    Args:
        made: from ``explain``.
        path: ends in ``.nii.gz``, ``.nii`` or ``.mha``.
        like: file or DICOM folder that the study was read from: the map is then stored in that file's order of axes,
            so that tools which overlay voxel by voxel are right as well; on the canonical axes if None.

    Raises:
        UsageError: another ending, the folder cannot be written, or ``like`` is another image.
        VolumeError, NotFoundError: ``like`` cannot be read; a bare array has no axes of its own.
    """
    found = made.volume
    if like is not None:
        image = read_stored(like)
        stored = np.ascontiguousarray(on_file_axes(found.voxels, image))
        if stored.shape != image.voxels.shape:
            raise UsageError(f"{like}: has {image.voxels.shape} voxels, the map {stored.shape}; give the same image")
        i, j, k = image.spacing_mm_ijk
        # Geometry holds for any axes: here array axes (k, j, i) are the file's own, not the canonical ones.
        found = Volume(stored, Geometry((k, j, i), image.origin_mm_lps, image.direction), "saliency")
    write_volume(found, path)
    return Path(path)


def _cell_mm(model: LesionClassifier, method: str, stage: int, box_mm_zyx: Point) -> Point:
    """What the map can tell apart, mm; all checks that need no work."""
    spacing = model.spec.spacing_mm_zyx
    if method == "occlusion":
        voxels = box_voxels(box_mm_zyx, spacing, model.spec.size_zyx)
    else:
        encoder = encoders_of(model)[0]
        voxels = encoder.stage_info[stage_number(encoder, stage)].stride_zyx
    z, y, x = (n * mm for n, mm in zip(voxels, spacing, strict=True))
    return z, y, x


def _scaled(found: FloatArray, crop: Crop) -> tuple[FloatArray, float, float]:
    """The map from 0 to 1 without padding, its largest value, and the share of it that lay in padding."""
    total = float(found.sum(dtype=np.float64))
    kept = np.where(crop.inside, found, np.float32(0))
    strongest = float(kept.max())
    in_padding = 1 - float(kept.sum(dtype=np.float64)) / total if total else 0.0
    scaled = np.asarray(kept / np.float32(strongest or 1), np.float32)
    return scaled, strongest, max(0.0, in_padding)


def _once(crop_map: FloatArray, crop: Crop) -> tuple[FloatArray, BoolArray, Geometry]:
    """The map, what of it was measured, and its grid; of a single slice that was repeated, the mean over its copies."""
    if crop.repeated is None:
        return crop_map, crop.inside, crop.geometry
    return crop_map.mean(0, keepdims=True), crop.inside[:1], crop.repeated
