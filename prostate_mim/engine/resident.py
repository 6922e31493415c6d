"""All regions on the device, for as long as they fit: crops are slices of them, and nothing is shipped."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from prostate_mim.engine.data import (
    SAMPLE,
    Box,
    DrawDataset,
    Piece,
    Region,
    box_within,
    may_be_sampled,
    quartiles_at,
    surely_varies,
)

_EVERYTHING: Piece = (slice(None), slice(None), slice(None))
_SHARE_OF_FREE = 0.5  # the rest is for the model and its activations


def fits_on(device: torch.device, bytes_needed: int) -> bool:
    """Whether data may be kept on a device: on CUDA up to half of what is free now, elsewhere always."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return bytes_needed <= _SHARE_OF_FREE * free


def resident_bytes(dataset: DrawDataset) -> int:
    """What the regions of a data set take on a device: 2 bytes a voxel, and 1 more where the row has masks."""
    studies = [region.study for region in dataset.regions]
    return sum(math.prod(study.shape_zyx) * (2 if study.labels is None else 3) for study in studies)


class ResidentRegions:
    """Voxels and labels of all regions on one device.

    Args:
        dataset: whose regions are read now, once.
        device: where they are kept.
    """

    def __init__(self, dataset: DrawDataset, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self._voxels = [self._put(region.study.voxels[_EVERYTHING]) for region in dataset.regions]
        self._labels = [
            None if region.study.labels is None else self._put(region.study.labels[_EVERYTHING])
            for region in dataset.regions
        ]

    def _put(self, array: npt.NDArray[np.integer]) -> Tensor:
        return torch.from_numpy(np.array(array, order="C")).to(self.device)

    def items(self, draws: list[int]) -> dict[str, Tensor]:
        """The stacked items of some draws, as ``DrawDataset`` gives them; voxels and labels are on the device."""
        places = [self.dataset.first_place(draw) for draw in draws]
        regions = [self.dataset.regions[index] for index, _ in places]
        boxes = [box_within(region.study, piece) for region, (_, piece) in zip(regions, places, strict=True)]
        voxels = [self._voxels[index][piece] for index, piece in places]
        labels = [self._cut_labels(index, piece) for index, piece in places]
        facts = [
            self.dataset.facts(region, piece, draw)
            for region, (_, piece), draw in zip(regions, places, draws, strict=True)
        ]
        fine = self._surely_tissue(voxels, boxes, regions)
        for n in (n for n, good in enumerate(fine) if not good):
            facts[n] = self.dataset[draws[n]]  # the exact answer, and another place if it is no
            voxels[n], labels[n] = (facts[n].pop(name)[0].to(self.device) for name in ("voxels", "labels"))
        arrays = {"voxels": torch.stack(voxels)[:, None], "labels": torch.stack(labels)[:, None]}
        return {**arrays, **default_collate(facts)}

    def _cut_labels(self, index: int, piece: Piece) -> Tensor:
        known = self._labels[index]
        size = self.dataset.spec.size_zyx
        return torch.zeros(size, dtype=torch.uint8, device=self.device) if known is None else known[piece]

    def _surely_tissue(self, voxels: list[Tensor], boxes: list[Box], regions: list[Region]) -> list[bool]:
        """Which crops surely hold tissue, from every 8th voxel as in ``holds_tissue``; waits once for a whole batch."""
        able = [may_be_sampled(box, self.dataset.spec) for box in boxes]
        found = []
        for crop, box in ((c, b) for c, b, may in zip(voxels, boxes, able, strict=True) if may):
            sample = crop[tuple(slice(low, high) for low, high in box)][SAMPLE].flatten()
            ordered = sample.sort().values
            found += [ordered[place] for place in quartiles_at(len(sample))]
        values = iter(torch.stack(found).tolist() if found else [])
        return [
            may and surely_varies(int(next(values)), int(next(values)), region.study)
            for may, region in zip(able, regions, strict=True)
        ]
