"""The stored integers: how far from the intensities, where the box lies, and the same from memory and from disk."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_cohort import SPEC, cohort_rows, in_a_fork, put_sum, write_rows

from prostate_mim.errors import IntegrityError, UsageError, VolumeError
from prostate_mim.manifest import read_manifest
from prostate_mim.preprocess import mask_on_grid, resample
from prostate_mim.store import BITS, prepare_manifest, prepare_study
from prostate_mim.store.arrays import StoredArray
from prostate_mim.store.prepared import measured_box, quantise
from prostate_mim.studies import open_all

FULL = ((0, 3), (0, 4), (0, 5))
PIECES = [
    (slice(None), slice(None), slice(None)),
    (slice(2, 9), slice(5, 69), slice(30, 62)),
    (slice(9, 10), slice(0, 1), slice(69, 70)),
    (slice(3, 3), slice(0, 9), slice(0, 9)),
]


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-1e6, 1e6, width=32)))
def test_rounding_stays_within_half_a_step(voxels):
    whole, scale, offset = quantise(voxels, FULL)
    back = whole.astype(np.float64) * scale + offset
    assert np.abs(back - voxels).max() <= scale / 2 * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**22), 2**22), hnp.arrays(np.int64, (3, 4, 5), elements=st.integers(0, 65535)))
def test_whole_numbers_that_fit_are_exact(low, above):
    whole, scale, offset = quantise((low + above).astype(np.float32), FULL)
    assert scale == 1
    assert np.array_equal(whole.astype(np.int64) + int(offset), low + above)


def test_a_step_by_hand():
    """Half of the voxels 0.25, half 0.75: deviation 0.25, so a step is 0.25 / 512; the middle is 0.5."""
    voxels = np.full((2, 4, 4), 0.25, np.float32)
    voxels[1] = 0.75
    whole, scale, offset = quantise(voxels, ((0, 2), (0, 4), (0, 4)))
    assert (scale, offset) == (0.25 / 512, 0.5)
    assert set(np.unique(whole)) == {-512, 512}


def test_a_range_of_one_too_many_is_no_longer_exact():
    """The control: 65,537 different whole numbers do not fit."""
    voxels = np.zeros((3, 4, 5), np.float32)
    voxels[0, 0, 0] = 65536
    assert quantise(voxels, FULL)[1] != 1
    voxels[0, 0, 0] = 65535
    assert quantise(voxels, FULL)[1] == 1


def test_the_box_is_where_the_study_was_measured(manifest):
    """12 slices of 80 x 80 at 0.5 mm around the middle fill a region of 10 x 70 x 70; one of 20 x 100 x 100 not."""
    study = next(open_all(manifest))
    wide = SPEC.with_size((20, 100, 100))
    prepared, crop = prepare_study(study, wide), resample(study.volume, wide, study.centre_mm_lps)
    assert np.array_equal(prepared.inside(), crop.inside)
    assert measured_box(crop.inside) == prepared.inside_zyx != ((0, 20), (0, 100), (0, 100))
    assert np.array_equal(prepared.intensities(), crop.voxels)  # whole numbers on their own grid; 0 in padding
    for piece in PIECES:
        assert np.array_equal(prepared.inside(piece), crop.inside[piece])
        assert np.array_equal(prepared.intensities(piece), crop.voxels[piece])


def test_interpolated_intensities_are_near(manifest):
    """Study 2 has voxels of 0.8 mm: its region is interpolated, so rounded to a 512th of its deviation."""
    study = list(open_all(manifest))[1]
    prepared, crop = prepare_study(study, SPEC), resample(study.volume, SPEC, study.centre_mm_lps)
    measured = crop.voxels[crop.inside]
    assert prepared.scale == pytest.approx(measured.std() / 512, rel=1e-4)
    error = np.abs(prepared.intensities() - crop.voxels)
    assert 0 < error.max() <= prepared.scale / 2 + 1e-4


def test_masks_are_bits_on_the_grid(manifest):
    """The masks of the training before there was a store: nearest voxel, and nothing in padding."""
    for study, prepared in zip(open_all(manifest), prepare_manifest(manifest, SPEC, None).rows, strict=True):
        crop = resample(study.volume, SPEC, study.centre_mm_lps)
        for name in BITS:
            found, expected = prepared.study.mask(name), study.read_mask(name)
            assert (found is None) == (expected is None) == (name not in prepared.study.masks)
            if expected is not None:
                assert found.any()
                assert np.array_equal(found, mask_on_grid(expected, crop.geometry, SPEC.size_zyx) & crop.inside)
                assert np.array_equal(prepared.study.mask(name, PIECES[1]), found[PIECES[1]])
    with pytest.raises(UsageError, match="hidden"):
        prepared.study.mask("hidden")


def same(one, other):
    """Whether two prepared studies are equal to the last bit, whatever holds their arrays."""
    assert (one.scale, one.offset, one.inside_zyx, one.masks) == (
        other.scale, other.offset, other.inside_zyx, other.masks,
    )  # fmt: skip
    assert one.geometry == other.geometry
    assert np.array_equal(one.geometry.direction, other.geometry.direction)
    for piece in PIECES:
        assert one.voxels[piece].dtype == other.voxels[piece].dtype == np.int16
        assert np.array_equal(one.voxels[piece], other.voxels[piece])
        assert (one.labels is None) == (other.labels is None)
        if one.labels is not None:
            assert one.labels[piece].dtype == other.labels[piece].dtype == np.uint8
            assert np.array_equal(one.labels[piece], other.labels[piece])
    return True


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_and_store_are_the_same(manifest, tmp_path, workers):
    """Also for regions wider than the study, whose padding is stored as well."""
    spec = SPEC.with_size((14, 90, 70))
    kept = prepare_manifest(manifest, spec, None, workers=workers)
    stored = prepare_manifest(manifest, spec, tmp_path / "store", workers=workers)
    assert kept.fingerprint == stored.fingerprint
    assert (kept.made, kept.reused, stored.made, stored.reused) == (4, 0, 4, 0)
    assert [p.row for p in kept.rows] == [p.row for p in stored.rows] == list(manifest.rows)
    assert all(same(a.study, b.study) for a, b in zip(kept.rows, stored.rows, strict=True))
    with pytest.raises(AssertionError):  # the control
        same(kept.rows[0].study, stored.rows[1].study)


@pytest.mark.parametrize("workers", [0, 2])
def test_arrays_are_read_only(manifest, tmp_path, workers):
    for store in (None, tmp_path / "store") if workers == 0 else (None,):
        study = prepare_manifest(manifest, SPEC, store, workers=workers).rows[0].study
        for array in (study.voxels[PIECES[1]], study.labels[PIECES[1]]):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("opened", [False, True], ids=["fresh", "opened"])
def test_a_stored_study_is_read_in_other_processes(manifest, tmp_path, method, opened):
    """It travels as names of files, also when this process has already opened them."""
    study = prepare_manifest(manifest, SPEC, tmp_path / "store").rows[0].study
    expected = int(prepare_manifest(manifest, SPEC, None).rows[0].study.voxels[PIECES[1]].sum())
    if opened:
        assert int(study.voxels[PIECES[1]].sum()) == expected
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=put_sum, args=(study, PIECES[1], queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()
    assert len(pickle.dumps(study)) < 2000
    assert int(study.voxels[PIECES[1]].sum()) == expected


def test_mapped_or_not_reads_the_same(manifest, tmp_path):
    stored = prepare_manifest(manifest, SPEC, tmp_path / "store").rows[0].study
    assert isinstance(stored.voxels, StoredArray)
    assert stored.voxels.file.mapped
    plain = copy.deepcopy(stored)
    plain.voxels.file.mapped = plain.labels.file.mapped = False
    assert same(stored, plain)


def test_threads_read_one_study_at_once(manifest, tmp_path):
    """Each opens it for itself: a decoder shared by two threads mixes their pieces up."""
    study = prepare_manifest(manifest, SPEC, tmp_path / "store").rows[0].study
    whole = study.voxels[:, :, :]
    starts = np.random.default_rng(0).integers(0, 40, (400, 2))

    def right(start):
        piece = (slice(None), slice(start[0], start[0] + 30), slice(start[1], start[1] + 30))
        return np.array_equal(study.voxels[piece], whole[piece])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, starts))


@pytest.mark.parametrize("mapped", [True, False], ids=["many", "few"])
def test_more_studies_than_a_process_may_open_files(make_cohort, tmp_path, mapped):
    """100 rows of one study, each opened for itself: mapped files keep a descriptor each, so not then."""
    row = cohort_rows(1)[0]
    path = write_rows(make_cohort(1).parent / "many.csv", [{**row, "study_id": f"s{n}"} for n in range(100)])

    def read_all():
        allowed = 1000 if mapped else len(os.listdir("/proc/self/fd")) + 60
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
        found = prepare_manifest(read_manifest(path), SPEC, tmp_path / "store")
        sums = {int(item.study.voxels[PIECES[1]].sum()) for item in found.rows}
        return found.made, found.reused, len(sums), found.rows[0].study.voxels.file.mapped

    assert in_a_fork(read_all) == (1, 99, 1, mapped)


def test_a_file_that_vanished_is_one_clear_error(manifest, tmp_path):
    study = prepare_manifest(manifest, SPEC, tmp_path / "store").rows[0].study
    study.voxels.file.path.unlink()
    with pytest.raises(IntegrityError, match="prepare the store again"):
        study.intensities()


def test_a_few_extreme_voxels_are_refused(make_cohort):
    """One voxel of 1e9 would leave a step of 15,000 for an image of 400 to 900; it is refused, not blurred away."""
    study = next(open_all(read_manifest(make_cohort(1))))
    voxels = study.volume.voxels.astype(np.float32)
    voxels[6, 40, 40] = 1e9
    with pytest.raises(VolumeError, match=r"row 1 .*extreme"):
        prepare_study(replace(study, volume=replace(study.volume, voxels=voxels)), SPEC)
    voxels[6, 40, 40] = 1e4 + 0.5
    assert prepare_study(replace(study, volume=replace(study.volume, voxels=voxels)), SPEC).scale < 1
