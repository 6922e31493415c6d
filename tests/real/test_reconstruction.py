"""The bundled weights on held-out real volumes: better than guessing and than interpolating."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from make_manifests import write_all

from prostate_mim.manifest import read_manifest
from prostate_mim.preprocess import prepare_crop
from prostate_mim.reconstruction import load_mim, score_reconstruction
from prostate_mim.studies import open_all

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "resenc-s.mim-t2w"


def test_held_out_reconstruction(real_data: Path, tmp_path: Path) -> None:
    """On each of the 8 held-out volumes (one crop) the error is below all three baselines."""
    write_all(real_data, tmp_path, heldout=True)
    mim = load_mim(NAME)
    count = 0
    for study in open_all(read_manifest(tmp_path / "pretrain_heldout.csv")):
        crop = prepare_crop(study.volume, mim.spec, study.centre_mm_lps)
        error = score_reconstruction(mim, [crop], seed=7)
        assert error.model < min(error.block_mean, error.interpolation, error.interpolation_centred)
        count += 1
    assert count == 8


def test_published_figures_are_reproduced(real_data: Path, tmp_path: Path) -> None:
    """The first held-out volume gives the published error again (2 %: another CPU rounds differently)."""
    import sys

    sys.path.insert(0, str(ROOT / "hub_cards"))
    from publish_bundled import SEED, crops_of

    write_all(real_data, tmp_path, heldout=True)
    mim = load_mim(NAME)
    study = next(open_all(read_manifest(tmp_path / "pretrain_heldout.csv")))
    crops = [crop for crop in crops_of(study, mim) for _ in range(2)]
    found = dataclasses.asdict(score_reconstruction(mim, crops, SEED))
    published = json.loads((ROOT / "hub_cards" / NAME / "heldout_errors.json").read_text())
    expected = published[study.row.study_id.split("-")[0]][0]
    assert {k: v for k, v in found.items() if k != "blocks"} == pytest.approx(
        {k: v for k, v in expected.items() if k != "blocks"}, rel=0.02
    )
