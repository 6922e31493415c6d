"""Studies in memory, and the endless sequence of random crops drawn from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from prostate_mim.engine.augment import Augmentation, augment
from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.errors import VolumeError
from prostate_mim.preprocess import BoolArray, Crop, mask_on_grid, normalise, resample
from prostate_mim.spec import InputSpec
from prostate_mim.studies import Study


@dataclass(frozen=True)
class Region:
    """A study resampled around its centre, in its own intensities, wide enough to jitter a crop in.

    Attributes:
        crop: voxels (z, y, x) float32 not yet normalised, and which were measured.
        label: 0, 1, or -1 where none is given.
        row: the manifest's row number.
        masks: by name, (z, y, x) bool on the crop's grid, or None where the row has none. Holds what was asked for.
    """

    crop: Crop
    label: int
    row: int
    masks: Mapping[str, BoolArray | None] = field(default_factory=dict)


def make_regions(
    studies: Iterable[Study], spec: InputSpec, size_zyx: tuple[int, int, int], masks: Collection[str] = ()
) -> list[Region]:
    """Resample every study to ``size_zyx`` voxels around its centre.

    Args:
        studies: opened rows.
        spec: spacing of the regions.
        size_zyx: voxels of the regions.
        masks: names from ``prostate_mim.studies.MASKS`` to read too; no file of another mask is opened.

    Raises:
        VolumeError, ManifestError, NotFoundError: a mask, see ``Study.read_mask``.
        UsageError: an unknown mask.
    """
    regions = []
    for study in studies:
        crop = resample(study.volume, spec, study.centre_mm_lps, size_zyx)
        label = -1 if study.row.label is None else study.row.label
        known = {name: _measured_mask(study, name, crop) for name in sorted(masks)}
        regions.append(Region(crop, label, study.row.number, known))
    return regions


def _measured_mask(study: Study, name: str, crop: Crop) -> BoolArray | None:
    """(z, y, x) bool: a mask of the study on the grid of a crop, False in padding as the voxels are 0 there."""
    found = study.read_mask(name)
    if found is None:
        return None
    z, y, x = crop.voxels.shape
    return mask_on_grid(found, crop.geometry, (z, y, x)) & crop.inside


class DrawDataset(Dataset[dict[str, Any]]):
    """Draw number n -> one augmented, normalised crop. Epochs are permutations; draws are reproducible by n alone.

    An item holds ``voxels`` (1, D, H, W) float32, ``inside`` (1, D, H, W) bool, ``label``, ``row`` and ``draw``. For
    each mask of the regions it also holds, say, ``gland`` (1, D, H, W) bool, cut and mirrored as the voxels are, and
    ``has_gland``: False, and the mask all False, where the row has none. Masks change nothing else in an item.

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
        arrays = {name: torch.from_numpy(np.ascontiguousarray(a)[None]) for name, a in self._crop(region, rng).items()}
        known = {f"has_{name}": found is not None for name, found in region.masks.items()}
        return {**arrays, **known, "label": region.label, "row": region.row, "draw": draw}

    def _crop(self, region: Region, rng: np.random.Generator) -> dict[str, Any]:
        """(D, H, W) arrays by name: voxels, inside and the region's masks."""
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
            nothing = np.zeros_like(inside)
            masks = [nothing if found is None else found[piece] for found in region.masks.values()]
            arrays = augment(scored, inside, self.augmentation, rng, *masks)
            return dict(zip(("voxels", "inside", *region.masks), arrays, strict=True))
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
