"""The manifests of the real data: counts, paths, and nobody held out where training looks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from choose_heldout import HELDOUT_FILE, choose, promise12_centre, read_heldout
from make_manifests import same_grid, write_all

PROMISE12, PROSTATEX_SERIES, PROSTATE158, CROPS = 40, 11, 1, 246
Rows = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def folder(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manifests")
    write_all(real_data, out, heldout=True)
    return out


@pytest.fixture(scope="module")
def manifests(folder: Path) -> Rows:
    """Name without .csv -> rows."""
    return {p.stem: list(csv.DictReader(p.open(newline="", encoding="utf-8"))) for p in folder.glob("*.csv")}


def patients(rows: list[dict[str, str]]) -> set[str]:
    return {row["patient_id"] for row in rows}


def test_heldout_list_is_what_the_script_chooses(real_data: Path) -> None:
    assert json.loads(HELDOUT_FILE.read_text(encoding="utf-8")) == choose(real_data)


def test_heldout_list_keeps_its_promises(manifests: Rows) -> None:
    lists = read_heldout()
    assert [len(lists[kind]) for kind in ("promise12", "prostatex", "lesion_crops")] == [6, 2, 31]
    assert {promise12_centre(i[-2:]) for i in lists["promise12"]} == {"1", "2", "3", "4"}
    significant = {row["patient_id"] for row in manifests["findings"] if row["label"] == "1"}
    assert len(lists["prostatex"] & significant) == 1
    full_volume = {f"prostatex-{number:04d}" for number in range(10)}
    assert lists["lesion_crops"] & full_volume == lists["prostatex"]


def test_heldout_crops_have_the_share_of_positive_patients_of_all_crops(manifests: Rows) -> None:
    rows = manifests["crops_heldout"]
    assert len(patients([row for row in rows if row["label"] == "1"])) == 9  # 31 x 45 / 156 = 8.9


@pytest.mark.parametrize("name", ["pretrain", "crops"])
def test_nobody_held_out_is_trained_on(manifests: Rows, name: str) -> None:
    lists = read_heldout()
    pretrained, classified = lists["promise12"] | lists["prostatex"], lists["lesion_crops"]
    assert not patients(manifests[name]) & (pretrained | classified)
    assert patients(manifests[f"{name}_heldout"]) == (pretrained if name == "pretrain" else classified)


def test_pretraining_sees_nobody_whose_crops_are_held_out(manifests: Rows) -> None:
    assert not patients(manifests["pretrain"]) & patients(manifests["crops_heldout"])


def test_counts(manifests: Rows) -> None:
    assert len(manifests["pretrain"]) + len(manifests["pretrain_heldout"]) == PROMISE12 + PROSTATEX_SERIES + PROSTATE158
    assert len(manifests["pretrain_heldout"]) == 6 + 2
    assert len(manifests["crops"]) + len(manifests["crops_heldout"]) == CROPS
    assert len(manifests["findings"]) == 15
    assert {row["study_id"] for row in manifests["findings_dicom"]} == {
        "prostatex-0000-series4",
        "prostatex-0001-series10",
    }


def test_every_path_exists(folder: Path, manifests: Rows) -> None:
    for name, rows in manifests.items():
        for row in rows:
            for column in ("t2w", "gland_mask"):
                entry = row.get(column, "")
                assert not Path(entry).is_absolute(), f"{name}: {entry}"
                assert entry == "" or (folder / entry).exists(), f"{name}: {entry}"


def test_lesion_ids_are_unique_within_a_study(manifests: Rows) -> None:
    for name in ("findings", "crops", "crops_heldout"):
        keys = [(row["study_id"], row["lesion_id"]) for row in manifests[name]]
        assert len(keys) == len(set(keys)), name
    twice = [row["lesion_id"] for row in manifests["findings"] if row["patient_id"] == "prostatex-0005"]
    assert twice == ["0", "1a", "1b"]


def test_only_patient_0006_lacks_a_gland_mask(manifests: Rows) -> None:
    rows = [row for row in manifests["pretrain"] + manifests["findings"] if row["patient_id"].startswith("prostatex")]
    assert {row["patient_id"] for row in rows if not row["gland_mask"]} == {"prostatex-0006"}


def test_a_mask_of_another_patient_is_not_on_the_grid(real_data: Path) -> None:
    """Negative control of the grid check: 0000 and 0002 have the same shape and spacing but another position."""
    nifti = real_data / "prostatex" / "nifti"
    first, second = (nifti / f"ProstateX-{n}_t2tsetra_series4.nii.gz" for n in ("0000", "0002"))
    assert same_grid(first, first)
    assert not same_grid(first, second)


def test_bare_arrays_and_only_they_have_an_assumed_spacing(manifests: Rows) -> None:
    for row in manifests["pretrain"] + manifests["pretrain_heldout"] + manifests["crops"]:
        assert bool(row["spacing_mm_zyx"]) is row["t2w"].endswith((".npy", ".npy.gz"))
