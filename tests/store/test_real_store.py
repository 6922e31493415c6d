"""Real volumes: 1,500 studies at 24 x 256 x 256 fit in 5 GB, in steps nobody sees."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.manifest import read_manifest
from prostate_mim.preprocess import resample
from prostate_mim.spec import InputSpec
from prostate_mim.store import REGION_ZYX, prepare_manifest, prepare_store
from prostate_mim.studies import open_study

REAL = Path(__file__).resolve().parents[1] / "real"
DATA = Path(os.environ.get("PROSTATE_MIM_REAL_DATA", REAL.parents[1].parent / "shared" / "data"))
LIMIT_BYTES, STUDIES = 5e9, 1500


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """A manifest of every seventh real volume: PROMISE12 of several centres, and PROSTATEx."""
    if not (DATA / "promise12").is_dir():
        pytest.skip("real data not present: set PROSTATE_MIM_REAL_DATA to the folder with promise12/ and prostatex/")
    sys.path.append(str(REAL))
    from make_manifests import PRETRAIN_COLUMNS, pretrain_rows, write_manifest

    folder = tmp_path_factory.mktemp("real")
    rows = pretrain_rows(DATA, folder)[::7]
    assert {row["patient_id"].partition("-")[0] for row in rows} >= {"promise12", "prostatex"}
    write_manifest(folder / "some.csv", PRETRAIN_COLUMNS, rows)
    return folder / "some.csv"


def test_1500_studies_fit_in_5_gb(some, tmp_path):
    """By the largest of the entries, not only by their mean; the control: uncompressed they do not fit."""
    summary = prepare_store(some, tmp_path / "store", workers=0)
    largest = max(path.stat().st_size for path in (tmp_path / "store" / "entries").iterdir())
    assert summary.failed == 0
    assert summary.bytes / summary.made * STUDIES <= largest * STUDIES < LIMIT_BYTES
    uncompressed = int(np.prod(REGION_ZYX)) * 3  # int16 voxels and a byte of labels
    assert uncompressed * STUDIES > LIMIT_BYTES


def test_rounding_is_far_below_the_noise(some):
    """At most a thousandth of the deviation that the z-score divides by, or exact."""
    manifest = read_manifest(some)
    spec = InputSpec(size_zyx=REGION_ZYX)
    for found in prepare_manifest(manifest, spec, None).rows[::3]:
        study = open_study(manifest, found.row)
        crop = resample(study.volume, spec, study.centre_mm_lps)
        error = np.abs(found.study.intensities() - crop.voxels).max()
        assert error <= 1.001 * crop.voxels[crop.inside].std() / 1024
        assert np.array_equal(found.study.inside(), crop.inside)
