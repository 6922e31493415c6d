"""Prostate158: tables by column names, floating-point masks with value 3, missing readers, and a test folder."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_volumes import ball, t2w_volume, write_csv

from prostate_mim.datasets import import_dataset
from prostate_mim.errors import ManifestError
from prostate_mim.studies import Study
from prostate_mim.volume import Volume, read_mask, write_volume

Opened = Callable[[Path], list[Study]]

HEADER = "ID,t2,adc,dwi,t2_anatomy_reader1,t2_tumor_reader1,adc_tumor_reader1,adc_tumor_reader2"


def floating(mask: Volume, off: float = 0.0) -> Volume:
    """The same mask in float32, its values above 0 moved by ``off``."""
    return Volume(np.where(mask.voxels > 0, mask.voxels + off, 0).astype("f4"), mask.geometry)


def add_study(folder: Path, seed: int, tumours: dict[str, Volume]) -> None:
    """One study's folder, with the files the publisher gives it."""
    folder.mkdir(parents=True)
    image = t2w_volume(seed)
    write_volume(image, folder / "t2.nii.gz")
    for other in ("adc", "dwi"):
        (folder / f"{other}.nii.gz").write_bytes(b"not T2w")
    zones = Volume(ball(image, radius_mm=7, value=2).voxels // 2 + ball(image, radius_mm=5).voxels, image.geometry)
    write_volume(zones, folder / "t2_anatomy_reader1.nii.gz")
    for name, mask in tumours.items():
        write_volume(mask, folder / f"{name}.nii.gz")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four training studies, one for validation, one in a table without files, two test studies."""
    image = t2w_volume()
    three = floating(ball(image, (3, 2, 0), 2.5, value=3))
    train = tmp_path / "prostate158_train"
    adc = floating(ball(image, (3, 2, 0), 2))
    add_study(train / "train/020", 0, {"t2_tumor_reader1": three, "adc_tumor_reader1": adc})
    add_study(train / "train/021", 1, {"t2_tumor_reader1": floating(ball(image, (3, 2, 0), 2.5, value=3), 0.008)})
    add_study(train / "train/022", 2, {})
    add_study(train / "train/023", 3, {"adc_tumor_reader2": ball(image, (-3, 2, 0), 2)})
    add_study(train / "train/024", 4, {"t2_tumor_reader1": floating(ball(image, (3, 2, 0), 2.5, value=3), -0.2)})
    add_study(tmp_path / "prostate158_test/test/150", 5, {"t2_tumor_reader1": three, "t2_tumor_reader2": three})
    add_study(tmp_path / "prostate158_test/test/151", 6, {"t2_tumor_reader1": floating(ball(image, value=0))})
    lines = [HEADER]
    for name, tumour in (("020", True), ("021", True), ("022", False), ("023", False), ("099", False)):
        base = f"train/{name}"
        cells = [f"{base}/{item}.nii.gz" for item in ("t2", "adc", "dwi", "t2_anatomy_reader1")]
        lines.append(",".join([str(int(name)), *cells, f"{base}/t2_tumor_reader1.nii.gz" if tumour else "", "", ""]))
    write_csv(train / "train.csv", "\n".join(lines))
    write_csv(train / "valid.csv", "t2,ID,t2_tumor_reader1\ntrain/024/t2.nii.gz,24,train/024/t2_tumor_reader1.nii.gz")
    return tmp_path


def rows_of(manifest: Path) -> dict[str, dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as stream:
        return {row["study_id"]: row for row in csv.DictReader(stream)}


def test_training_set_counts(tree: Path, opened: Opened) -> None:
    """Five studies: three with a tumour on T2w, one without any, one by the second ADC reader only."""
    summary = import_dataset("prostate158", tree / "prostate158_train", tree / "train.csv")
    assert (summary.studies, summary.patients, summary.lesions) == (5, 5, 3)
    assert (summary.positives, summary.negatives) == (3, 1)
    assert summary.skipped == {"in a table of the set, but without its T2w file": 1}
    rows = rows_of(tree / "train.csv")
    assert {name: row["subset"] for name, row in rows.items()} == {
        "020": "train", "021": "train", "022": "train", "023": "train", "024": "valid",
    }  # fmt: skip
    assert {name: row["label"] for name, row in rows.items()} == {
        "020": "1", "021": "1", "022": "0", "023": "", "024": "1",
    }  # fmt: skip
    assert rows["020"]["readers"] == "t2_tumor_reader1 adc_tumor_reader1"
    notes = "\n".join(summary.notes)
    assert "1 study: a tumour by another reader or sequence only" in notes
    assert "1 study: t2_tumor_reader1 off whole numbers by more than 0.01" in notes
    assert len(opened(tree / "train.csv")) == 5


def test_zones_are_relabelled(tree: Path, opened: Opened) -> None:
    """1 and 2 of the anatomy are 2 and 1 of the zone mask, voxel by voxel; a strange label gives none."""
    base = tree / "prostate158_train/train"
    odd = read_mask(base / "021/t2_anatomy_reader1.nii.gz")
    write_volume(Volume(odd.voxels * 2, odd.geometry), base / "021/t2_anatomy_reader1.nii.gz")
    import_dataset("prostate158", tree / "prostate158_train", tree / "zones.csv")
    rows = rows_of(tree / "zones.csv")
    assert rows["021"]["zone_mask"] == ""
    anatomy = read_mask(base / "020/t2_anatomy_reader1.nii.gz").voxels
    zones = read_mask(tree / rows["020"]["zone_mask"]).voxels
    assert {1, 2} <= set(np.unique(anatomy))
    assert np.array_equal(zones, np.where(anatomy > 0, 3 - anatomy, 0))
    study = next(one for one in opened(tree / "zones.csv") if one.row.study_id == "020")
    assert np.array_equal(study.masks["pz"].voxels > 0, anatomy == 2)
    assert np.array_equal(study.masks["tz"].voxels > 0, anatomy == 1)


def test_floating_point_masks_count_what_is_above_zero(tree: Path) -> None:
    """3.0, 3.008 and 2.8: the first two files are named as they are, of the third a rounded copy; one lesion all."""
    import_dataset("prostate158", tree / "prostate158_train", tree / "train.csv")
    rows = rows_of(tree / "train.csv")
    masks = {name: read_mask(tree / rows[name]["lesion_mask"]) for name in ("020", "021", "024")}
    right = ball(t2w_volume(), (3, 2, 0), 2.5, value=3).voxels
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask.voxels, right, err_msg=name)
    assert [Path(rows[name]["lesion_mask"]).parts[0] for name in ("020", "024")] == ["prostate158_train", "train-files"]
    copies = sorted(path.name for path in (tree / "train-files").iterdir() if "zones" not in path.name)
    assert copies == ["024_t2_tumor_reader1.nii.gz"]


@pytest.mark.parametrize(("source", "positive"), [("adc_tumor_reader1", {"020"}), ("adc_tumor_reader2", {"023"})])
def test_the_reader_is_pinned(tree: Path, source: str, positive: set[str], opened: Opened) -> None:
    """Another reader's tumours are other labels, and every row says whose they are."""
    out = tree / "train.csv"
    summary = import_dataset("prostate158", tree / "prostate158_train", out, label_source=source)
    rows = rows_of(out)
    assert {name for name, row in rows.items() if row["label"] == "1"} == positive
    assert {row["label_source"] for row in rows.values()} == {f"Prostate158 {source}"} == {summary.label_source}
    assert summary.negatives == 1
    assert len(opened(out)) == 5


def test_both_folders_and_the_test_folder_without_a_table(tree: Path, opened: Opened) -> None:
    """The test set alone has no table here: two studies by their folders, one with an empty mask."""
    summary = import_dataset("prostate158", tree / "prostate158_test", tree / "test.csv")
    assert (summary.studies, summary.positives, summary.negatives, summary.lesions) == (2, 1, 1, 1)
    assert {row["subset"] for row in rows_of(tree / "test.csv").values()} == {"test"}
    assert len(opened(tree / "test.csv")) == 2
    table = "ID,t2,t2_tumor_reader1\n150,test/150/t2.nii.gz,test/150/t2_tumor_reader1.nii.gz"
    write_csv(tree / "prostate158_test" / "test.csv", table)
    both = import_dataset("prostate158", tree, tree / "both.csv")
    assert (both.studies, both.positives) == (6, 4)
    assert both.skipped == {
        "in a table of the set, but without its T2w file": 1,
        "in no table of the set": 1,
    }


def test_a_damaged_tumour_mask_and_a_damaged_image(tree: Path) -> None:
    """Their studies are left out and counted; a damaged mask is not the same as no tumour."""
    for name in ("020/t2_tumor_reader1", "022/t2"):
        path = tree / "prostate158_train/train" / f"{name}.nii.gz"
        path.write_bytes(path.read_bytes()[:-9])
    summary = import_dataset("prostate158", tree / "prostate158_train", tree / "train.csv")
    assert summary.skipped["lesion mask damaged, or off its image"] == 1
    assert summary.skipped["image not readable as an axial volume"] == 1
    assert (summary.studies, summary.positives, summary.negatives) == (3, 2, 0)


def test_a_mask_that_is_named_and_not_there_is_no_proof_of_health(tree: Path) -> None:
    """The chosen reader's: the study is left out; another reader's, or a damaged one: the label stays empty."""
    train = tree / "prostate158_train"
    (train / "train/020/t2_tumor_reader1.nii.gz").unlink()
    damaged = train / "train/023/adc_tumor_reader2.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    sheet = train / "train.csv"
    gone = sheet.read_text().replace(
        "train/022/t2_anatomy_reader1.nii.gz,,,", "train/022/t2_anatomy_reader1.nii.gz,,x.nii.gz,"
    )
    sheet.write_text(gone)
    summary = import_dataset("prostate158", train, tree / "train.csv")
    assert summary.skipped["in a table of the set, but without its lesion mask"] == 1
    assert {name: row["label"] for name, row in rows_of(tree / "train.csv").items()} == {
        "021": "1", "022": "", "023": "", "024": "1",
    }  # fmt: skip
    assert "2 studies: a mask of another reader cannot be used; the label is left empty" in summary.notes


def test_a_table_without_its_columns_is_refused(tree: Path) -> None:
    """The image's column is needed."""
    write_csv(tree / "prostate158_train/valid.csv", "ID,adc\n24,train/024/adc.nii.gz")
    with pytest.raises(ManifestError, match="column 't2' is missing"):
        import_dataset("prostate158", tree / "prostate158_train", tree / "train.csv")


def test_the_real_study(real_data: Path, tmp_path: Path, opened: Opened) -> None:
    """Study 020: one tumour, value 3 in floating point, on the peripheral zone's side of the gland."""
    source = real_data / "prostate158" / "020"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    shutil.copytree(source, tmp_path / "prostate158_train/train/020")
    for name in ("train", "valid"):
        table = f"{HEADER}\n" + "20,train/020/t2.nii.gz,,,train/020/t2_anatomy_reader1.nii.gz,,,\n" * (name == "train")
        (tmp_path / "prostate158_train" / f"{name}.csv").write_text(table)
    summary = import_dataset("prostate158", tmp_path / "prostate158_train", tmp_path / "one.csv")
    assert (summary.studies, summary.lesions, summary.positives, summary.skipped) == (1, 1, 1, {})
    row = rows_of(tmp_path / "one.csv")["020"]
    assert row["readers"] == "t2_tumor_reader1 adc_tumor_reader1 adc_tumor_reader2"
    (study,) = opened(tmp_path / "one.csv")
    gland, lesion = study.read_mask("gland"), study.read_mask("lesion")
    assert gland is not None and lesion is not None
    assert (set(np.unique(gland.voxels)), set(np.unique(lesion.voxels))) == ({0, 1, 2}, {0, 3})
    assert (gland.voxels[lesion.voxels > 0] > 0).mean() > 0.5
