"""A 2D crop is a volume of depth 1: padded or repeated, as the contract says, alike in training and in deployment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_volumes import GEOMETRY, SPEC, WIDE, block, image
from torch.utils.data import default_collate

from prostate_mim.engine.batch import finish_batch
from prostate_mim.engine.data import DrawDataset, Region, crop_of
from prostate_mim.manifest import read_manifest
from prostate_mim.preprocess import mask_on_crop, prepare_crop, prepare_input, preprocess, resample
from prostate_mim.store import prepare_manifest, prepare_study
from prostate_mim.studies import open_all
from prostate_mim.volume import Geometry, Volume

REPEAT = replace(SPEC, single_slice="repeat")
JITTER = (1, 2, 2)

SIZES = st.tuples(st.integers(1, 9), st.integers(4, 30), st.integers(4, 30))
SPACINGS = st.tuples(st.floats(1.0, 6.0), st.floats(0.3, 1.5), st.floats(0.3, 1.5))


@settings(max_examples=60, deadline=None)
@given(SIZES, SPACINGS, st.tuples(st.integers(8, 40), st.integers(8, 40)), st.floats(-0.49, 0.49))
def test_every_slice_is_the_slice(size, spacing, plane, off):
    """At any spacing and place: all slices are equal, all are measured, and equal the one that padding leaves."""
    volume = image((1, *plane), geometry=Geometry(spacing))
    centre = volume.geometry.index_to_position([off, plane[0] / 2, plane[1] / 2])
    padded, repeated = (resample(volume, replace(spec, size_zyx=size), centre) for spec in (SPEC, REPEAT))
    assert (repeated.voxels == repeated.voxels[:1]).all()
    assert (repeated.inside == repeated.inside[:1]).all()
    slices = np.flatnonzero(padded.inside.any((1, 2)))
    assert len(slices) >= 1
    for number in slices:
        assert np.array_equal(repeated.inside[number], padded.inside[number])
        assert repeated.voxels[number] == pytest.approx(padded.voxels[number], abs=2e-3)
    assert np.array_equal(repeated.geometry.origin_mm_lps, padded.geometry.origin_mm_lps)


def test_by_hand():
    """Values 0 and 2, half each: z-scores -1 and 1, in every slice of the crop; with padding in one of four."""
    voxels = np.zeros((1, 16, 16), np.int16)
    voxels[:, :, 8:] = 2
    volume = Volume(voxels, GEOMETRY)
    crop = prepare_crop(volume, REPEAT)
    assert crop.inside.all()
    assert (crop.voxels[:, :, :8] == -1).all()
    assert (crop.voxels[:, :, 8:] == 1).all()
    padded = prepare_crop(volume, SPEC)
    assert padded.inside.any((1, 2)).sum() == 1
    assert np.abs(padded.voxels).sum((1, 2)).astype(bool).sum() == 1


@pytest.mark.parametrize("depth", [2, 5])
def test_more_slices_are_not_repeated(depth):
    """The rule is of single slices: a volume of two is padded under both."""
    volume = image((depth, 20, 20))
    first, second = prepare_crop(volume, SPEC), prepare_crop(volume, REPEAT)
    assert np.array_equal(first.voxels, second.voxels)
    assert np.array_equal(first.inside, second.inside)
    assert second.repeated is None


@pytest.mark.parametrize("spacing", [(3.0, 0.5, 0.5), (4.1, 0.5, 0.5), (1.2, 0.7, 0.5)])
def test_masks_are_repeated_with_the_slice(spacing):
    """What is bright is the mask, in every slice; the control: by place alone the mask is in few slices."""
    voxels = np.zeros((1, 24, 24), np.int16)
    voxels[0, 5:12, 7:15] = 1
    volume = Volume(voxels, Geometry(spacing, (4.0, 4.0, 4.0)))
    crop = resample(volume, replace(REPEAT, size_zyx=(8, 16, 16)))
    found = mask_on_crop(volume, crop)
    assert found.any((1, 2)).all()
    assert (found == found[:1]).all()
    if spacing[1:] == (0.5, 0.5):
        assert np.array_equal(found, crop.voxels > 0.5)
    assert mask_on_crop(volume, replace(crop, repeated=None)).any((1, 2)).sum() < 8


# ------------------------------------------------------------------------------------------- from file to network


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A manifest of three 2D crops of different sizes, with a lesion mask; the last is a whole study."""
    rows = []
    for number, plane in enumerate([(40, 33), (12, 14), (24, 24)]):
        np.save(tmp_path / f"{number}.npy", image((1, *plane), number).voxels)
        lesion = np.zeros((1, *plane), np.uint8)
        lesion[0, 4:9, 3:8] = 1
        np.save(tmp_path / f"{number}_lesion.npy", lesion)
        rows.append(f"{number},{number},{number}.npy,3.0 0.5 0.5,1,{number % 2},{number}_lesion.npy")
    np.save(tmp_path / "whole.npy", image().voxels)
    np.save(tmp_path / "whole_lesion.npy", block((2, 4), (6, 9), (7, 11)).voxels)
    rows.append("w,w,whole.npy,3.0 0.5 0.5,,0,whole_lesion.npy")
    header = "study_id,patient_id,t2w,spacing_mm_zyx,is_crop,label,lesion_mask"
    path = tmp_path / "crops.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    "spec", [SPEC, REPEAT, replace(REPEAT, channels=("t2w", "lesion"))], ids=["pad", "repeat", "masks"]
)
def test_training_and_prediction_see_the_same(crops, tmp_path, spec):
    """Store, memory, the loader's batch and ``prepare_input`` give equal numbers, for every row and both rules."""
    manifest = read_manifest(crops, labels=False)
    z, y, x = (n + 2 * j for n, j in zip(spec.size_zyx, JITTER, strict=True))
    region_spec = spec.with_size((z, y, x))
    stored = prepare_manifest(manifest, region_spec, tmp_path / "store")
    again = prepare_manifest(manifest, region_spec, tmp_path / "store")
    assert (stored.made, again.reused) == (4, 4)
    middle = tuple(slice(j, j + n) for j, n in zip(JITTER, spec.size_zyx, strict=True))
    for study, one in zip(open_all(manifest), stored.rows, strict=True):
        wanted = prepare_input(study.volume, spec, study.centre_mm_lps, study.masks)
        region = Region(one.study, 0, one.row.number)
        assert crop_of(region, spec, middle) == pytest.approx(wanted, abs=2e-6)
        held = prepare_study(study, region_spec)
        assert np.array_equal(crop_of(Region(held, 0, 1), spec, middle), crop_of(region, spec, middle))
        item = DrawDataset([Region(prepare_study(study, spec), 0, 1)], spec, (0, 0, 0), 0)[0]
        batch = finish_batch(default_collate([item]), "cpu", spec, None, 0)
        assert batch["voxels"][0].numpy() == pytest.approx(wanted, abs=2e-6)
        full = bool(batch["inside"].any((1, 3, 4)).all())
        assert full == (spec.single_slice == "repeat" or not one.row.is_crop)


def test_the_rule_is_part_of_an_entry(crops, tmp_path):
    """A store keeps both forms apart; channels make no other entry."""
    manifest = read_manifest(crops)
    assert prepare_manifest(manifest, SPEC, tmp_path).made == 4
    assert prepare_manifest(manifest, SPEC.with_channels("t2w", "lesion"), tmp_path).reused == 4
    assert prepare_manifest(manifest, REPEAT, tmp_path).made == 4
    assert prepare_manifest(manifest, SPEC, tmp_path).reused == 4


def test_jitter_moves_no_slice(crops):
    """Wherever a crop is drawn from the region of a repeated slice, it is full and its slices are equal."""
    study = next(open_all(read_manifest(crops)))
    dataset = DrawDataset([Region(prepare_study(study, REPEAT.with_size((6, 20, 20))), 0, 1)], REPEAT, JITTER, 0)
    for draw in range(12):
        batch = finish_batch(default_collate([dataset[draw]]), "cpu", REPEAT, None, 0)
        assert batch["inside"].all()
        assert torch.equal(batch["voxels"], batch["voxels"][:, :, :1].expand_as(batch["voxels"]))


def test_a_mask_of_a_whole_study_on_its_slice(tmp_path):
    """A crop with a place of its own takes the mask's slice at that place, and repeats it."""
    gland = block((1, 5), (4, 20), (6, 18))
    for slice_number, there in ((3, True), (0, False)):
        x, y, z = GEOMETRY.index_to_position([slice_number, 0, 0])
        volume = image((1, 24, 24), geometry=Geometry(SPEC.spacing_mm_zyx, (float(x), float(y), float(z))))
        crop = resample(volume, REPEAT)
        assert mask_on_crop(gland, crop).any() == there
        assert bool(mask_on_crop(gland, crop).any((1, 2)).all()) == there


def test_preprocess_is_the_first_channel():
    """``preprocess`` gives what ``prepare_input`` gives first."""
    volume = image((1, 20, 20))
    assert np.array_equal(prepare_input(volume, REPEAT)[0], preprocess(volume, REPEAT))
    assert prepare_input(volume, REPEAT).shape == (1, *REPEAT.size_zyx)
    assert WIDE.masks == ("gland", "lesion", "pz", "tz")
