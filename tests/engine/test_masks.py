"""Gland and lesion masks in training items: they come from the files, follow the voxels and change nothing else."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.data import DrawDataset, Region, draw_loader, make_regions
from prostate_mim.errors import ManifestError, NotFoundError, UsageError, VolumeError
from prostate_mim.manifest import read_manifest
from prostate_mim.preprocess import Crop
from prostate_mim.spec import InputSpec
from prostate_mim.studies import MASKS, Study, open_all
from prostate_mim.volume import Geometry, Volume, read_mask, write_volume

SPEC = InputSpec(size_zyx=(4, 16, 16))
BOTH = frozenset(MASKS)
STILL = Augmentation(jitter_zyx=(4, 16, 16), contrast=0.1, noise=0.0)


# ------------------------------------------------------------------------------------------- draws of made-up regions


def plain_regions(masks: bool = False) -> list[Region]:
    """Five regions of noise, with or without masks; the third has no lesion mask."""
    rng = np.random.default_rng(0)
    regions = []
    for row in range(1, 6):
        voxels = rng.normal(size=(8, 32, 32)).astype(np.float32)
        crop = Crop(voxels, np.ones(voxels.shape, bool), Geometry(SPEC.spacing_mm_zyx))
        known = {"gland": voxels > 0, "lesion": None if row == 3 else voxels > 1} if masks else {}
        regions.append(Region(crop, row % 2, row, known))
    return regions


def outlined_region() -> Region:
    """A lopsided gland, 10 times as bright as the noise around it, so that any crop shows where it is."""
    rng = np.random.default_rng(1)
    gland = np.zeros((8, 32, 32), bool)
    gland[2:7, 6:24, 9:17] = True
    gland[3:5, 20:28, 14:26] = True
    voxels = (10 * gland + rng.uniform(-1, 1, gland.shape)).astype(np.float32)
    return Region(Crop(voxels, np.ones(gland.shape, bool), Geometry(SPEC.spacing_mm_zyx)), -1, 1, {"gland": gland})


def aligned(item: dict, gland: torch.Tensor) -> bool:
    """Is ``gland`` exactly where the item's voxels are bright?"""
    bright = item["voxels"] > (item["voxels"].max() + item["voxels"].min()) / 2
    return torch.equal(bright, gland)


def test_masks_follow_the_voxels():
    """In 40 draws, about half of them mirrored, the gland is exactly where the crop is bright.

    The controls: a mask that is cut but not mirrored is wrong in the mirrored draws; one that is not moved, in most.
    """
    region = outlined_region()
    dataset = DrawDataset([region], SPEC, STILL, seed=0)
    unmirrored = DrawDataset([region], SPEC, replace(STILL, flip_left_right=False), seed=0)
    middle = torch.from_numpy(region.masks["gland"][2:6, 8:24, 8:24])[None]
    wrong = {"cut": 0, "still": 0}
    for draw in range(40):
        item = dataset[draw]
        assert item["gland"].shape == (1, 4, 16, 16)
        assert item["gland"].dtype == torch.bool
        assert item["has_gland"] is True
        assert aligned(item, item["gland"])
        wrong["cut"] += not aligned(item, unmirrored[draw]["gland"])
        wrong["still"] += not aligned(item, middle)
    assert 10 < wrong["cut"] < 30
    assert wrong["still"] > 35


def test_masks_change_nothing_else():
    """With masks, every item holds bit for bit what it holds without, and no key but theirs more."""
    bare, full = (
        DrawDataset(plain_regions(masks), SPEC, Augmentation(jitter_zyx=(4, 16, 16)), seed=0) for masks in (False, True)
    )
    for draw in range(20):
        before, after = bare[draw], full[draw]
        assert set(before) == {"voxels", "inside", "label", "row", "draw"}
        assert set(after) - set(before) == {"gland", "lesion", "has_gland", "has_lesion"}
        for name, value in before.items():
            assert torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]


def test_draws_are_those_of_published_weights():
    """Numbers taken before masks existed. An added random draw moves them (the control: another seed does)."""
    published = {
        0: (5, -1.0525931, -0.0034152, 0.6141672),
        1: (3, -1.2245116, -1.3954057, 0.3432034),
        7: (4, -1.3730407, -0.3766410, 1.7489371),
        1000: (5, -0.9012004, -0.5340848, -0.6915911),
    }
    for seed, same in ((0, True), (1, False)):
        dataset = DrawDataset(plain_regions(masks=True), SPEC, Augmentation(jitter_zyx=(4, 16, 16)), seed=seed)
        for draw, (row, *numbers) in published.items():
            item = dataset[draw]
            voxels = item["voxels"][0]
            found = [float(voxels[at]) for at in ((0, 0, 0), (1, 5, 9), (3, 15, 15))]
            assert (item["row"] == row and found == pytest.approx(numbers, abs=1e-5)) is same


def test_no_mask_is_all_false_and_says_so():
    """A row without a mask has one of nothing but False, so that batches with it can be stacked."""
    dataset = DrawDataset(plain_regions(masks=True), SPEC, Augmentation(), seed=0)
    (batch,) = draw_loader(dataset, 0, 5, 5, 0)
    assert batch["lesion"].shape == (5, 1, 4, 16, 16)
    assert batch["lesion"].dtype == batch["has_lesion"].dtype == torch.bool
    assert batch["has_gland"].all()
    for row, known, lesion in zip(batch["row"], batch["has_lesion"], batch["lesion"], strict=True):
        assert bool(known) == bool(lesion.any()) == (int(row) != 3)


# ----------------------------------------------------------------------------------------------- files of the phantom


@pytest.fixture(scope="module")
def opened(cohort: Path) -> list[Study]:
    """The lesions of the first studies of the phantom cohort."""
    listed = read_manifest(cohort)
    return list(open_all(replace(listed, rows=listed.rows[:5])))


def changed_list(cohort: Path, tmp_path: Path, **cells: str):
    """The first row of the cohort with other cells, as a manifest of its own."""
    with cohort.open(newline="") as stream:
        row = next(csv.DictReader(stream))
    for name in ("t2w", "gland_mask", "lesion_mask"):
        row[name] = str(cohort.parent / row[name])
    row.update(cells)
    path = tmp_path / "list.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, row)
        writer.writeheader()
        writer.writerow(row)
    return read_manifest(path)


def test_phantom_masks_are_where_the_files_say(opened):
    """Every voxel of a region is looked up in the files by its position in the patient, one by one."""
    size = (12, 48, 48)
    for region, study in zip(make_regions(opened, SPEC, size, BOTH), opened, strict=True):
        assert region.crop.voxels.shape == size
        indices = np.argwhere(np.ones(size, bool))
        positions = region.crop.geometry.index_to_position(indices)
        for name, path in (("gland", study.row.gland_mask), ("lesion", study.row.lesion_mask)):
            labels = read_mask(path)
            nearest = np.rint(labels.geometry.position_to_index(positions) - 1e-3).astype(int)
            within = ((nearest >= 0) & (nearest < labels.shape_zyx)).all(1)
            wanted = np.zeros(size, bool)
            wanted[tuple(indices[within].T)] = labels.voxels[tuple(nearest[within].T)] > 0
            wanted &= region.crop.inside
            assert wanted.any()
            np.testing.assert_array_equal(region.masks[name], wanted)
        assert not (region.masks["lesion"] & ~region.masks["gland"]).any()
        assert not np.array_equal(region.masks["gland"], region.masks["gland"][:, :, ::-1])  # control: not symmetrical


def test_a_lesion_lies_where_its_position_is(opened):
    """Beside the middle too, its voxels' centroid is within half a slice of its position; mirrored it is not."""
    aside = [replace(study, centre_mm_lps=tuple(np.add(study.centre_mm_lps, (7.0, -5.0, 4.0)))) for study in opened]
    for region, study in zip(make_regions(aside, SPEC, (20, 96, 96), ["lesion"]), opened, strict=True):
        place = region.crop.geometry.position_to_index(study.row.position_mm_lps)
        for lesion, right in ((region.masks["lesion"], True), (region.masks["lesion"][:, :, ::-1], False)):
            assert bool(np.abs(np.argwhere(lesion).mean(0) - place).max() < 0.67) is right  # 4 mm slices, read at 3 mm


def test_only_what_is_asked_for_is_read(cohort, tmp_path):
    """With a damaged gland file and a lesion file that is gone, regions can be made that need neither."""
    damaged, gone = tmp_path / "Mueller_gland.nii.gz", tmp_path / "Mueller_lesion.nii.gz"
    damaged.write_bytes(b"Mueller, Hans")
    gone.write_bytes(b"")
    listed = changed_list(cohort, tmp_path, gland_mask=str(damaged), lesion_mask=str(gone))
    gone.unlink()
    (study,) = open_all(listed)
    (region,) = make_regions([study], SPEC, (6, 24, 24))
    assert region.masks == {}
    assert set(DrawDataset([region], SPEC, Augmentation(), 0)[0]) == {"voxels", "inside", "label", "row", "draw"}
    for name, error in (
        ("gland", VolumeError),
        ("lesion", NotFoundError),
    ):  # control: read when asked
        with pytest.raises(error) as caught:
            make_regions([study], SPEC, (6, 24, 24), [name])
        assert str(caught.value).startswith(f"{listed.path} row 1 ({name}_mask): ")
        assert "Mueller" not in str(caught.value)


def test_absent_is_absent(cohort, tmp_path):
    """A position is no mask: nothing is drawn around it."""
    (study,) = open_all(changed_list(cohort, tmp_path, gland_mask="", lesion_mask=""))
    assert study.row.position_mm_lps is not None
    (region,) = make_regions([study], SPEC, (6, 24, 24), BOTH)
    assert region.masks == {"gland": None, "lesion": None}
    item = DrawDataset([region], SPEC, Augmentation(), 0)[0]
    assert item["has_gland"] is item["has_lesion"] is False
    assert not item["gland"].any()
    assert not item["lesion"].any()


def test_useless_masks_are_refused(cohort, tmp_path):
    """An empty mask, one of another place, and an unknown name: each names the row or the choices."""
    whole = read_mask(read_manifest(cohort).rows[0].gland_mask)
    x, y, z = whole.geometry.origin_mm_lps
    moved = replace(whole.geometry, origin_mm_lps=(x + 500, y, z))
    empty = Volume(whole.voxels * 0, whole.geometry)
    for found, words in ((empty, "the mask is empty"), (Volume(whole.voxels, moved), "lies within the volume")):
        write_volume(found, path := tmp_path / f"{len(words)}.nii.gz")
        (study,) = open_all(changed_list(cohort, tmp_path, gland_mask=str(path)))
        with pytest.raises(ManifestError, match=rf"row 1 \(gland_mask\): .*{words}"):
            study.read_mask("gland")
    with pytest.raises(UsageError, match="'glnad' is unknown; choose gland or lesion"):
        make_regions([study], SPEC, (6, 24, 24), ["glnad"])


@pytest.mark.parametrize(("shape", "fits"), [((6, 20, 20), True), ((6, 20, 22), False)])
def test_arrays_without_geometry_need_one_shape(tmp_path, shape, fits):
    """Bare arrays say nothing of their place: a mask of another shape cannot be put onto the volume."""
    np.save(tmp_path / "t2w.npy", np.random.default_rng(0).normal(size=(6, 20, 20)))
    gland = np.zeros(shape, np.uint8)
    gland[2:4, 5:12, 3:9] = 1
    np.save(tmp_path / "gland.npy", gland)
    (tmp_path / "list.csv").write_text(
        "study_id,patient_id,t2w,gland_mask,spacing_mm_zyx,is_crop\na,a,t2w.npy,gland.npy,3 0.5 0.5,1\n"
    )
    (study,) = open_all(read_manifest(tmp_path / "list.csv"))
    if not fits:
        with pytest.raises(ManifestError, match=r"row 1 \(gland_mask\): the mask has \(6, 20, 22\) voxels"):
            study.read_mask("gland")
        return
    (region,) = make_regions([study], SPEC, (6, 20, 20), ["gland"])
    np.testing.assert_array_equal(region.masks["gland"], gland > 0)
