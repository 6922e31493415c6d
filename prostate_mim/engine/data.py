"""The endless sequence of random crops drawn from prepared studies. Cheap: int16 voxels, cut and handed on.

What costs time (normalising, augmenting) happens for a whole batch at once on the device: ``engine/batch.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.preprocess import normalise
from prostate_mim.spec import InputSpec
from prostate_mim.store import BITS, PreparedStudy

Piece = tuple[slice, slice, slice]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

_ATTEMPTS = 10
# Every 8th voxel tells whether a crop holds tissue. A quarter of them is 1/32 of all, more than this share (%) of
# voxels that clipping at percentiles may flatten at either end.
SAMPLE = (slice(None), slice(None, None, 2), slice(None, None, 4))
_FLATTENED_PERCENT = 3.0
_FEWEST = 1024  # of fewer voxels, 1/32 may be less than 3 % and the voxel after it


@dataclass(frozen=True)
class Region:
    """A prepared study to draw crops from.

    Attributes:
        study: voxels and masks of a region wider than the crop.
        label: 0, 1, or -1 where none is given.
        row: the manifest's row number.
    """

    study: PreparedStudy
    label: int
    row: int


def check_masks(region: Region, spec: InputSpec) -> None:
    """Refuse a study that has not every mask among a network's channels.

    Raises:
        UsageError: naming the row and the mask.
    """
    for name in spec.masks:
        if name not in region.study.masks:
            column = "zone_mask" if name in ("pz", "tz") else f"{name}_mask"
            raise UsageError(
                f"row {region.row}: the {name} mask is missing, and the model looks at it; add {column} to the "
                f"manifest, or leave {name!r} out of the channels"
            )


def crop_of(region: Region, spec: InputSpec, piece: Piece) -> npt.NDArray[np.float32]:
    """A network's input from a fixed place of a region, without augmentation; as ``preprocess.prepare_input`` gives it.

    Args:
        region: the study.
        spec: the contract of the network; its size is that of the piece.
        piece: where in the region.

    Returns:
        (C, D, H, W) float32: the image z-scored, then the spec's masks as 0 and 1; all 0 in padding.

    Raises:
        UsageError: a mask among the channels is missing; names the row.
        VolumeError: the piece holds no tissue, or is constant.
    """
    check_masks(region, spec)
    study = region.study
    image = normalise(study.intensities(piece), study.inside(piece), spec, f"row {region.row}")
    return np.stack([image, *(np.asarray(study.mask(name, piece), np.float32) for name in spec.masks)])


class DrawDataset(Dataset[dict[str, Any]]):
    """Draw number n -> one raw crop. Epochs are permutations; draws are reproducible by n alone.

    An item holds ``voxels`` (1, D, H, W) int16 as stored, ``box`` (3, 2) int64 (the half-open range of measured voxels
    along each axis of the crop; what lies outside is padding, its voxels any constant), ``place`` (3,) int64 (twice
    the way from the region's middle to the crop's, voxels), ``labels`` (1, D, H, W) uint8 (bits as in ``store.BITS``;
    0 where the row has no mask), ``has_gland`` and so on for each of them, ``label``, ``row`` and ``draw``.

    Args:
        regions: the studies, each at least as large as the crop.
        spec: crop size, the clipping that decides whether a crop holds tissue, and the masks that every study needs
            because the network looks at them.
        jitter_zyx: how far a crop may lie from the middle of its region, voxels; at most to the region's edge.
        seed: the run's seed.

    Raises:
        UsageError: there is no region, or one is smaller than the crop, or lacks a mask among the spec's channels.
    """

    def __init__(self, regions: Sequence[Region], spec: InputSpec, jitter_zyx: tuple[int, int, int], seed: int) -> None:
        if not regions:
            raise UsageError("there is no study to draw crops from; the manifest has no usable row")
        for region in regions:
            if any(have < need for have, need in zip(region.study.shape_zyx, spec.size_zyx, strict=True)):
                raise UsageError(
                    f"row {region.row}: its stored region of {region.study.shape_zyx} voxels is smaller than the crop "
                    f"{spec.size_zyx}; prepare the data with a larger region, or choose a smaller crop"
                )
            check_masks(region, spec)
        self.regions, self.spec, self.jitter_zyx, self.seed = regions, spec, jitter_zyx, seed
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.regions)

    def index_of(self, draw: int) -> int:
        """Which of ``regions`` a draw is of."""
        epoch, place = divmod(draw, len(self.regions))
        if self._order is None or self._order[0] != epoch:  # the order of the last epoch asked for is kept
            permutation = numpy_generator(self.seed, "epoch", epoch).permutation(len(self.regions))
            self._order = epoch, permutation
        return int(self._order[1][place])

    def rows_of(self, draws: Sequence[int]) -> list[int]:
        """Manifest rows of some draws; reads no voxel."""
        return [self.regions[self.index_of(draw)].row for draw in draws]

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """The item of a draw.

        Raises:
            VolumeError: ten random places of the study held no tissue; names the row.
        """
        region = self.regions[self.index_of(draw)]
        rng = numpy_generator(self.seed, "draw", draw)
        for _ in range(_ATTEMPTS):
            piece = self._place(region.study, rng)
            voxels, box = np.asarray(region.study.voxels[piece]), box_within(region.study, piece)
            if holds_tissue(voxels, box, self.spec, region.study):
                return self._item(region, piece, voxels, draw)
        raise VolumeError(
            f"row {region.row}: {_ATTEMPTS} random crops held no tissue; remove the study or check its centre"
        )

    def first_place(self, draw: int) -> tuple[int, Piece]:
        """Which of ``regions`` a draw is of, and the place tried first; where that holds no tissue, ask ``[draw]``."""
        index = self.index_of(draw)
        return index, self._place(self.regions[index].study, numpy_generator(self.seed, "draw", draw))

    def _item(self, region: Region, piece: Piece, voxels: npt.NDArray[np.int16], draw: int) -> dict[str, Any]:
        """Of voxels that were read from a place that holds tissue."""
        labels = region.study.labels
        found = np.zeros(voxels.shape, np.uint8) if labels is None else labels[piece]
        arrays = {"voxels": np.array(voxels, np.int16, order="C"), "labels": np.array(found, np.uint8, order="C")}
        tensors = {name: torch.from_numpy(array)[None] for name, array in arrays.items()}
        return {**tensors, **self.facts(region, piece, draw)}

    def facts(self, region: Region, piece: Piece, draw: int) -> dict[str, Any]:
        """All of an item but its voxels."""
        shape = region.study.shape_zyx
        return {
            "box": torch.tensor(box_within(region.study, piece)),
            "place": torch.tensor([at.start + at.stop - count for at, count in zip(piece, shape, strict=True)]),
            **{f"has_{name}": name in region.study.masks for name in BITS},
            "label": region.label,
            "row": region.row,
            "draw": draw,
        }

    def _place(self, study: PreparedStudy, rng: np.random.Generator) -> Piece:
        room = np.asarray(study.shape_zyx) - np.asarray(self.spec.size_zyx)
        reach = np.minimum(np.asarray(self.jitter_zyx), room // 2)
        start = room // 2 + np.round(rng.uniform(-1, 1, 3) * reach).astype(int)
        z, y, x = (slice(int(a), int(a) + n) for a, n in zip(start, self.spec.size_zyx, strict=True))
        return z, y, x


def box_within(study: PreparedStudy, piece: Piece) -> Box:
    """The measured voxels of a crop as half-open ranges within it; empty ranges where nothing was measured."""
    z, y, x = (
        (max(low - at.start, 0), max(min(high, at.stop) - at.start, max(low - at.start, 0)))
        for (low, high), at in zip(study.inside_zyx, piece, strict=True)
    )
    return z, y, x


def holds_tissue(voxels: npt.NDArray[np.int16], box: Box, spec: InputSpec, study: PreparedStudy) -> bool:
    """Whether ``preprocess.normalise`` would accept a crop; most crops are settled by every 8th voxel.

    Args:
        voxels: (D, H, W) int16 as stored.
        box: its measured part.
        spec: with the percentiles to clip at.
        study: whose scale and offset the voxels have.
    """
    measured = voxels[tuple(slice(low, high) for low, high in box)]
    if measured.size == 0:
        return False
    if may_be_sampled(box, spec):
        sample = measured[SAMPLE].ravel()
        low, high = quartiles_at(sample.size)
        ordered = np.partition(sample, (low, high))
        if surely_varies(int(ordered[low]), int(ordered[high]), study):
            return True
    values = measured.astype(np.float32) * np.float32(study.scale) + np.float32(study.offset)
    try:
        normalise(values, np.ones(values.shape, bool), spec)
    except VolumeError:
        return False
    return True


def may_be_sampled(box: Box, spec: InputSpec) -> bool:
    """Whether quartiles of every 8th measured voxel say something about the percentiles clipped at."""
    low, high = spec.clip_percentiles
    count = math.prod(to - start for start, to in box)
    return count >= _FEWEST and low <= _FLATTENED_PERCENT and high >= 100 - _FLATTENED_PERCENT


def quartiles_at(count: int) -> tuple[int, int]:
    """Places in ascending order with at least a quarter of ``count`` values at or below, and at or above."""
    low = (count + 3) // 4 - 1
    return low, count - 1 - low


def surely_varies(low: int, high: int, study: PreparedStudy) -> bool:
    """Whether two quartiles of the sample are far enough apart for any crop that has them to be normalised.

    At least 1/32 of the crop's voxels are at or below ``low`` and as many at or above ``high``, also when clipped, so
    the deviation is at least ``(high - low) / 8``. It is compared with the largest limit ``normalise`` can have here.
    """
    largest = abs(study.scale) * 2**15 + abs(study.offset)
    return (high - low) * abs(study.scale) / 8 > 1e-5 * max(1.0, largest)
