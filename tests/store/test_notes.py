"""What a person should know of a usable row is said where its study is read: in the store's workers, and by embed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prostate_mim.encoder import PreMIM
from prostate_mim.manifest import read_manifest
from prostate_mim.phantom import make_study
from prostate_mim.prediction import embed_manifest
from prostate_mim.spec import InputSpec
from prostate_mim.store import prepare_manifest
from prostate_mim.volume import Geometry, Volume, write_volume


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two rows of one image: its gland mask on its own grid, and on one that is moved by half a slice."""
    study = make_study(5, 0)
    place = study.gland.geometry
    x, y, z = place.index_to_position((0.5, 0, 0))
    moved = Geometry(place.spacing_mm_zyx, (float(x), float(y), float(z)), place.direction)
    write_volume(study.volume, tmp_path / "t2w.mha")
    write_volume(study.gland, tmp_path / "own.mha")
    write_volume(Volume(study.gland.voxels, moved), tmp_path / "moved.mha")
    path = tmp_path / "m.csv"
    path.write_text("study_id,patient_id,t2w,gland_mask\na,a,t2w.mha,own.mha\nb,b,t2w.mha,moved.mha\n")
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_preparing_says_it(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int) -> None:
    """One warning, for the row with the moved mask only; it stands in the store's report too."""
    spec = InputSpec(size_zyx=(8, 32, 32))
    prepare_manifest(read_manifest(manifest), spec, tmp_path / "store", workers=workers)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: row 2: ") and "mm" in line and "moved" not in line.replace("is moved", "")
    rows = (tmp_path / "store" / "report.csv").read_text().splitlines()
    assert rows[1] == "1,prepared," and "mm" in rows[2]


def test_embedding_says_it(
    manifest: Path, small_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also without a store; the vectors are there all the same."""
    found = embed_manifest(PreMIM.from_pretrained(small_encoder), manifest)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(found.embedding) == 2 and len(said) == 1 and said[0].startswith("warning: row 2: ")


def test_run_record_counts_rows_without_hash(manifest: Path, tmp_path: Path) -> None:
    """A run says how many of its volumes nothing vouches for."""
    from prostate_mim.engine.settings import LoopConfig
    from prostate_mim.pretraining import PretrainConfig, pretrain

    loop = LoopConfig(steps=1, batch=2, device="cpu", trackers=())
    config = PretrainConfig(spec=InputSpec(size_zyx=(8, 32, 32)), block_mm_zyx=(12.0, 8.0, 8.0), loop=loop)
    pretrain(manifest, tmp_path / "run", config)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["counts"]["without_sha256"] == 2
