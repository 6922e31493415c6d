"""The bundled encoder knows the real volumes it was trained on, in other formats too, and none that was held out."""

from __future__ import annotations

from pathlib import Path

from make_manifests import write_all

from prostate_mim import PreMIM, read_volume
from prostate_mim.leaks import model_saw
from prostate_mim.manifest import read_manifest
from prostate_mim.studies import open_all
from prostate_mim.volume import write_volume
from prostate_mim.volume.voxel_hash import voxel_hash


def test_seen_and_held_out(real_data: Path, tmp_path: Path) -> None:
    """44 of 44 that were trained on, 0 of 8 that were not; the same series as DICOM and as .mha is recognised."""
    write_all(real_data, tmp_path, heldout=True)
    seen = PreMIM.from_pretrained("resenc-s.mim-t2w").studies.pretraining
    assert seen is not None
    assert len(seen.digests) == 44
    for name, count in (("pretrain.csv", 44), ("pretrain_heldout.csv", 0)):
        listed = read_manifest(tmp_path / name)
        hashes = {study.row.number: voxel_hash(study.volume) for study in open_all(listed)}
        assert sum(len(leak.rows) for leak in model_saw(listed.rows, hashes, seen)) == count, name
    for row in read_manifest(tmp_path / "findings_dicom.csv").rows:
        volume = read_volume(row.t2w)
        write_volume(volume, tmp_path / "copy.mha")
        assert seen.contains(voxel_hash(volume))
        assert seen.contains(voxel_hash(read_volume(tmp_path / "copy.mha")))
