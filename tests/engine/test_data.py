"""Draws: random where they must be, repeated where they must be, with the masks of the very voxels they show."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_regions import JITTER, SIZE, SPEC, noise_dataset, region

from prostate_mim.engine.data import SAMPLE, DrawDataset, Region, box_within, holds_tissue, surely_varies
from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.manifest import read_manifest
from prostate_mim.preprocess import normalise
from prostate_mim.spec import InputSpec
from prostate_mim.store import prepare_study
from prostate_mim.studies import Study, open_all
from prostate_mim.volume import read_mask

KEYS = {"voxels", "box", "place", "labels", "has_gland", "has_lesion", "has_pz", "has_tz", "label", "row", "draw"}


def same(one: dict, other: dict) -> bool:
    """Are two items equal, bit for bit?"""
    assert set(one) == set(other)
    return all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


def test_an_item_is_what_the_seam_says():
    """Raw int16 voxels, the box, the labels and four facts; nothing is normalised."""
    item = noise_dataset(masks=True)[7]
    assert set(item) == KEYS
    assert (item["voxels"].shape, item["voxels"].dtype) == ((1, 4, 16, 16), torch.int16)
    assert (item["labels"].shape, item["labels"].dtype) == ((1, 4, 16, 16), torch.uint8)
    assert item["box"].tolist() == [[0, 4], [0, 16], [0, 16]]
    assert item["draw"] == 7
    assert item["place"].dtype == torch.int64
    assert 250 < item["voxels"].float().mean() < 350


def test_a_place_is_counted_from_the_middle_of_the_region():
    """Twice the way between the middles, in voxels: the first voxel's index says the same."""
    at = np.arange(8 * 32 * 32).reshape(SIZE)
    dataset = DrawDataset([region(at)], SPEC, JITTER, 0)
    items = [dataset[draw] for draw in range(6)]
    for item in items:
        start = np.unravel_index(int(item["voxels"][0, 0, 0, 0]), SIZE)
        wanted = [2 * a + n - whole for a, n, whole in zip(start, SPEC.size_zyx, SIZE, strict=True)]
        assert item["place"].tolist() == wanted
    assert len({tuple(item["place"].tolist()) for item in items}) == 6
    middle = DrawDataset([region(at)], SPEC, (0, 0, 0), 0)[0]
    assert middle["place"].tolist() == [0, 0, 0]


def test_draws_differ_and_repeat():
    """No two draws of two epochs show the same crop; the same number always does; an epoch holds every row once."""
    dataset = noise_dataset()
    items = [dataset[draw] for draw in range(10)]
    crops = [item["voxels"] for item in items]
    assert all(not torch.equal(a, b) for i, a in enumerate(crops) for b in crops[:i])
    again = noise_dataset()
    assert all(same(items[draw], again[draw]) for draw in reversed(range(10)))
    assert sorted(item["row"] for item in items[:5]) == sorted(item["row"] for item in items[5:]) == [1, 2, 3, 4, 5]
    assert not all(same(items[draw], noise_dataset(seed=1)[draw]) for draw in range(10))


def test_places_are_those_of_published_runs():
    """Rows and corners of the crops as they were drawn before crops came from a store; another seed draws others."""
    published = {0: (5, (2, 14, 10)), 1: (3, (1, 1, 1)), 7: (4, (2, 15, 12)), 1000: (5, (0, 2, 6))}
    at = np.arange(8 * 32 * 32).reshape(SIZE)
    for seed, expected in ((0, True), (1, False)):
        dataset = DrawDataset([region(at, row) for row in range(1, 6)], SPEC, JITTER, seed)
        found = {}
        for draw in published:
            item = dataset[draw]
            found[draw] = (item["row"], tuple(int(n) for n in np.unravel_index(int(item["voxels"][0, 0, 0, 0]), SIZE)))
        assert (found == published) is expected, found


def test_rows_are_known_without_reading():
    """``rows_of`` names the rows the items name."""
    dataset = noise_dataset()
    draws = [0, 3, 4, 11, 12, 1000]
    assert dataset.rows_of(draws) == [dataset[draw]["row"] for draw in draws]


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.tuples(st.integers(0, n), st.integers(0, n)) for n in SIZE]), st.integers(0, 10_000))
def test_the_box_is_the_measured_part(ends, draw):
    """For any measured box, a crop's box marks exactly the voxels that the study says were measured."""
    box = tuple((min(pair), max(pair)) for pair in ends)
    made = region(np.arange(8 * 32 * 32).reshape(SIZE) % 997, box=box)
    _, piece = DrawDataset([made], SPEC, JITTER, 0).first_place(draw)
    marked = np.zeros(SPEC.size_zyx, bool)
    marked[tuple(slice(low, high) for low, high in box_within(made.study, piece))] = True
    np.testing.assert_array_equal(marked, made.study.inside(piece))


def test_a_crop_without_tissue_is_moved():
    """Of a region half of which is padding every item shows measured voxels, and its box says which."""
    voxels = np.random.default_rng(0).normal(300, 100, (8, 64, 64))
    made = region(voxels, box=((0, 8), (0, 64), (0, 24)))
    dataset = DrawDataset([made], SPEC, (4, 32, 32), 0)
    pieces = [dataset.first_place(draw)[1] for draw in range(60)]
    assert any(piece[2].start >= 24 for piece in pieces)  # control: some first places hold padding alone
    for draw in range(60):
        low, high = dataset[draw]["box"][2].tolist()
        assert 0 == low < high


@pytest.mark.parametrize("voxels", [np.zeros(SIZE), np.full(SIZE, 700)])
def test_a_study_without_tissue_is_refused(voxels):
    """After ten places of one value the row is named, and only the row."""
    with pytest.raises(VolumeError, match=r"^row 4: 10 random crops held no tissue"):
        DrawDataset([region(voxels, 4)], SPEC, JITTER, 0)[0]
    nowhere = region(np.random.default_rng(0).normal(0, 100, SIZE), 4, box=((0, 8), (0, 0), (0, 32)))
    with pytest.raises(VolumeError, match="row 4"):
        DrawDataset([nowhere], SPEC, JITTER, 0)[0]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([(1, 1, 5), (4, 16, 16), (8, 32, 32)]),
    share=st.sampled_from([0.0, 0.001, 0.004, 0.02, 0.04, 0.3]),
    height=st.sampled_from([1, 7, 3000]),
    clip=st.sampled_from([(0.5, 99.5), (0.0, 100.0), (3.0, 97.0), (40.0, 60.0)]),
    units=st.sampled_from([(1.0, 0.0), (1e-9, 5.0), (0.003, 1e6), (1e-4, -3.0)]),
)
def test_tissue_is_what_normalise_accepts(seed, size, share, height, clip, units):
    """The shortcut never changes the answer: ``holds_tissue`` says yes exactly where ``normalise`` does not refuse."""
    rng = np.random.default_rng(seed)
    voxels = np.where(rng.random(size) < share, height, 0).astype(np.int16)
    scale, offset = units
    study = region(voxels, scale=scale, offset=offset).study
    spec = InputSpec(size_zyx=size, clip_percentiles=clip)
    try:
        normalise(study.intensities(), np.ones(size, bool), spec)
        accepted = True
    except VolumeError:
        accepted = False
    assert holds_tissue(voxels, tuple((0, n) for n in size), spec, study) is accepted


def test_the_shortcut_is_taken_by_tissue():
    """Every 8th voxel settles a crop of noise; two values that differ in one voxel of a thousand need all of them."""
    study = region(np.random.default_rng(0).normal(300, 100, SIZE)).study
    sample = np.sort(study.voxels[SAMPLE].ravel())
    assert surely_varies(int(sample[len(sample) // 4]), int(sample[-len(sample) // 4]), study)
    assert not surely_varies(5, 5, study)


def test_small_regions_and_empty_lists_are_refused():
    """A region smaller than the crop names its row and both sizes."""
    with pytest.raises(UsageError, match=r"row 3: its stored region of \(8, 32, 12\).*crop \(4, 16, 16\)"):
        DrawDataset([region(np.zeros((8, 32, 12)), 3)], SPEC, JITTER, 0)
    with pytest.raises(UsageError, match="no study"):
        DrawDataset([], SPEC, JITTER, 0)


# --------------------------------------------------------------------------------------------------------- masks


def test_masks_are_cut_where_the_voxels_are():
    """In 40 draws the gland is exactly where the crop is bright. The control: one that is not moved is mostly wrong."""
    gland = np.zeros(SIZE, bool)
    gland[2:7, 6:24, 9:17] = True
    gland[3:5, 20:28, 14:26] = True
    dataset = DrawDataset(
        [region(1000 * gland + np.random.default_rng(1).integers(-90, 90, SIZE), gland=gland)], SPEC, JITTER, seed=0
    )
    middle = torch.from_numpy(gland[2:6, 8:24, 8:24])[None]
    still = 0
    for draw in range(40):
        item = dataset[draw]
        assert item["has_gland"] is True
        assert item["has_lesion"] is False
        assert torch.equal(item["voxels"] > 500, item["labels"] == 1)
        still += torch.equal(item["voxels"] > 500, middle)
    assert still < 5


def test_masks_change_nothing_else():
    """With masks, an item holds bit for bit the voxels, the box and the facts it holds without."""
    bare, full = noise_dataset(), noise_dataset(masks=True)
    for draw in range(20):
        before, after = bare[draw], full[draw]
        for name in KEYS - {"labels", "has_gland", "has_lesion", "has_pz", "has_tz"}:
            assert torch.equal(torch.as_tensor(before[name]), torch.as_tensor(after[name]))
        assert not before["labels"].any()
        assert before["has_gland"] is before["has_lesion"] is False
        assert after["has_lesion"] is (after["row"] != 3)


@pytest.fixture(scope="module")
def opened(cohort: Path) -> list[Study]:
    """The lesions of the first studies of the phantom cohort."""
    listed = read_manifest(cohort)
    return list(open_all(replace(listed, rows=listed.rows[:3])))


def test_phantom_masks_are_where_the_files_say(opened):
    """Every voxel of drawn crops is looked up in the files by its position in the patient, one by one."""
    spec = InputSpec(size_zyx=(6, 32, 32))
    regions = [Region(prepare_study(study, spec.with_size((12, 48, 48))), -1, study.row.number) for study in opened]
    dataset = DrawDataset(regions, spec, (3, 8, 8), 0)
    for draw in range(6):
        index, piece = dataset.first_place(draw)
        item, study, made = dataset[draw], opened[index], regions[index].study
        assert item["row"] == study.row.number
        indices = np.argwhere(np.ones(spec.size_zyx, bool))
        positions = made.geometry.index_to_position(indices + [part.start for part in piece])
        for bit, path in ((1, study.row.gland_mask), (2, study.row.lesion_mask)):
            labels = read_mask(path)
            nearest = np.rint(labels.geometry.position_to_index(positions) - 1e-3).astype(int)
            within = ((nearest >= 0) & (nearest < labels.shape_zyx)).all(1)
            wanted = np.zeros(spec.size_zyx, bool)
            wanted[tuple(indices[within].T)] = labels.voxels[tuple(nearest[within].T)] > 0
            wanted &= made.inside(piece)
            np.testing.assert_array_equal((item["labels"][0].numpy() & bit) > 0, wanted)


def test_a_lesion_lies_where_its_position_is(opened):
    """Beside the middle too, its voxels' centroid is within half a slice of its position; mirrored it is not."""
    spec = InputSpec(size_zyx=(20, 96, 96))
    for study in opened:
        aside = replace(study, centre_mm_lps=tuple(np.add(study.centre_mm_lps, (7.0, -5.0, 4.0))))
        made = prepare_study(aside, spec)
        item = DrawDataset([Region(made, 1, study.row.number)], spec, (0, 0, 0), 0)[0]
        lesion = (item["labels"][0].numpy() & 2) > 0
        place = made.geometry.position_to_index(study.row.position_mm_lps)
        for found, right in ((lesion, True), (lesion[:, :, ::-1], False)):
            assert bool(np.abs(np.argwhere(found).mean(0) - place).max() < 0.67) is right  # 4 mm slices, read at 3 mm


def test_absent_is_absent(cohort, tmp_path):
    """A position is no mask: nothing is drawn around it."""
    with cohort.open(newline="") as stream:
        row = next(csv.DictReader(stream))
    row["t2w"] = str(cohort.parent / row["t2w"])
    row["gland_mask"] = row["lesion_mask"] = row["zone_mask"] = ""
    path = tmp_path / "list.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, row)
        writer.writeheader()
        writer.writerow(row)
    (study,) = open_all(read_manifest(path))
    assert study.row.position_mm_lps is not None
    spec = InputSpec(size_zyx=(6, 24, 24))
    item = DrawDataset([Region(prepare_study(study, spec), -1, 1)], spec, (0, 0, 0), 0)[0]
    assert not any(item[f"has_{name}"] for name in ("gland", "lesion", "pz", "tz"))
    assert not item["labels"].any()
