"""Masks as further channels: the same numbers in a training batch, in torch, in ONNX Runtime and from a manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_volumes import GEOMETRY, SHAPE, SPEC, WIDE, all_masks, block, image, write_rows, write_study, zone_labels
from torch.utils.data import default_collate

from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.batch import finish_batch
from prostate_mim.engine.data import DrawDataset, Region
from prostate_mim.engine.loader import DrawLoader
from prostate_mim.engine.slots import Slots
from prostate_mim.errors import IntegrityError, ManifestError, UsageError, VolumeError
from prostate_mim.manifest import read_manifest
from prostate_mim.preprocess import mask_on_grid, prepare_crop, prepare_input
from prostate_mim.spec import CHANNELS, InputSpec
from prostate_mim.store import BITS, PreparedStudy, prepare_study
from prostate_mim.studies import MASKS, open_all, open_study, split_zones
from prostate_mim.volume import Volume

ORDERS = st.lists(st.sampled_from(CHANNELS[1:]), unique=True).map(lambda masks: ("t2w", *masks))


def region_of(folder: Path, spec: InputSpec, size: tuple[int, int, int] | None = None, **cells: str) -> Region:
    """A written, opened and prepared study with every mask."""
    (study,) = open_all(read_manifest(write_rows(folder / "m.csv", write_study(folder, **cells))))
    return Region(prepare_study(study, spec if size is None else spec.with_size(size)), 1, 1)


def batch_of(dataset: DrawDataset, draws: list[int], spec: InputSpec, augmentation: Augmentation | None = None):
    """A finished batch on the CPU."""
    return finish_batch(default_collate([dataset[draw] for draw in draws]), "cpu", spec, augmentation, 0)


# --------------------------------------------------------------------------------------------------- prepare_input


@settings(max_examples=30, deadline=None)
@given(ORDERS)
def test_channels_come_in_the_order_of_the_contract(channels):
    """The image first, then each mask where the file has it; nothing else is looked at."""
    spec = SPEC.with_channels(*channels)
    found = prepare_input(image(), spec, masks=all_masks())
    crop = prepare_crop(image(), SPEC)
    assert found.dtype == np.float32
    assert np.array_equal(found[0], crop.voxels)
    assert len(found) == len(channels)
    for name, channel in zip(spec.masks, found[1:], strict=True):
        assert np.array_equal(channel, mask_on_grid(all_masks()[name], crop.geometry, SPEC.size_zyx))


def test_padding_is_0_in_every_channel():
    """A mask that is 1 everywhere ends where the study ends."""
    spec = SPEC.with_size((10, 40, 40)).with_channels("t2w", "gland")
    full = Volume(np.ones((20, 60, 60), np.uint8), dataclasses.replace(GEOMETRY, origin_mm_lps=(-10.0, -4.0, 2.0)))
    voxels, gland = prepare_input(image(), spec, masks={"gland": full})
    inside = prepare_crop(image(), spec).inside
    assert np.array_equal(gland > 0, inside)
    assert 0 < inside.sum() < inside.size
    assert not voxels[~inside].any()


@pytest.mark.parametrize("name", MASKS)
def test_a_missing_mask_is_refused_by_name(name):
    """Whichever is missing is named; the control: with it there is no refusal."""
    masks = all_masks()
    prepare_input(image(), WIDE, masks=masks)
    del masks[name]
    with pytest.raises(VolumeError, match=f"{name} mask is missing"):
        prepare_input(image(), WIDE, masks=masks)
    with pytest.raises(VolumeError, match="gland mask is missing"):
        prepare_input(image(), WIDE)
    assert prepare_input(image(), SPEC).shape == (1, *SPEC.size_zyx)


def test_a_mask_of_another_place_is_refused():
    """A metre off, or empty; but one of the zones may be empty, for a crop may show only the other."""
    off = dataclasses.replace(GEOMETRY, origin_mm_lps=(1000.0, 0.0, 0.0))
    for name in MASKS:
        with pytest.raises(VolumeError, match=f"{name} mask is empty, or nothing"):
            prepare_input(image(), WIDE, masks={**all_masks(), name: Volume(all_masks()[name].voxels, off)})
    empty = Volume(np.zeros(SHAPE, np.uint8), GEOMETRY)
    for name in ("gland", "lesion"):
        with pytest.raises(VolumeError, match=f"{name} mask is empty"):
            prepare_input(image(), WIDE, masks={**all_masks(), name: empty})
    assert not prepare_input(image(), SPEC.with_channels("t2w", "pz"), masks={"pz": empty})[1].any()


def test_zones_are_split_by_label():
    """1 is the peripheral zone, 2 the transition zone."""
    zones = split_zones(zone_labels())
    for name, label in (("pz", 1), ("tz", 2)):
        assert np.array_equal(zones[name].voxels > 0, zone_labels().voxels == label)


# ------------------------------------------------------------------------------------------------- manifest, store


def test_a_row_gives_every_mask(tmp_path):
    """Four masks out of three files, stored as bits, each where the file has it."""
    (study,) = open_all(read_manifest(write_rows(tmp_path / "m.csv", write_study(tmp_path, position_mm_lps="3 11 27"))))
    assert set(study.masks) == set(MASKS) == set(BITS)
    prepared = prepare_study(study, SPEC)
    assert prepared.masks == set(MASKS)
    assert list(BITS.values()) == [1, 2, 4, 8]
    crop = prepare_crop(study.volume, SPEC, study.centre_mm_lps)
    for name, mask in all_masks().items():
        wanted = mask_on_grid(mask, crop.geometry, SPEC.size_zyx) & crop.inside
        assert wanted.any()
        assert np.array_equal(prepared.mask(name), wanted)
        assert np.array_equal(study.mask_on(crop, name), wanted)
    assert not np.array_equal(prepared.mask("pz"), prepared.mask("tz"))  # the control


def test_strange_zones_are_refused(tmp_path):
    """A label that is no zone is named; PI-CAI's and the phantom's are 1 and 2."""
    from prostate_mim.volume import write_volume

    row = write_study(tmp_path)
    write_volume(block((1, 5), (4, 20), (6, 18), value=3), tmp_path / "a_zones.nii.gz")
    manifest = read_manifest(write_rows(tmp_path / "m.csv", row))
    with pytest.raises(ManifestError, match=r"row 1 \(zone_mask\): holds the label 3, expected 1"):
        open_study(manifest, manifest.rows[0])
    assert "zone" not in open_study(manifest, manifest.rows[0], masks=("gland",)).masks


def test_masks_of_a_shared_volume_are_read_once_and_stay(tmp_path):
    """Two lesions of one study: the zones of the second row are those of the first, and so is their note."""
    first = write_study(tmp_path)
    one, two = ({**first, "lesion_id": name, "position_mm_lps": "3 11 27"} for name in ("1", "2"))
    lines = [",".join(one), *(",".join(row.values()) for row in (one, two))]
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines) + "\n")
    studies = list(open_all(read_manifest(path)))
    assert all(studies[0].masks[name] is studies[1].masks[name] for name in MASKS)
    assert studies[0].notes == studies[1].notes


# ----------------------------------------------------------------------------------------------- training batches


@settings(max_examples=20, deadline=None)
@given(ORDERS)
def test_a_batch_has_the_channels(tmp_path_factory, channels):
    """A batch of the middle crop is what ``prepare_input`` gives, channel by channel."""
    spec = SPEC.with_channels(*channels)
    folder = tmp_path_factory.mktemp("study")
    (study,) = open_all(read_manifest(write_rows(folder / "m.csv", write_study(folder))))
    dataset = DrawDataset([Region(prepare_study(study, SPEC), 1, 1)], spec, (0, 0, 0), 0)
    wanted = prepare_input(study.volume, spec, study.centre_mm_lps, study.masks)
    assert batch_of(dataset, [0], spec)["voxels"][0].numpy() == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize("name", MASKS)
def test_a_study_without_the_mask_is_refused_before_training(tmp_path, name):
    """By row and by mask; without that channel it is welcome."""
    column = "zone_mask" if name in ("pz", "tz") else f"{name}_mask"
    region = region_of(tmp_path, SPEC, **{column: ""})
    with pytest.raises(UsageError, match=f"row 1: the {name} mask is missing.*{column}"):
        DrawDataset([region], SPEC.with_channels("t2w", name), (0, 0, 0), 0)
    others = [other for other in MASKS if other != name and not (column == "zone_mask" and other in ("pz", "tz"))]
    assert len(DrawDataset([region], SPEC.with_channels("t2w", *others), (0, 0, 0), 0)) == 1


STRONG = Augmentation()


def test_masks_go_where_the_voxels_go():
    """Random flips, turns and scales: a channel that marks the bright part still marks it in every draw.

    The control: marks that stay where they were are wrong somewhere.
    """
    size = (8, 48, 48)
    bright = np.zeros(size, bool)
    bright[2:6, 8:30, 10:20] = True
    voxels = np.where(bright, 1000, 0) + np.random.default_rng(0).integers(0, 20, size)
    labels = np.where(bright, BITS["gland"] | BITS["pz"], BITS["tz"]).astype(np.uint8)
    study = PreparedStudy(
        voxels.astype(np.int16),
        1.0,
        0.0,
        tuple((0, n) for n in size),
        labels,
        frozenset(("gland", "pz", "tz")),
        GEOMETRY,
    )
    spec = InputSpec(size_zyx=size, channels=("t2w", "tz", "gland", "pz"))
    dataset = DrawDataset([Region(study, 1, 1)], spec, (0, 0, 0), 0)
    still = []
    for draw in range(24):
        batch = batch_of(dataset, [draw], spec, STRONG)
        found, tz, gland, pz = batch["voxels"][0]
        assert torch.equal(gland, pz)
        inside = batch["inside"][0, 0]
        assert not (tz + gland)[~inside].any()
        assert torch.equal((tz + gland)[inside], torch.ones(int(inside.sum())))
        threshold = (found[gland > 0].median() + found[(tz > 0) & inside].median()) / 2
        agree = ((found > threshold) == (gland > 0))[inside].float().mean()
        assert agree > 0.97
        still.append(float(((found > threshold) == torch.from_numpy(bright))[inside].float().mean()))
    assert min(still) < 0.9


def test_workers_bring_the_channels(tmp_path):
    """Through shared memory of worker processes, raw and finished, as without workers."""
    spec = SPEC.with_channels("t2w", "lesion", "tz")
    dataset = DrawDataset([region_of(tmp_path, spec, (6, 20, 20))], spec, (1, 2, 2), 0)

    def batches(workers: int) -> list[torch.Tensor]:
        loader = DrawLoader(dataset, first_step=0, last_step=3, batch=2, workers=workers)
        return [finish_batch(items, "cpu", spec, Augmentation(), 0)["voxels"] for items in loader]

    for alone, helped in zip(batches(0), batches(1), strict=True):
        assert alone.shape == (2, 3, *SPEC.size_zyx)
        assert torch.equal(alone, helped)


def test_slots_carry_every_flag(tmp_path):
    """What an item knows of its masks arrives whole."""
    dataset = DrawDataset([region_of(tmp_path, SPEC, zone_mask="")], SPEC, (0, 0, 0), 0)
    slots = Slots(1, 1, SPEC.size_zyx, 1)
    slots.put(0, 0, dataset[0])
    taken = slots.take(0, pinned=False)
    assert {name: bool(taken[f"has_{name}"]) for name in MASKS} == {
        "gland": True, "lesion": True, "pz": False, "tz": False
    }  # fmt: skip
    assert int(taken["row"]) == 1


def test_unknown_channels_are_refused():
    """Only what the contract knows."""
    with pytest.raises(IntegrityError, match="channels"):
        SPEC.with_channels("t2w", "adc")
