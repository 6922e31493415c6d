"""Augmentation of z-scored crops. Left-right is the only flip: a prostate has a front and a top."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Augmentation:
    """How far a crop may be varied.

    Attributes:
        jitter_zyx: largest shift of the crop from its centre, voxels.
        flip_left_right: mirror half of the crops.
        contrast: largest relative change of contrast (0.1 = 10 %) and shift of brightness (deviations).
        noise: largest deviation of added Gaussian noise.
    """

    jitter_zyx: tuple[int, int, int] = (0, 0, 0)
    flip_left_right: bool = True
    contrast: float = 0.1
    noise: float = 0.1


def augment(
    voxels: FloatArray, inside: BoolArray, settings: Augmentation, rng: np.random.Generator, *masks: BoolArray
) -> tuple[FloatArray, BoolArray, *tuple[BoolArray, ...]]:
    """Vary one crop; (z, y, x) in and out. Padding stays exactly 0.

    Args:
        voxels: float32, z-scored.
        inside: True = measured.
        settings: what may be varied.
        rng: the only source of randomness; ``masks`` take nothing from it.
        masks: of the same crop; mirrored where the voxels are.

    Returns:
        voxels, inside and each of ``masks``.
    """
    if settings.flip_left_right and rng.random() < 0.5:
        voxels, inside = voxels[:, :, ::-1], inside[:, :, ::-1]
        masks = tuple(array[:, :, ::-1] for array in masks)
    gain = 1 + settings.contrast * rng.uniform(-1, 1)
    shift = settings.contrast * rng.uniform(-1, 1)
    varied = voxels * np.float32(gain) + np.float32(shift)
    if settings.noise:
        deviation = settings.noise * rng.random()
        varied = varied + rng.standard_normal(varied.shape, np.float32) * np.float32(deviation)
    return np.where(inside, varied, np.float32(0)).astype(np.float32), inside, *masks
