"""What the preprocessing benchmark compares with: the same steps as MONAI's transforms.

``monai`` is written as its users write it: read, orient, resample the whole volume, crop, clip, z-score, pad.
``monai_crop`` knows our trick: it crops before it resamples, and resamples straight onto our own grid. Both smooth an
axis beforehand where voxels grow, as we do, and compute in float32 (MONAI's default of float64 takes longer).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    ClipIntensityPercentiles,
    GaussianSmooth,
    LoadImage,
    NormalizeIntensity,
    Orientation,
    Spacing,
    SpatialCrop,
    SpatialResample,
)

from prostate_mim.spec import InputSpec
from prostate_mim.volume.geometry import FloatArray

_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TIE = 1e-3  # as ours: which voxel is the middle of an even number of them
_SAME = 1e-4  # relative: a smaller difference of spacing is none
_SHARP = 0.1  # voxels: a narrower Gaussian has no second weight
_MARGIN = 4  # standard deviations


def monai_read(path: Path) -> MetaTensor:
    """(1, x, y, z) float32, x to the patient's Left, y to Posterior, z to Superior."""
    reader = "NibabelReader" if path.name.endswith((".nii", ".nii.gz")) else "ITKReader"
    image = LoadImage(reader=reader, image_only=True, ensure_channel_first=True, dtype=np.float32)(path)
    return Orientation("LPS")(image)


def monai_prepare(image: MetaTensor, spec: InputSpec, *, crop_first: bool) -> FloatArray:
    """``spec.size_zyx`` float32 around the middle of the volume, z-scored, 0 outside.

    Args:
        image: as ``monai_read`` returns it.
        crop_first: ``monai_crop``, or else ``monai``.
    """
    voxels, low = (resampled_crop if crop_first else resampled_whole)(image, spec)
    voxels = NormalizeIntensity()(ClipIntensityPercentiles(*spec.clip_percentiles)(voxels))
    measured = np.asarray(voxels[0]).transpose(2, 1, 0)
    result = np.zeros(spec.size_zyx, np.float32)
    result[tuple(slice(a, a + n) for a, n in zip(low[::-1], measured.shape, strict=True))] = measured
    return result


def scale_of(image: MetaTensor, spec: InputSpec) -> FloatArray:
    """(3,) along x, y, z: how many of the image's voxels one of the spec's is."""
    spacing = np.linalg.norm(np.asarray(image.affine, float)[:3, :3], axis=0)
    scale = np.asarray(spec.spacing_mm_zyx[::-1]) / spacing
    return np.where(np.abs(scale - 1) < _SAME, 1.0, scale)


def smoothed(image: MetaTensor, scale: FloatArray) -> MetaTensor:
    """Blurred along axes where voxels grow, as much as we do."""
    sigma = np.maximum(0.0, (scale - 1) / 2)
    if sigma.max() < _SHARP:
        return image
    return GaussianSmooth([float(s) for s in np.maximum(sigma, 1e-3)], approx="sampled")(image)


def middle_start(shape: FloatArray, scale: FloatArray, size: FloatArray) -> FloatArray:
    """Index of the first voxel of a crop around the middle of an image, in the image's voxels.

    As ours: the crop's own middle lies on a voxel of the image.
    """
    middle = size // 2
    return np.floor((shape - 1) / 2 + scale * (middle - (size - 1) / 2) + 0.5 - _TIE) - scale * middle


def resampled_whole(image: MetaTensor, spec: InputSpec) -> tuple[MetaTensor, tuple[int, ...]]:
    """The measured part of the crop, and where it begins in it (x, y, z); a grid that begins where the image does."""
    scale, size = scale_of(image, spec), np.asarray(spec.size_zyx[::-1])
    shape = np.asarray(image.shape[1:])
    resample = Spacing(spec.spacing_mm_zyx[::-1], mode="bilinear", padding_mode="border", dtype=torch.float32)
    whole = resample(smoothed(image, scale))
    start = middle_start((shape - 1) / scale + 1, np.ones(3), size).astype(int)
    stop = np.minimum(start + size, whole.shape[1:])
    piece = SpatialCrop(roi_start=np.maximum(start, 0).tolist(), roi_end=stop.tolist())(whole)
    return piece, tuple(np.maximum(-start, 0).tolist())


def resampled_crop(image: MetaTensor, spec: InputSpec) -> tuple[MetaTensor, tuple[int, ...]]:
    """The same on our grid, whose middle is a voxel of the image; only what the crop needs is resampled."""
    scale, size = scale_of(image, spec), np.asarray(spec.size_zyx[::-1])
    shape = np.asarray(image.shape[1:])
    start = middle_start(shape, scale, size)
    first = np.maximum(np.ceil((-0.5 - start) / scale + 1e-9), 0).astype(int)  # grid points within half a voxel ...
    last = np.minimum(np.floor((shape - 0.5 - start) / scale - 1e-9), size - 1).astype(int)  # ... of the image
    margin = np.ceil(_MARGIN * np.maximum(0.0, (scale - 1) / 2)).astype(int) + 1
    low = np.clip(np.floor(start + scale * first).astype(int) - margin, 0, shape - 1)
    high = np.clip(np.ceil(start + scale * last).astype(int) + 1 + margin, low + 1, shape)
    piece = smoothed(SpatialCrop(roi_start=low.tolist(), roi_end=high.tolist())(image), scale)
    if (scale != 1).any():
        move = np.diag([*scale, 1.0])
        move[:3, 3] = start + scale * first
        target = torch.as_tensor(np.asarray(image.affine, float) @ move)
        resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=torch.float32)
        return resample(piece, target, (last - first + 1).tolist()), tuple(first.tolist())
    inner = (start + first - low).astype(int)
    cut = SpatialCrop(roi_start=inner.tolist(), roi_end=(inner + last - first + 1).tolist())
    return cut(piece), tuple(first.tolist())
