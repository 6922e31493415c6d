"""A changed file, spec or code is another entry; the same ones are the same entry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_cohort import SPEC, cohort_rows, write_rows, write_study

import prostate_mim
from prostate_mim.errors import NotFoundError
from prostate_mim.manifest import read_manifest
from prostate_mim.spec import InputSpec
from prostate_mim.store import prepare_manifest
from prostate_mim.store.keys import code_fingerprint, content_hash, entry_key
from prostate_mim.store.rows import PREPARED, REUSED, Job, prepare_row
from prostate_mim.volume import Geometry, Volume, write_volume

PACKAGE = Path(prostate_mim.__file__).parent


@pytest.fixture
def folder(tmp_path):
    """One study with both masks, uncompressed so that a byte can be changed in place, and an empty store."""
    write_study(tmp_path, 0, shape=(6, 24, 24))
    rng = np.random.default_rng(0)
    geometry = Geometry((3.0, 0.5, 0.5))
    write_volume(Volume(rng.integers(0, 500, (6, 24, 24)).astype(np.int16), geometry), tmp_path / "t2w.nii")
    for name, size in (("gland", 6), ("lesion", 4), ("zones", 5)):
        cube = np.zeros((6, 24, 24), np.int16)
        cube[2:4, 8 : 8 + size, 8 : 8 + size] = 1
        write_volume(Volume(cube, geometry), tmp_path / f"{name}.nii")
    return tmp_path


SMALL = SPEC.with_size((4, 16, 16))
ROW = {
    "study_id": "s", "patient_id": "p", "t2w": "t2w.nii", "gland_mask": "gland.nii", "lesion_mask": "lesion.nii",
    "zone_mask": "zones.nii",
}  # fmt: skip


def prepare(folder, row=ROW, spec=SMALL):
    """(entries made, intensities) of one row; the store is kept between calls."""
    found = prepare_manifest(read_manifest(write_rows(folder / "list.csv", [row])), spec, folder / "store")
    return found.made, found.rows[0].study.intensities()


def flip(path: Path, place: int, bit: int = 1) -> None:
    """Change one bit and keep the file's size and times."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= bit
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_unchanged_is_a_hit(folder):
    """The control of every miss below. Nor do the times of a file, its folder or its patient's name matter."""
    assert prepare(folder)[0] == 1
    assert prepare(folder)[0] == 0
    os.utime(folder / "t2w.nii", (1, 1))
    shutil.copy(folder / "t2w.nii", folder / "copy.nii")
    assert prepare(folder, {**ROW, "patient_id": "other", "t2w": "copy.nii"})[0] == 0


@pytest.mark.parametrize("name", ["t2w.nii", "gland.nii", "lesion.nii", "zones.nii"])
def test_another_content_of_the_same_size_and_time_is_a_miss(folder, name):
    """One voxel of the middle gets another value (of a mask: another label, which is True all the same)."""
    _, before = prepare(folder)
    bits = 3 if name == "zones.nii" else 2  # 1 becomes 2, the other zone; there is no zone 3
    flip(folder / name, 352 + 2 * (2 * 576 + 10 * 24 + 10), bits)
    made, after = prepare(folder)
    assert made == 1
    assert np.array_equal(before, after) == (name != "t2w.nii")  # not the old voxels under a new name
    flip(folder / name, 352 + 2 * (2 * 576 + 10 * 24 + 10), bits)
    assert prepare(folder)[0] == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"position_mm_lps": "5 5 6"}, {"lesion_mask": ""}, {"gland_mask": ""}, {"is_crop": "1"},
        {"gland_mask": "lesion.nii", "lesion_mask": "gland.nii"}, {"zone_mask": ""}, {"zone_mask": "gland.nii"},
    ],
)  # fmt: skip
def test_another_row_is_a_miss(folder, changed):
    assert prepare(folder)[0] == 1
    assert prepare(folder, {**ROW, **changed})[0] == 1
    assert prepare(folder)[0] == 0


@pytest.mark.parametrize(
    "spec",
    [
        SMALL.with_size((4, 16, 17)), replace(SMALL, spacing_mm_zyx=(3.0, 0.5, 0.51)),
        replace(SMALL, clip_percentiles=(0.5, 99.0)), replace(SMALL, single_slice="repeat"),
    ],
)  # fmt: skip
def test_another_spec_is_a_miss(folder, spec):
    assert prepare(folder)[0] == 1
    assert prepare(folder, spec=spec)[0] == 1
    assert prepare(folder)[0] == 0


def test_a_spacing_column_decides(folder):
    np.save(folder / "bare.npy", np.random.default_rng(1).integers(0, 99, (6, 24, 24)).astype(np.int16))
    lines = "study_id,patient_id,t2w,spacing_mm_zyx\ns,p,bare.npy,{}\n"
    made = []
    for spacing in ("3 0.5 0.5", "3 0.6 0.5", "3 0.5 0.5"):
        (folder / "bare.csv").write_text(lines.format(spacing))
        made.append(prepare_manifest(read_manifest(folder / "bare.csv"), SMALL, folder / "store").made)
    assert made == [1, 1, 0]


def test_a_stated_hash_is_compared_even_where_the_entry_exists(folder):
    """The store must not turn a refusal into a hit."""
    assert prepare(folder)[0] == 1
    stated = content_hash(folder / "t2w.nii")
    assert prepare(folder, {**ROW, "sha256": stated})[0] == 1
    with pytest.raises(prostate_mim.errors.VolumeError, match="sha256"):
        prepare(folder, {**ROW, "sha256": "0" * 64})


def test_other_code_is_a_miss(folder):
    """With another fingerprint the very same row is prepared again."""
    manifest = read_manifest(write_rows(folder / "list.csv", [ROW]))
    (folder / "store" / "entries").mkdir(parents=True)
    (folder / "store" / "locks").mkdir()
    outcomes = [
        prepare_row(Job(manifest.path, manifest.rows[0], SMALL, folder / "store", code)).status
        for code in ("a", "a", "b", "b", "a")
    ]
    assert outcomes == [PREPARED, REUSED, PREPARED, REUSED, REUSED]


def fingerprint_of(folder: Path) -> str:
    """The code fingerprint as a copy of the package computes it."""
    code = "from prostate_mim.store.keys import code_fingerprint as f; import sys; sys.stdout.write(f())"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_fingerprint_follows_the_modules_that_decide(tmp_path):
    """A comment in one of them changes it, in the encoders or the engine does not."""
    copy = tmp_path / "prostate_mim"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    own = fingerprint_of(tmp_path)
    for name in ("nets/resenc.py", "engine/seeding.py"):
        (copy / name).write_text((copy / name).read_text() + "\n# changed\n")
    assert fingerprint_of(tmp_path) == own
    found = {own}
    for name in ("preprocess.py", "volume/orient.py", "studies.py", "store/prepared.py", "spec.py", "_version.py"):
        before = (copy / name).read_text()
        after = before.replace('__version__ = "', '__version__ = "9') if name == "_version.py" else before + "\n# new\n"
        (copy / name).write_text(after)
        found.add(fingerprint_of(tmp_path))
        (copy / name).write_text(before)
    assert len(found) == 7
    assert fingerprint_of(tmp_path) == own


def test_two_files_and_folders_are_hashed_whole(tmp_path):
    """A header's data file and every slice of a folder count, by content and name; hidden files do not."""
    (tmp_path / "a.mhd").write_text("ObjectType = Image\nElementDataFile = a.raw\n")
    (tmp_path / "a.nrrd").write_text("NRRD0004\ndata file: a.raw\n\n")
    (tmp_path / "slices").mkdir()
    for name in ("a.raw", "slices/1.dcm", "slices/2.dcm"):
        (tmp_path / name).write_bytes(b"before")
    paths = [tmp_path / name for name in ("a.mhd", "a.nrrd", "slices")]
    first = [content_hash(path) for path in paths]
    (tmp_path / "slices" / ".hidden").write_bytes(b"x")
    assert [content_hash(path) for path in paths] == first
    flip(tmp_path / "a.raw", 3)
    flip(tmp_path / "slices" / "2.dcm", 3)
    second = [content_hash(path) for path in paths]
    assert all(a != b for a, b in zip(first, second, strict=True))
    (tmp_path / "slices" / "2.dcm").rename(tmp_path / "slices" / "3.dcm")
    assert content_hash(paths[2]) not in (first[2], second[2])


def test_a_pipe_is_refused_at_once(folder):
    """Reading it would wait for ever."""
    manifest = read_manifest(write_rows(folder / "list.csv", [ROW]))
    (folder / "t2w.nii").unlink()
    os.mkfifo(folder / "t2w.nii")
    with pytest.raises(NotFoundError, match=r"row 1 \(t2w\)"):
        entry_key(manifest.rows[0], SMALL, code_fingerprint(), manifest.where(manifest.rows[0]))


def test_the_fingerprint_of_a_manifest_is_of_its_entries(folder):
    """It does not depend on the order of the columns or the folder, but on every entry."""
    write_study(folder, 1, shape=(6, 24, 24))
    rows = cohort_rows(2)
    prints = [
        prepare_manifest(read_manifest(write_rows(folder / f"{n}.csv", part)), spec, None).fingerprint
        for n, (part, spec) in enumerate([(rows, SMALL), (rows, SMALL), (rows[:1], SMALL), (rows, InputSpec())])
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
