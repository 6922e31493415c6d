"""A cohort on disk: the files, the manifest, and what is refused."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.errors import UsageError
from prostate_mim.phantom import make_study, write_cohort
from prostate_mim.phantom.cohort import LESION_COLUMNS, STUDY_COLUMNS
from prostate_mim.volume import read_mask, read_volume


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of three studies of seed 5."""
    return write_cohort(tmp_path_factory.mktemp("three") / "new", 3, 5)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _hashes(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_files_are_bit_identical_and_a_prefix(cohort: Path, tmp_path: Path) -> None:
    """Writing two studies again gives the very bytes of the first two of three."""
    calls: list[tuple[int, int]] = []
    again = write_cohort(tmp_path / "two", 2, 5, progress=lambda done, total: calls.append((done, total)))
    large, small = _hashes(cohort.parent), _hashes(again.parent)
    shared = {name for name in small if not name.endswith(".csv")}
    assert len(shared) >= 2 * 4
    assert shared == {name for name in large if name.split("/")[0] in {"phantom-5-00000", "phantom-5-00001"}}
    assert all(small[name] == large[name] for name in shared)
    assert cohort.read_text().startswith(again.read_text())
    assert calls == [(1, 2), (2, 2)]


def test_manifest_rows_match_the_studies(cohort: Path) -> None:
    """One row a lesion, with the study's values and paths that exist, relative to the manifest."""
    rows = _rows(cohort)
    assert tuple(rows[0]) == LESION_COLUMNS
    lesions = [(study, lesion) for study in (make_study(5, k) for k in range(3)) for lesion in study.lesions]
    assert len(rows) == len(lesions)
    for row, (study, lesion) in zip(rows, lesions, strict=True):
        assert (row["study_id"], row["patient_id"], row["centre"]) == (study.study_id, study.patient_id, study.centre)
        assert (row["lesion_id"], row["label"], row["zone"]) == (lesion.lesion_id, str(lesion.label), lesion.zone)
        assert [float(v) for v in row["position_mm_lps"].split()] == pytest.approx(lesion.position_mm_lps, abs=6e-4)
        for column in ("t2w", "lesion_mask", "gland_mask", "zone_mask"):
            assert (cohort.parent / row[column]).is_file()


def test_studies_csv_has_one_row_a_study(cohort: Path) -> None:
    """The table for pretraining lists each study once, in both formats."""
    rows = _rows(cohort.parent / "studies.csv")
    assert tuple(rows[0]) == STUDY_COLUMNS
    assert [row["study_id"] for row in rows] == [f"phantom-5-{k:05d}" for k in range(3)]
    assert [row["t2w"].split(".", 1)[1] for row in rows] == ["nii.gz", "mha", "nii.gz"]


def test_written_volumes_read_back(cohort: Path) -> None:
    """Reading gives the voxels and the geometry that were made, for image and masks."""
    for row in _rows(cohort):
        study = make_study(5, int(row["study_id"][-5:]))
        lesion = next(x for x in study.lesions if x.lesion_id == row["lesion_id"])
        pairs = (
            (read_volume(cohort.parent / row["t2w"]), study.volume),
            (read_mask(cohort.parent / row["gland_mask"]), study.gland),
            (read_mask(cohort.parent / row["lesion_mask"]), lesion.mask),
        )
        for read, made in pairs:
            assert np.array_equal(read.voxels, made.voxels)
            assert read.geometry.spacing_mm_zyx == pytest.approx(made.geometry.spacing_mm_zyx, abs=1e-4)
            assert read.geometry.origin_mm_lps == pytest.approx(made.geometry.origin_mm_lps, abs=1e-3)
            assert np.allclose(read.geometry.direction, made.geometry.direction, atol=1e-5)


def test_existing_manifest_is_not_overwritten(cohort: Path) -> None:
    """A folder with a manifest is refused by name, and stays as it was."""
    before = _hashes(cohort.parent)
    with pytest.raises(UsageError, match=r"manifest\.csv: already there"):
        write_cohort(cohort.parent, 1, 6)
    assert _hashes(cohort.parent) == before


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-3, 0), (1, -1)])
def test_bad_numbers_are_refused_before_anything_is_written(tmp_path: Path, count: int, seed: int) -> None:
    """Fewer than one study, or a negative seed, is a usage error, and no folder appears."""
    with pytest.raises(UsageError):
        write_cohort(tmp_path / "none", count, seed)
    assert not (tmp_path / "none").exists()
