"""Batches on the device: the very preprocessing of prediction, sample by sample, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_regions import SPEC, noise_dataset, region
from torch.utils.data import default_collate

from prostate_mim.engine import batch as module
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.batch import finish_batch, normalise_batch
from prostate_mim.engine.data import DrawDataset
from prostate_mim.errors import VolumeError
from prostate_mim.preprocess import normalise
from prostate_mim.spec import InputSpec

ALWAYS = Augmentation(**{name: 1.0 for name in Augmentation.__dataclass_fields__ if name.endswith("_chance")})


def largest_difference(voxels: np.ndarray, inside: np.ndarray, spec: InputSpec) -> float:
    """Between a batch and ``preprocess.normalise`` of each of its samples."""
    found = normalise_batch(torch.from_numpy(voxels)[:, None], torch.from_numpy(inside)[:, None], spec)
    assert found.dtype == torch.float32
    assert not found[:, 0].numpy()[~inside].any()
    wanted = [normalise(v.astype(np.float32), i, spec) for v, i in zip(voxels, inside, strict=True)]
    return float(np.abs(found[:, 0].numpy() - np.stack(wanted)).max())


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([(1, 2, 3), (3, 8, 8), (4, 16, 16)]),
    middle=st.sampled_from([-32000, -500, 0, 300, 32000]),
    spread=st.sampled_from([1, 30, 700, 20000]),
    clip=st.sampled_from([(0.5, 99.5), (0.0, 100.0), (1.0, 100.0), (25.0, 75.0)]),
)
def test_batches_are_normalised_as_studies_are(seed, size, middle, spread, clip):
    """Percentiles, z-score and padding equal ``preprocess.normalise`` to 1e-5 for any box, range and clip."""
    rng = np.random.default_rng(seed)
    voxels = np.clip(rng.normal(middle, spread, (3, *size)), -32768, 32767).astype(np.int16)
    voxels[:, 0, 0, :2] = np.clip(middle, -32000, 32000), np.clip(middle, -32000, 32000) + 500
    inside = np.zeros(voxels.shape, bool)
    for box in inside:
        box[tuple(slice(0, int(rng.integers(max(1, n // 2), n + 1))) for n in size)] = True
    inside[:, 0, 0, :2] = True
    voxels[~inside] = rng.integers(-32768, 32767)  # whatever is stored in padding counts for nothing
    spec = InputSpec(size_zyx=size, clip_percentiles=clip)
    try:
        difference = largest_difference(voxels, inside, spec)
    except VolumeError as error:  # a sample that normalise refuses is never handed out
        assert "constant" in str(error)
        return
    assert difference < 1e-5


@pytest.mark.parametrize("change", ["padding counts", "nearest percentile", "no clipping"])
def test_a_wrong_normalisation_is_noticed(monkeypatch, change):
    """The controls: statistics that include padding, percentiles without interpolation, and no clip are all seen."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(300, 100, (2, 4, 6, 7)).astype(np.int16)
    inside = np.zeros(voxels.shape, bool)
    inside[:, :3] = True
    voxels[~inside] = 0
    assert largest_difference(voxels, inside, SPEC) < 1e-5
    count, percentile = module._count_values, module._percentile
    if change == "padding counts":
        monkeypatch.setattr(module, "_count_values", lambda v, i: count(v, torch.ones_like(i)))
    elif change == "nearest percentile":
        monkeypatch.setattr(module, "_percentile", lambda below, percent: percentile(below, percent).round())
    else:
        monkeypatch.setattr(module, "_percentile", lambda below, percent: percentile(below, 100 * (percent > 50)))
    assert largest_difference(voxels, inside, SPEC) > 1e-3


def test_scale_and_offset_do_not_matter():
    """Stored integers and the intensities they stand for have the same z-scores."""
    study = region(np.random.default_rng(0).integers(-900, 900, (4, 16, 16)), scale=0.37, offset=1234.5).study
    inside = np.ones((4, 16, 16), bool)
    wanted = normalise(study.intensities(), inside, SPEC)
    stored = torch.from_numpy(np.array(study.voxels))[None, None]
    found = normalise_batch(stored, torch.from_numpy(inside)[None, None], SPEC)
    assert np.abs(found[0, 0].numpy() - wanted).max() < 1e-5


def test_the_count_on_other_devices_is_the_same(monkeypatch):
    """Devices other than the CPU count all 65,536 values, so as not to wait for the range: the same numbers."""
    voxels = torch.from_numpy(np.random.default_rng(0).integers(-300, 2000, (2, 1, 4, 8, 8)).astype(np.int16))
    inside = torch.rand(voxels.shape) < 0.8
    wanted = normalise_batch(voxels, inside, SPEC)
    monkeypatch.setattr(module, "_count_values", lambda v, i: (module._count_on_device(v, i), -(2**15)))
    assert torch.allclose(normalise_batch(voxels, inside, SPEC), wanted, rtol=0, atol=1e-6)


def test_a_batch_is_what_the_seam_says():
    """Keys, shapes and types; padding 0; masks within their bits; facts kept."""
    voxels = np.random.default_rng(0).normal(300, 100, (4, 16, 16))
    gland, lesion = voxels > 350, voxels > 450
    made = region(voxels, 9, box=((1, 4), (0, 16), (0, 16)), gland=gland, lesion=lesion, label=1)
    items = default_collate([DrawDataset([made], SPEC, (0, 0, 0), 0)[draw] for draw in (0, 1)])
    found = finish_batch(items, "cpu", SPEC, None, 0)
    assert {key: (tuple(value.shape), value.dtype) for key, value in found.items()} == {
        "voxels": ((2, 1, 4, 16, 16), torch.float32),
        **{name: ((2, 1, 4, 16, 16), torch.bool) for name in ("inside", "gland", "lesion", "pz", "tz")},
        **{name: ((2,), torch.bool) for name in ("has_gland", "has_lesion", "has_pz", "has_tz")},
        **{name: ((2,), torch.int64) for name in ("label", "row", "draw")},
        "box": ((2, 3, 2), torch.int64),
        "place": ((2, 3), torch.int64),
    }
    assert torch.equal(found["gland"][0, 0], torch.from_numpy(gland))
    assert torch.equal(found["lesion"][1, 0], torch.from_numpy(lesion))
    assert not found["inside"][:, :, 0].any()
    assert found["inside"][:, :, 1:].all()
    assert not found["voxels"][:, :, 0].any()
    assert (found["label"].tolist(), found["row"].tolist(), found["draw"].tolist()) == ([1, 1], [9, 9], [0, 1])
    still = finish_batch(items, "cpu", SPEC, Augmentation.none(), 0)
    assert all(torch.equal(found[key], still[key]) for key in found)


@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("augmentation", [Augmentation(), ALWAYS])
def test_a_sample_does_not_depend_on_its_batch(monkeypatch, augmentation, at_once):
    """Every sample of a batch is what it is alone, in another order and beside others; on devices that take all too."""
    monkeypatch.setattr(module, "_samples_at_once", lambda raw: at_once)
    dataset = noise_dataset(masks=True)
    items = [dataset[draw] for draw in range(8)]
    together = finish_batch(default_collate(items), "cpu", SPEC, augmentation, 3)
    mixed = finish_batch(default_collate([items[n] for n in (5, 2, 7)]), "cpu", SPEC, augmentation, 3)
    for n in range(8):
        alone = finish_batch(default_collate([items[n]]), "cpu", SPEC, augmentation, 3)
        others = [(alone, 0)] + ([(mixed, (5, 2, 7).index(n))] if n in (5, 2, 7) else [])
        for other, place in others:
            for key, value in together.items():
                assert torch.allclose(value[n].float(), other[key][place].float(), rtol=0, atol=1e-6), key


def test_draw_and_seed_decide_what_happens():
    """The same crop under another draw number or seed is varied otherwise; under the same ones bit for bit alike."""
    items = default_collate([noise_dataset()[0]])
    first = finish_batch(items, "cpu", SPEC, ALWAYS, 3)["voxels"]
    assert torch.equal(first, finish_batch(items, "cpu", SPEC, ALWAYS, 3)["voxels"])
    assert not torch.equal(first, finish_batch(items, "cpu", SPEC, ALWAYS, 4)["voxels"])
    moved = {**items, "draw": torch.tensor([1])}
    assert not torch.equal(first, finish_batch(moved, "cpu", SPEC, ALWAYS, 3)["voxels"])


def test_finishing_leaves_the_global_generators_and_the_items_alone():
    """No global generator moves, and the raw items are as they were."""
    items = default_collate([noise_dataset(masks=True)[draw] for draw in range(3)])
    before, kept = torch.get_rng_state(), {key: value.clone() for key, value in items.items()}
    numpy_before = np.random.get_state()[1].copy()
    finish_batch(items, "cpu", SPEC, ALWAYS, 0)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])
    assert all(torch.equal(kept[key], items[key]) for key in kept)


def test_threads_change_nothing():
    """One and two threads of torch give the same bits, and their count is put back, after an error too."""
    items = default_collate([noise_dataset(masks=True)[draw] for draw in range(4)])
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(finish_batch(items, "cpu", SPEC, ALWAYS, 0))
            assert torch.get_num_threads() == threads
        with pytest.raises(KeyError):
            finish_batch({key: value for key, value in items.items() if key != "label"}, "cpu", SPEC, ALWAYS, 0)
        with pytest.raises(RuntimeError):
            finish_batch({**items, "voxels": items["voxels"][..., :3]}, "cpu", SPEC, ALWAYS, 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
