"""MONAI's arms of the loader benchmark: the same regions, crops, normalisation and changes in its own transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, PersistentDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    RandSpatialCropd,
    ScaleIntensityRangePercentilesd,
)
from torch.utils.data import RandomSampler

from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.data import DrawDataset

KEY = "image"


def monai_loader(
    arm: str, dataset: DrawDataset, augmentation: Augmentation, folder: Path
) -> Callable[[int, int, int], Iterator[torch.Tensor]]:
    """A function of (batch, steps, workers) that yields batches (N, 1, D, H, W).

    Args:
        arm: ``persistent``, ``cache`` or ``persistent_once``.
        dataset: whose regions are written as NIfTI files for MONAI to read.
        augmentation: chances and amounts.
        folder: for the files and the cache; the cache is filled before this returns.
    """
    files = write_regions(dataset, folder / "images")
    once = arm == "persistent_once"
    low, high = dataset.spec.clip_percentiles
    normalise = [ScaleIntensityRangePercentilesd(KEY, low, high, 0, 1, clip=True), NormalizeIntensityd(KEY)]
    read = [LoadImaged(KEY, image_only=True), EnsureChannelFirstd(KEY), EnsureTyped(KEY)] + (normalise if once else [])
    crop = [RandSpatialCropd(KEY, dataset.spec.size_zyx, random_size=False)] + ([] if once else normalise)
    transform = Compose([*read, *crop, *changes(augmentation)])
    if arm == "cache":
        data: Any = CacheDataset(files, transform, num_workers=1, progress=False)
    else:
        data = PersistentDataset(files, transform, cache_dir=folder / "cache")
        for number in range(len(data)):
            _ = data[number]

    def batches(batch: int, steps: int, workers: int) -> Iterator[torch.Tensor]:
        sampler = RandomSampler(data, replacement=True, num_samples=batch * steps)
        for found in DataLoader(data, batch_size=batch, sampler=sampler, num_workers=workers):
            yield found[KEY]

    return batches


def write_regions(dataset: DrawDataset, folder: Path) -> list[dict[str, str]]:
    """The regions as uncompressed NIfTI files, axes z, y, x."""
    folder.mkdir(parents=True)
    files = []
    for number, region in enumerate(dataset.regions):
        path = folder / f"{number}.nii"
        nibabel.save(nibabel.Nifti1Image(region.study.intensities(), np.eye(4)), path)
        files.append({KEY: str(path)})
    return files


def changes(settings: Augmentation) -> list[Any]:
    """The changes of ``engine.augment``, each at the same chance and with amounts as near as MONAI's go."""
    if settings.nothing:
        return []
    angle, size, thin = math.radians(settings.rotation_degrees), settings.scaling, 1 / settings.thickness
    gamma, blur = (math.exp(-settings.gamma), math.exp(settings.gamma)), settings.blur_voxels
    return [
        # along all axes: MONAI has none along z alone
        RandSimulateLowResolutiond(KEY, prob=settings.thick_chance, zoom_range=(thin, 1.0)),
        RandGaussianSmoothd(KEY, (0.01, 0.01), (blur / 3, blur), (blur / 3, blur), prob=settings.blur_chance),
        RandFlipd(KEY, prob=settings.flip_chance, spatial_axis=2),
        RandAffined(
            KEY, prob=settings.affine_chance, rotate_range=(angle, 0, 0), scale_range=(0, size, size),
            mode="bilinear", padding_mode="zeros",
        ),
        RandBiasFieldd(KEY, degree=3, coeff_range=(0.0, settings.bias / 3), prob=settings.bias_chance),
        RandAdjustContrastd(KEY, prob=settings.gamma_chance, gamma=gamma, retain_stats=True),
        RandScaleIntensityd(KEY, settings.contrast, prob=settings.contrast_chance),
        RandShiftIntensityd(KEY, settings.brightness, prob=settings.contrast_chance),
        RandGaussianNoised(KEY, prob=settings.noise_chance, mean=0.0, std=settings.noise),
    ]  # fmt: skip
