"""Entries on disk: crops decode what they touch, damage is found and repaired aloud, bytes are deterministic."""

from __future__ import annotations

import json
import re
import shutil

import blosc2
import numpy as np
import pytest
from small_cohort import SPEC, cohort_rows, entries, leftovers, write_rows, write_study

from prostate_mim.errors import IntegrityError
from prostate_mim.files import write_bytes
from prostate_mim.manifest import read_manifest
from prostate_mim.store import prepare_manifest
from prostate_mim.store.arrays import StoredFile
from prostate_mim.store.entry import Entry, locked
from prostate_mim.store.keys import canonical, digest

REGION = SPEC.with_size((16, 128, 128))  # 2 x 2 x 2 chunks of (8, 64, 64)
SMALL = SPEC.with_size((4, 16, 16))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """(manifest, store) of one wide study, of as many voxels as its region."""
    folder = tmp_path_factory.mktemp("wide")
    write_study(folder, 0, shape=(16, 128, 128))
    manifest = read_manifest(write_rows(folder / "list.csv", cohort_rows(1)))
    prepare_manifest(manifest, REGION, folder / "store")
    return manifest, folder / "store"


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "plain"])
@pytest.mark.parametrize("channel", [0, 1], ids=["voxels", "labels"])
def test_a_crop_reads_only_the_chunks_it_touches(filled, tmp_path, mapped, channel):
    """Every chunk but the one of a crop is overwritten: the crop is unchanged. The control touches one that is not."""
    _, store = filled
    source = next((store / "entries").glob("*.b2nd"))
    array = blosc2.open(str(source), mode="r")
    whole = array[:]
    content = bytearray(source.read_bytes())
    assert array.schunk.nchunks == 16
    kept = 8 * channel + 5  # second in z, first in y, second in x
    for number in range(16):
        chunk = array.schunk.get_chunk(number)
        place = bytes(content).find(chunk)
        assert place > 0
        if number != kept:  # its 32 bytes of header stay: opening a file reads the first one
            content[place + 32 : place + len(chunk)] = np.random.default_rng(number).bytes(len(chunk) - 32)
    damaged = tmp_path / "damaged.b2nd"
    write_bytes(damaged, bytes(content))
    file = StoredFile(damaged, (2, 16, 128, 128), mapped)
    crop = (channel, slice(8, 16), slice(3, 64), slice(64, 128))
    assert whole[crop].any()
    assert np.array_equal(file.read(crop), whole[crop])
    wider = (channel, slice(7, 16), slice(3, 64), slice(64, 128))
    try:
        assert not np.array_equal(file.read(wider), whole[wider])
    except IntegrityError as error:
        assert "prepare the store again" in str(error)


def test_entries_are_compressed_and_described_without_identities(filled):
    manifest, store = filled
    files = entries(store)
    assert sorted(name.partition(".")[2] for name in files) == ["b2nd", "json"]
    array, description = (next(data for name, data in files.items() if name.endswith(end)) for end in ("b2nd", "json"))
    assert len(array) < 2 * 16 * 128 * 128  # less than the voxels alone as plain int16
    assert set(json.loads(description)) == {
        "format", "key", "array", "scale", "offset", "inside_zyx", "masks", "geometry", "voxel_hash", "digest",
    }  # fmt: skip
    row = manifest.rows[0]
    for identity in (row.study_id, row.patient_id, row.t2w.name, str(manifest.path.parent)):
        assert f'"{identity}"'.encode() not in description


def test_the_same_study_gives_the_same_bytes(filled, tmp_path):
    """In this process and in another."""
    manifest, store = filled
    again = prepare_manifest(manifest, REGION, tmp_path / "again", workers=1)
    assert again.made == 1
    assert entries(store) == entries(tmp_path / "again")


@pytest.fixture
def small(tmp_path):
    """(manifest, store) of two small studies; the second entry is never damaged."""
    for number in range(2):
        write_study(tmp_path, number, shape=(6, 24, 24))
    manifest = read_manifest(write_rows(tmp_path / "list.csv", cohort_rows(2)))
    first = prepare_manifest(read_manifest(write_rows(tmp_path / "first.csv", cohort_rows(1))), SMALL, tmp_path / "one")
    assert first.made == 1
    prepare_manifest(manifest, SMALL, tmp_path / "store")
    return manifest, tmp_path / "store", next((tmp_path / "one" / "entries").glob("*.json")).stem


def damages(content: bytes):
    """Twelve flipped bits, six truncations, and nothing left."""
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 12):
        yield content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]
    for length in (0, 1, *rng.integers(2, len(content), 4)):
        yield content[:length]
    yield None


@pytest.mark.parametrize("suffix", ["b2nd", "json"])
def test_damage_is_remade_aloud(small, suffix, capfd):
    """Whatever happens to one file, the entry is as before afterwards, the other is reused, and stderr says so."""
    manifest, store, key = small
    before = entries(store)
    name = f"{key}.{suffix}"
    for content in damages(before[name]):
        path = store / "entries" / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        found = prepare_manifest(manifest, SMALL, store)
        missing = content is None and suffix == "json"  # without its JSON there is no entry to be damaged
        assert (found.made, found.reused) == (1, 1)
        assert entries(store) == before
        assert ("warning: row 1: the entry was damaged" in capfd.readouterr().err) == (not missing)
        report = (store / "report.csv").read_text().splitlines()
        assert report[1].startswith("1,prepared,") and ("damaged" in report[1]) == (not missing)
        assert report[2] == "2,reused,"
    assert prepare_manifest(manifest, SMALL, store).made == 0  # the control
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.0}, {"scale": True}, {"scale": "1"}, {"offset": 1e999}, {"format": 1}, {"key": "0" * 64},
        {"voxel_hash": ""}, {"voxel_hash": 1}, {"voxel_hash": "F" * 64},
        {"inside_zyx": [[0, 4], [0, 16]]}, {"inside_zyx": [[0, 4], [0, 16], [0, 17]]}, {"masks": ["gland", "zone"]},
        {"masks": []}, {"array": {"sha256": "0", "shape": [2, 4, 16]}}, {"array": []}, {"extra": 1},
        {"geometry": {"spacing_mm_zyx": [1, 1, 1], "origin_mm_lps": [0, 0, 0], "direction": [[1, 0, 0]]}},
    ],
)  # fmt: skip
def test_a_description_with_other_fields_or_values_is_refused(small, change):
    """Also where its own digest is right: the schema is closed."""
    _, store, key = small
    entry = Entry(store, key)
    values = {**json.loads(entry.description.read_text()), **change}
    del values["digest"]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    entry.description.write_text(json.dumps({**values, "digest": digest(text)}))
    with pytest.raises(IntegrityError):
        entry.read(mapped=False, verify=False)


def test_a_description_rewritten_as_it_was_is_read(small):
    """The control of the refusals above."""
    _, store, key = small
    entry = Entry(store, key)
    values = json.loads(entry.description.read_text())
    stated = values.pop("digest")
    assert stated == digest(canonical(values))
    entry.description.write_text(json.dumps({**values, "digest": stated}))
    assert entry.read(mapped=False, verify=True) is not None


def test_an_exchanged_array_is_found(small):
    """A whole and valid array, but of another entry."""
    manifest, store, key = small
    other = next(path for path in (store / "entries").glob("*.b2nd") if path.stem != key)
    shutil.copy(other, store / "entries" / f"{key}.b2nd")
    assert prepare_manifest(manifest, SMALL, store).made == 1


def test_it_is_the_hash_that_finds_damage(small):
    """The control: without it a flipped bit passes, and so do other voxels."""
    _, store, key = small
    entry = Entry(store, key)
    content = bytearray(entry.array.read_bytes())
    content[len(content) // 2] ^= 1
    entry.array.write_bytes(content)
    assert entry.read(mapped=False, verify=False) is not None
    with pytest.raises(IntegrityError, match="hash"):
        entry.read(mapped=False, verify=True)


def test_orphans_are_swept_but_not_those_of_a_live_process(small):
    """Whoever holds the lock of an entry is still writing it."""
    manifest, store, key = small
    orphans = [store / "entries" / f".{name}.b2nd.x1y2.tmp.b2nd" for name in (key, "f" * 64)]
    for orphan in orphans:
        orphan.write_bytes(b"half")
    with locked(store, key, 0) as held:
        assert held
        assert prepare_manifest(manifest, SMALL, store).reused == 2  # a complete entry needs no lock
        assert [path.exists() for path in orphans] == [True, False]
    (store / ".report.csv.x1y2.tmp.csv").write_bytes(b"half")
    prepare_manifest(manifest, SMALL, store)
    assert leftovers(store) == []


def test_messages_name_no_row_but_their_own(small):
    """The key in a file's name is a hash: nobody is named in the store."""
    _, store, _ = small
    assert all(re.fullmatch(r"[0-9a-f]{64}\.(b2nd|json)", name) for name in entries(store))
