"""Draws in pairs: 2n and 2n + 1 are two crops of one study whose centres lie within a few mm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prostate_mim.engine.data import DrawDataset, Piece, Region, box_within, holds_tissue
from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.errors import VolumeError
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedStudy

_ATTEMPTS = 10


class PairDataset(DrawDataset):
    """As ``DrawDataset``; an epoch is a permutation of studies, each of which gives two draws, one after the other.

    Both crops of a pair derive from the pair's number, and each one's augmentation from its own draw's number; so a
    draw is the same whatever else is read.

    Args:
        regions, spec, jitter_zyx, seed: as for ``DrawDataset``; the jitter is that of the first crop.
        shift_mm: how far from the first crop's centre the second one's may lie, mm.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        spec: InputSpec,
        jitter_zyx: tuple[int, int, int],
        seed: int,
        shift_mm: float,
    ) -> None:
        super().__init__(regions, spec, jitter_zyx, seed)
        self.shift_mm = shift_mm

    def index_of(self, draw: int) -> int:
        """Which of ``regions`` a draw is of."""
        return super().index_of(draw // 2)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """The item of a draw.

        Raises:
            VolumeError: at ten random places of the study one of the two crops held no tissue; names the row.
        """
        region = self.regions[self.index_of(draw)]
        piece = self._pair(region, draw // 2)[draw % 2]
        return self._item(region, piece, np.asarray(region.study.voxels[piece]), draw)

    def first_place(self, draw: int) -> tuple[int, Piece]:
        """Which of ``regions`` a draw is of, and its place. It is settled here, since both crops must hold tissue."""
        index = self.index_of(draw)
        return index, self._pair(self.regions[index], draw // 2)[draw % 2]

    def _pair(self, region: Region, pair: int) -> tuple[Piece, Piece]:
        study, rng = region.study, numpy_generator(self.seed, "pair", pair)
        for _ in range(_ATTEMPTS):
            first = self._place(study, rng)
            pieces = first, self._near(study, first, rng)
            if all(self._fits(study, piece) for piece in pieces):
                return pieces
        raise VolumeError(
            f"row {region.row}: {_ATTEMPTS} random pairs of crops held no tissue; remove the study or check its centre"
        )

    def _near(self, study: PreparedStudy, first: Piece, rng: np.random.Generator) -> Piece:
        """Evenly from the ball around ``first``, rounded towards it, and within the region."""
        direction = rng.normal(size=3)
        length = self.shift_mm * rng.uniform() ** (1 / 3) / np.linalg.norm(direction)
        offset = np.trunc(direction * length / np.asarray(self.spec.spacing_mm_zyx)).astype(int)
        room = np.asarray(study.shape_zyx) - np.asarray(self.spec.size_zyx)
        start = np.clip(np.asarray([axis.start for axis in first]) + offset, 0, room)
        z, y, x = (slice(int(a), int(a) + n) for a, n in zip(start, self.spec.size_zyx, strict=True))
        return z, y, x

    def _fits(self, study: PreparedStudy, piece: Piece) -> bool:
        return holds_tissue(np.asarray(study.voxels[piece]), box_within(study, piece), self.spec, study)
