"""Draws in pairs: of one study, near each other, the same whoever reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

from prostate_mim.contrastive import PairDataset, strong_augmentation
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.batch import finish_batch
from prostate_mim.engine.data import Region
from prostate_mim.engine.resident import ResidentRegions
from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedStudy
from prostate_mim.volume import Geometry

SPEC = InputSpec(size_zyx=(4, 16, 16))
SIZE = (10, 48, 48)


def region(row: int, flat: bool = False) -> Region:
    """Noise, all of it measured; or nothing but one value."""
    noise = np.random.default_rng(row).normal(300, 100, SIZE)
    voxels = np.full(SIZE, 7) if flat else noise
    box = ((0, SIZE[0]), (0, SIZE[1]), (0, SIZE[2]))
    study = PreparedStudy(
        voxels.astype(np.int16), 1.0, 0.0, box, None, frozenset(), Geometry(SPEC.spacing_mm_zyx)
    )  # fmt: skip
    return Region(study, -1, row)


def pairs(shift_mm: float = 6.0, seed: int = 0, jitter: tuple[int, int, int] = (3, 12, 12)) -> PairDataset:
    return PairDataset([region(row) for row in range(1, 6)], SPEC, jitter, seed, shift_mm)


def centres_mm(dataset: PairDataset, pair: int) -> np.ndarray:
    """(2, 3): centres of a pair's crops within its region, mm (z, y, x)."""
    pieces = [dataset.first_place(draw)[1] for draw in (2 * pair, 2 * pair + 1)]
    return np.multiply([[(axis.start + axis.stop) / 2 for axis in piece] for piece in pieces], SPEC.spacing_mm_zyx)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**6), st.floats(0, 20), st.integers(0, 9))
def test_centres_are_near(pair: int, shift_mm: float, seed: int) -> None:
    """Never farther apart than asked, whatever the pair, also at the border of the region."""
    first, second = centres_mm(pairs(shift_mm, seed), pair)
    assert np.linalg.norm(first - second) <= shift_mm + 1e-9


def test_centres_wander_as_far_as_they_may() -> None:
    """Controls: all of the ball is used, pairs differ, and a shift of 0 gives one place."""
    apart = [np.linalg.norm(np.subtract(*centres_mm(pairs(), pair))) for pair in range(200)]
    assert max(apart) > 5 and min(apart) < 2 and np.median(apart) > 3
    assert len({tuple(centres_mm(pairs(), pair)[0]) for pair in range(50)}) > 40
    assert all(np.array_equal(*centres_mm(pairs(0.0), pair)) for pair in range(20))


def test_two_views_of_one_study_an_epoch() -> None:
    """Draws 2n and 2n + 1 are of one row; every row comes once in an epoch of pairs."""
    rows = pairs().rows_of(range(40))
    assert rows[0::2] == rows[1::2]
    for epoch in range(4):
        assert sorted(rows[10 * epoch : 10 * epoch + 10 : 2]) == [1, 2, 3, 4, 5]
    assert rows[:10] != rows[10:20]


def test_a_draw_is_the_same_whatever_is_read_before() -> None:
    """Backwards, alone, and by another reader; another seed is another draw."""
    forwards = [pairs()[draw]["voxels"] for draw in range(8)]
    reader = pairs()
    for draw in reversed(range(8)):
        assert torch.equal(reader[draw]["voxels"], forwards[draw])
    assert not torch.equal(pairs(seed=1)[0]["voxels"], forwards[0])
    assert not torch.equal(forwards[0], forwards[1])


def test_resident_crops_are_the_same() -> None:
    """As an accelerator cuts them: voxel for voxel."""
    dataset, draws = pairs(), list(range(12))
    found, expected = ResidentRegions(dataset, torch.device("cpu")).items(draws), [dataset[draw] for draw in draws]
    for name, value in default_collate(expected).items():
        assert torch.equal(found[name], value), name


def test_views_are_augmented_by_themselves() -> None:
    """At one place, two views differ by their augmentation alone; without it they are one."""
    items = default_collate([pairs(0.0)[draw] for draw in (0, 1)])
    plain = finish_batch(items, "cpu", SPEC, Augmentation.none(), 0)["voxels"]
    assert torch.equal(plain[0], plain[1])
    varied = finish_batch(items, "cpu", SPEC, strong_augmentation(), 0)["voxels"]
    assert not torch.allclose(varied[0], varied[1], atol=0.1)


def test_stronger_than_for_masked_modelling() -> None:
    """Every chance and every amount is at least the usual one, and most are more."""
    strong, usual = vars(strong_augmentation()), vars(Augmentation())
    assert all(strong[name] >= value for name, value in usual.items())
    assert sum(strong[name] > value for name, value in usual.items()) > len(usual) / 2


def test_no_tissue_is_refused_by_row() -> None:
    """Each view needs tissue; the row is named."""
    dataset = PairDataset([region(1), region(2, flat=True)], SPEC, (3, 12, 12), 0, 6.0)
    empty = next(draw for draw in range(4) if dataset.rows_of([draw]) == [2])
    for draw in (empty, empty + 1):
        with pytest.raises(VolumeError, match="row 2: 10 random pairs of crops held no tissue"):
            dataset[draw]
        with pytest.raises(VolumeError, match="row 2"):
            dataset.first_place(draw)


def test_nothing_to_draw_from() -> None:
    with pytest.raises(UsageError, match="no study"):
        PairDataset([], SPEC, (0, 0, 0), 0, 6.0)
