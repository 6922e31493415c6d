"""What a prepared study holds, as a hash: the same from memory and from disk, another for every number in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_cohort import SPEC

from prostate_mim.errors import IntegrityError
from prostate_mim.store import BITS, prepare, prepare_manifest
from prostate_mim.store.contents import contents_of
from prostate_mim.volume.geometry import Geometry


def test_memory_store_and_other_code_hold_the_same(manifest, tmp_path, monkeypatch):
    """Entries of other code have other names, and the manifest another fingerprint; what they hold is compared."""
    kept = prepare_manifest(manifest, SPEC, None)
    stored = prepare_manifest(manifest, SPEC, tmp_path / "store")
    assert kept.contents == stored.contents
    assert len({contents_of(one.study) for one in (*kept.rows, *stored.rows)}) == len(kept.rows)
    monkeypatch.setattr(prepare, "code_fingerprint", lambda: "c0de" * 16)
    other = prepare_manifest(manifest, SPEC, tmp_path / "store")
    assert other.made == len(kept.rows) and other.fingerprint != kept.fingerprint == stored.fingerprint
    assert other.contents == kept.contents
    wider = prepare_manifest(manifest, SPEC.with_size((12, 70, 70)), None)
    backwards = replace(kept, rows=kept.rows[::-1])
    assert len({kept.contents, wider.contents, backwards.contents, replace(kept, rows=kept.rows[1:]).contents}) == 4


def test_every_number_counts(manifest):
    """Of the arrays, also beyond the measured box, and of what is stated of them."""
    study = prepare_manifest(manifest, SPEC, None).rows[0].study
    assert study.masks == {"gland", "lesion"}
    voxels, labels = np.array(study.voxels[:, :, :]), np.array(study.labels[:, :, :])
    voxels[-1, -1, -1] += 1
    labels[0, 0, 0] ^= BITS["lesion"]
    (z, y, x), masks = study.inside_zyx, study.masks
    changed = [
        replace(study, voxels=voxels), replace(study, labels=labels), replace(study, labels=None),
        replace(study, scale=float(np.nextafter(study.scale, 9))), replace(study, offset=study.offset + 0.5),
        replace(study, inside_zyx=(z, y, (x[0] + 1, x[1]))), replace(study, masks=masks - {"lesion"}),
        replace(study, voxels=study.voxels[:, :, :].reshape(70, 10, 70)),
    ]  # fmt: skip
    assert len({contents_of(study), *map(contents_of, changed)}) == len(changed) + 1
    elsewhere = replace(study, geometry=Geometry((3.0, 0.5, 0.5), (1.0, 2.0, 3.0)), voxel_hash="0" * 64)
    assert contents_of(elsewhere) == contents_of(study)


def test_the_order_in_memory_does_not_count(manifest):
    """Arrays of another layout or byte order hold the same numbers."""
    study = prepare_manifest(manifest, SPEC, None).rows[0].study
    turned = replace(study, voxels=np.asfortranarray(study.voxels[:, :, :].astype(">i2")))
    assert contents_of(turned) == contents_of(study)


def test_an_entry_that_is_gone_is_told(manifest, tmp_path):
    """Nothing is hashed in its place."""
    found = prepare_manifest(manifest, SPEC, tmp_path / "store")
    for path in (tmp_path / "store" / "entries").glob("*.b2nd"):
        path.unlink()
    with pytest.raises(IntegrityError, match="cannot be read any more"):
        _ = found.contents
