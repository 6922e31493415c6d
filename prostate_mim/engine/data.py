"""Studies in memory, and the endless sequence of random crops drawn from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from prostate_mim.engine.augment import Augmentation, augment
from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.errors import VolumeError
from prostate_mim.preprocess import Crop, normalise, resample
from prostate_mim.spec import InputSpec
from prostate_mim.studies import Study


@dataclass(frozen=True)
class Region:
    """A study resampled around its centre, in its own intensities, wide enough to jitter a crop in.

    Attributes:
        crop: voxels (z, y, x) float32 not yet normalised, and which were measured.
        label: 0, 1, or -1 where none is given.
        row: the manifest's row number.
    """

    crop: Crop
    label: int
    row: int


def make_regions(studies: Iterable[Study], spec: InputSpec, size_zyx: tuple[int, int, int]) -> list[Region]:
    """Resample every study to ``size_zyx`` voxels around its centre."""
    regions = []
    for study in studies:
        crop = resample(study.volume, spec, study.centre_mm_lps, size_zyx)
        label = -1 if study.row.label is None else study.row.label
        regions.append(Region(crop, label, study.row.number))
    return regions


class DrawDataset(Dataset[dict[str, Any]]):
    """Draw number n -> one augmented, normalised crop. Epochs are permutations; draws are reproducible by n alone.

    Args:
        regions: the studies.
        spec: crop size and normalisation.
        augmentation: what may be varied, and how far the crop may wander from the region's centre.
        seed: the run's seed.
    """

    def __init__(self, regions: list[Region], spec: InputSpec, augmentation: Augmentation, seed: int) -> None:
        self.regions, self.spec, self.augmentation, self.seed = regions, spec, augmentation, seed

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        epoch, place = divmod(draw, len(self.regions))
        order = numpy_generator(self.seed, "epoch", epoch).permutation(len(self.regions))
        region = self.regions[order[place]]
        rng = numpy_generator(self.seed, "draw", draw)
        voxels, inside = self._crop(region, rng)
        return {
            "voxels": torch.from_numpy(np.ascontiguousarray(voxels)[None]),
            "inside": torch.from_numpy(np.ascontiguousarray(inside)[None]),
            "label": region.label,
            "row": region.row,
            "draw": draw,
        }

    def _crop(self, region: Region, rng: np.random.Generator) -> tuple[Any, Any]:
        room = np.asarray(region.crop.voxels.shape) - np.asarray(self.spec.size_zyx)
        reach = np.asarray(self.augmentation.jitter_zyx)
        for _ in range(10):
            start = room // 2 + np.round(rng.uniform(-1, 1, 3) * np.minimum(reach, room // 2)).astype(int)
            piece = tuple(slice(a, a + n) for a, n in zip(start, self.spec.size_zyx, strict=True))
            voxels, inside = region.crop.voxels[piece], region.crop.inside[piece]
            try:
                scored = normalise(voxels, inside, self.spec, f"row {region.row}")
            except VolumeError:
                continue  # a crop of nothing but padding or air: draw another place
            return augment(scored, inside, self.augmentation, rng)
        raise VolumeError(f"row {region.row}: ten random crops held no tissue; remove the study or check its centre")


class _Draws(torch.utils.data.Sampler[int]):
    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __iter__(self) -> Any:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return self.last - self.first


def draw_loader(dataset: DrawDataset, first: int, last: int, batch: int, workers: int) -> DataLoader[dict[str, Any]]:
    """A loader over draws ``first`` to ``last - 1``, in order; resuming is starting at another draw."""
    return DataLoader(dataset, batch_size=batch, sampler=_Draws(first, last), num_workers=workers, drop_last=False)
