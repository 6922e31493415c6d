"""PI-CAI: folds of the publisher, a marksheet by the names of its columns, and delineations from a pinned source."""

from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_volumes import ball, t2w_volume, write_csv

from prostate_mim.datasets import import_dataset
from prostate_mim.errors import ManifestError
from prostate_mim.studies import Study
from prostate_mim.volume import Volume, read_mask, read_volume, voxel_hash, write_volume

Opened = Callable[[Path], list[Study]]
Skipped = Callable[[Path], list[tuple[str, str]]]

OLD = (
    "patient_id,study_id,mri_date,patient_age,psa,psad,prostate_volume,histopath_type,"
    "lesion_GS,lesion_ISUP,case_ISUP,case_csPCa,center"
)
NEW = OLD.replace("lesion_GS", "lesion_PIRADS,lesion_GS")  # July 2026
MARKSHEET = f"""
    {NEW}
    10000,1000000,2019-07-02,73,7.7,0.14,55,MRBx,"4,3","3+4,0+0","2,0",2,YES,PCNN
    10001,1000001,2016-05-27,64,8.7,0.09,102,,"2,N/A",,,0,NO,ZGT
    10001,1000002,2017-05-27,65,9.7,0.1,102,SysBx,N/A,"3+3,N/A","1,N/A",1,NO,ZGT
    10002,1000003,2012-01-01,58,,,,MRBx,5,4+5,5,5,YES,RUMC
    10003,1000004,2012-01-01,58,4.2,,,SysBx+MRBx,5,3+4,2,2,YES,RUMC
    10009,1000010,2012-01-01,58,4.2,,,,,,,0,NO,RUMC
    10008,1000009,2012-01-01,60,4.4,,,,,,,0,NO,RUMC
"""


def write_mask(volume: Volume, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(volume, path)


def two_lesions(image: Volume, small: int, large: int) -> Volume:
    """A small lesion on the patient's right with one grade, a larger on the left with another."""
    first, second = ball(image, (-5.5, 0, 0), 2.2, small), ball(image, (5, 0, 0), 2.6, large)
    return Volume(first.voxels + second.voxels, image.geometry)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five good studies of four patients in folds 0 and 3, one damaged image, one without a marksheet row."""
    labels = tmp_path / "picai_labels"
    lesions, glands = labels / "csPCa_lesion_delineations", labels / "anatomical_delineations/whole_gland/AI"
    studies = {
        "10000_1000000": 0, "10001_1000001": 3, "10001_1000002": 3, "10002_1000003": 0, "10003_1000004": 3,
        "10007_1000008": 3,
    }  # fmt: skip
    for seed, (key, fold) in enumerate(studies.items()):
        image = t2w_volume(seed)
        folder = tmp_path / "input" / f"picai_public_images_fold{fold}" / key.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        write_volume(image, folder / f"{key}_t2w.mha")
        for other in ("adc", "hbv", "sag", "cor"):  # named alike, and never to be taken
            (folder / f"{key}_{other}.mha").write_bytes(b"not T2w")
        write_mask(ball(image, radius_mm=7), glands / "Guerbet23" / f"{key}.nii.gz")
        zones = Volume(ball(image, radius_mm=7).voxels + ball(image, radius_mm=4).voxels, image.geometry)
        zonal = glands.parents[1] / "zonal_pz_tz/AI" / ("Yuan23" if seed else "HeviAI23")
        write_mask(zones, zonal / f"{key}.nii.gz")
        if key != "10003_1000004":
            write_mask(ball(image, radius_mm=6), glands / "Bosma22b" / f"{key}.nii.gz")
        expert = {"10000_1000000": two_lesions(image, 2, 3), "10002_1000003": None, "10007_1000008": None}
        mask = expert.get(key, ball(image, value=0))
        if mask is not None:
            write_mask(mask, lesions / "human_expert/resampled" / f"{key}.nii.gz")
    image = t2w_volume(3)
    write_mask(ball(image, (2, 2, 0), 2.5), lesions / "human_expert/Pooch25" / "10002_1000003.nii.gz")
    write_mask(ball(image, (2, 2, 0), 3), lesions / "AI/Bosma22a" / "10001_1000001.nii.gz")
    damaged = tmp_path / "input/picai_public_images_fold3/10008/10008_1000009_t2w.mha"
    damaged.parent.mkdir()
    whole = (tmp_path / "input/picai_public_images_fold0/10000/10000_1000000_t2w.mha").read_bytes()
    damaged.write_bytes(whole[:-50])
    write_csv(labels / "clinical_information" / "marksheet.csv", MARKSHEET)
    return tmp_path


def rows_of(manifest: Path) -> dict[str, dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as stream:
        return {row["study_id"]: row for row in csv.DictReader(stream)}


def test_counts_are_those_counted_by_hand(tree: Path, opened: Opened, skipped: Skipped) -> None:
    """Six studies of five patients, three positive by the marksheet, one of them with a human mask."""
    out = tree / "picai.csv"
    summary = import_dataset("picai", tree / "input", out, labels=tree / "picai_labels")
    assert (summary.studies, summary.patients, summary.lesions) == (6, 5, 1)
    assert (summary.positives, summary.negatives) == (3, 2)
    assert summary.skipped == {
        "image not readable as an axial volume": 1,
        "in the marksheet, but without a T2w file in the folder": 1,
    }
    assert {item for item, _ in skipped(out)} == {"10008_1000009", "10009_1000010"}
    assert len(opened(out)) == 6
    rows = rows_of(out)
    assert {key: row["fold"] for key, row in rows.items()} == {
        "10000_1000000": "0", "10001_1000001": "3", "10001_1000002": "3", "10002_1000003": "0", "10003_1000004": "3",
        "10007_1000008": "3",
    }  # fmt: skip
    assert {row["centre"] for row in rows.values()} == {"PCNN", "ZGT", "RUMC", ""}
    assert [rows[key]["label"] for key in sorted(rows)] == ["1", "0", "0", "1", "1", ""]
    notes = "\n".join(summary.notes)
    assert "ISUP 0: 1, ISUP 1: 1, ISUP 2: 2, ISUP 5: 1, not graded: 1" in notes
    assert "rests on the reading alone: 1" in notes
    assert "1 study: csPCa, but no file in this label source" in notes
    assert "1 study: csPCa, but an empty mask in this label source" in notes
    assert "1 study: no row in the marksheet" in notes
    assert "1 study: several lesions in one mask" in notes


def test_a_row_holds_what_the_marksheet_says(tree: Path, opened: Opened) -> None:
    """Lists stay as they are; the position is the larger lesion's centre, on no lesion of the mean of both."""
    out = tree / "picai.csv"
    sheet = tree / "picai_labels/clinical_information/marksheet.csv"
    summary = import_dataset("picai", tree / "input", out, labels=sheet)
    row = rows_of(out)["10000_1000000"]
    assert (row["case_isup"], row["lesion_isup"], row["lesion_gs"], row["lesion_pirads"]) == (
        "2",
        "2,0",
        "3+4,0+0",
        "4,3",
    )
    assert (row["isup"], opened(out)[0].row.isup) == ("2", 2)
    assert (row["psa"], row["histopath_type"]) == ("7.7", "MRBx")
    assert (row["lesion_components"], row["lesion_values"]) == ("2", "2 3")
    assert (row["lesion_source"], row["gland_source"]) == ("human_expert/resampled", "Bosma22b")
    assert (row["zone_source"], rows_of(out)["10003_1000004"]["zone_source"]) == ("HeviAI23", "Yuan23")
    assert set(np.unique(read_mask(tree / row["zone_mask"]).voxels)) == {0, 1, 2}
    assert row["label_source"] == summary.label_source
    assert summary.label_source.startswith("picai_labels human_expert/resampled, marksheet ")
    assert [float(v) for v in row["position_mm_lps"].split()] == pytest.approx([5, 0, 0], abs=0.3)
    study = next(item for item in opened(out) if item.row.study_id == "10000_1000000")
    mask = study.read_mask("lesion")
    assert mask is not None
    z, y, x = (round(float(v)) for v in mask.geometry.position_to_index(study.centre_mm_lps))
    assert mask.voxels[z, y, x] == 3
    filled = np.argwhere(mask.voxels > 0)
    z, y, x = (round(float(v)) for v in filled.mean(0))
    assert mask.voxels[z, y, x] == 0  # the control: the centroid of both lies in neither
    assert rows_of(out)["10003_1000004"]["gland_source"] == "Guerbet23"
    assert rows_of(out)["10001_1000002"]["lesion_isup"] == "1,N/A"


@pytest.mark.parametrize(
    ("source", "with_lesion"),
    [
        ("human_expert/resampled", {"10000_1000000"}),
        ("human_expert/resampled+Pooch25", {"10000_1000000", "10002_1000003"}),
        ("human_expert/Pooch25", {"10002_1000003"}),
        ("human_expert/original", set()),
        ("AI/Bosma22a", {"10001_1000001"}),
    ],
)
def test_the_label_source_is_pinned(tree: Path, source: str, with_lesion: set[str], opened: Opened) -> None:
    """Which delineations were used is in every row, and another source gives other lesions."""
    out = tree / "picai.csv"
    summary = import_dataset("picai", tree / "input", out, labels=tree / "picai_labels", label_source=source)
    rows = rows_of(out)
    assert {key for key, row in rows.items() if row.get("lesion_mask")} == with_lesion
    assert all(row["label_source"] == summary.label_source and source in row["label_source"] for row in rows.values())
    assert summary.positives == 3  # labels are the marksheet's, whoever delineated
    assert len(opened(out)) == 6


def test_columns_are_found_by_name(tree: Path) -> None:
    """The old order, without lesion_PIRADS, and a shuffled one give the same labels."""
    sheet = tree / "picai_labels/clinical_information/marksheet.csv"
    import_dataset("picai", tree / "input", tree / "new.csv", labels=tree / "picai_labels")
    with sheet.open(newline="") as stream:
        records = list(csv.DictReader(stream))
    for name, header in {"old": OLD.split(","), "shuffled": sorted(OLD.split(","), reverse=True)}.items():
        with sheet.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, header, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(records)
        import_dataset("picai", tree / "input", tree / f"{name}.csv", labels=tree / "picai_labels")
        new, other = rows_of(tree / "new.csv"), rows_of(tree / f"{name}.csv")
        for column in ("label", "case_isup", "lesion_isup", "psa", "centre", "fold"):
            assert [row[column] for row in other.values()] == [row[column] for row in new.values()]


def test_the_same_tree_gives_the_same_manifest_and_stays_as_it_is(tree: Path) -> None:
    """Byte for byte, and nothing in the data set's folder is touched."""
    before = sorted((str(path), path.stat().st_mtime_ns) for path in (tree / "input").rglob("*"))
    for name in ("first", "second"):
        import_dataset("picai", tree / "input", tree / f"{name}.csv", labels=tree / "picai_labels")
    assert (tree / "first.csv").read_bytes() == (tree / "second.csv").read_bytes()
    assert sorted((str(path), path.stat().st_mtime_ns) for path in (tree / "input").rglob("*")) == before


def test_folds_come_from_zip_files_or_stay_empty(tree: Path) -> None:
    """Everything unpacked into one folder: the zip files beside it tell, and without them nothing is invented."""
    flat = tree / "flat" / "images"
    for path in sorted((tree / "input").glob("*fold*/*/*_t2w.mha")):
        (flat / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, flat / path.parent.name)
    summary = import_dataset("picai", flat, tree / "none.csv", labels=tree / "picai_labels")
    assert "fold" not in next(iter(rows_of(tree / "none.csv").values()))
    assert any("6 studies: the publisher's fold cannot be seen" in note for note in summary.notes)
    for fold in (0, 3):
        with zipfile.ZipFile(tree / "flat" / f"picai_public_images_fold{fold}.zip", "w") as archive:
            for path in (tree / "input" / f"picai_public_images_fold{fold}").rglob("*.mha"):
                archive.writestr(f"{path.parent.name}/{path.name}", b"")
    import_dataset("picai", flat, tree / "zips.csv", labels=tree / "picai_labels")
    import_dataset("picai", tree / "input", tree / "folders.csv", labels=tree / "picai_labels")
    assert {key: row["fold"] for key, row in rows_of(tree / "zips.csv").items()} == {
        key: row["fold"] for key, row in rows_of(tree / "folders.csv").items()
    }


def test_labels_beside_the_images_are_found_and_none_is_said(tree: Path) -> None:
    """picai_labels next to the folder is used; images alone give rows for pretraining and a note."""
    assert import_dataset("picai", tree / "input", tree / "beside.csv").positives == 3
    shutil.move(tree / "picai_labels", tree / "elsewhere")
    summary = import_dataset("picai", tree / "input", tree / "alone.csv")
    assert (summary.studies, summary.positives, summary.negatives, summary.label_source) == (6, 0, 0, "")
    assert any("no labels" in note for note in summary.notes)


def test_damaged_and_misplaced_lesion_masks_are_left_out(tree: Path) -> None:
    """A truncated mask, and one of another place: their studies are skipped, and counted."""
    masks = tree / "picai_labels/csPCa_lesion_delineations/human_expert/resampled"
    cut = masks / "10000_1000000.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    away = ball(t2w_volume(1, origin_mm_lps=(200, 200, 200)), (208, 208, 209))
    write_volume(away, masks / "10001_1000001.nii.gz")
    summary = import_dataset("picai", tree / "input", tree / "picai.csv", labels=tree / "picai_labels")
    assert summary.skipped["lesion mask damaged, or off its image"] == 2
    assert (summary.studies, summary.patients) == (4, 4)


def test_an_empty_gland_mask_is_not_named(tree: Path, opened: Opened) -> None:
    """It would stop a run at this row; the second whole-gland set is asked, then there is none."""
    glands = tree / "picai_labels/anatomical_delineations/whole_gland/AI"
    for name in ("Bosma22b", "Guerbet23"):
        write_volume(ball(t2w_volume(0), value=0), glands / name / "10000_1000000.nii.gz")
    write_volume(ball(t2w_volume(1), value=0), glands / "Bosma22b" / "10001_1000001.nii.gz")
    summary = import_dataset("picai", tree / "input", tree / "picai.csv", labels=tree / "picai_labels")
    rows = rows_of(tree / "picai.csv")
    assert rows["10000_1000000"]["gland_mask"] == ""
    assert rows["10001_1000001"]["gland_source"] == "Guerbet23"
    assert any("1 study: no whole-gland mask" in note for note in summary.notes)
    assert len(opened(tree / "picai.csv")) == 6


def test_a_gland_mask_far_from_the_lesion_is_not_named(tmp_path: Path, opened: Opened) -> None:
    """A machine's gland over 10 mm from a human's lesion: the row would be refused, the next gland is asked."""
    key = "10000_1000000"
    image = t2w_volume(shape=(6, 96, 96), origin_mm_lps=(-24, -24, -9))
    path = tmp_path / "in/picai_public_images_fold0/10000" / f"{key}_t2w.mha"
    write_mask(image, path)
    labels = tmp_path / "picai_labels"
    glands = labels / "anatomical_delineations/whole_gland/AI"
    lesion = ball(image, (16, 0, 0), 2, 3)
    write_mask(lesion, labels / "csPCa_lesion_delineations/human_expert/resampled" / f"{key}.nii.gz")
    write_mask(ball(image, (-14, 0, 0), 6), glands / "Bosma22b" / f"{key}.nii.gz")
    row = f"{key.replace('_', ',')},2019-07-02,73,7,0.1,55,MRBx,4,3+4,2,2,YES,PCNN"
    write_csv(labels / "marksheet.csv", f"{NEW}\n{row}")
    import_dataset("picai", tmp_path / "in", tmp_path / "one.csv", labels=labels)
    assert "gland_mask" not in rows_of(tmp_path / "one.csv")[key]
    write_mask(ball(image, (8, 0, 0), 9), glands / "Guerbet23" / f"{key}.nii.gz")
    import_dataset("picai", tmp_path / "in", tmp_path / "two.csv", labels=labels)
    assert rows_of(tmp_path / "two.csv")[key]["gland_source"] == "Guerbet23"
    assert len([*opened(tmp_path / "one.csv"), *opened(tmp_path / "two.csv")]) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [('"2,0"', '"2,7"'), (",YES,PCNN", ",MAYBE,PCNN"), ("10001,1000002", "10001,1000001"), ("case_csPCa", "csPCa")],
)
def test_a_marksheet_that_is_not_one_is_refused(tree: Path, old: str, new: str) -> None:
    """An impossible grade, an unknown answer, a study twice, a missing column: nothing is guessed or written."""
    sheet = tree / "picai_labels/clinical_information/marksheet.csv"
    assert old in sheet.read_text()
    sheet.write_text(sheet.read_text().replace(old, new))
    with pytest.raises(ManifestError, match="marksheet"):
        import_dataset("picai", tree / "input", tree / "picai.csv", labels=tree / "picai_labels")
    assert not (tree / "picai.csv").exists()


def test_real_studies_under_their_picai_ids(real_data: Path, tmp_path: Path, opened: Opened) -> None:
    """Nine PROSTATEx studies as PI-CAI has them: 3 positive, each mask on its lesion, every voxel kept."""
    labels = real_data / "prostatex" / "picai_labels"
    with (labels / "prostatex_to_picai.csv").open(newline="") as stream:
        pairs = {row["ProxID"]: row["picai_id"] for row in csv.DictReader(stream)}
    sources = {}
    for prostatex, key in pairs.items():
        fits = read_mask(labels / "anatomical_delineations/whole_gland/AI/Bosma22b" / f"{key}.nii.gz")
        series = sorted((real_data / "prostatex" / "nifti").glob(f"{prostatex}_*.nii.gz"))
        images = [read_volume(path) for path in series]
        near = min(images, key=lambda image: abs(image.centre_mm_lps - fits.centre_mm_lps).max())  # 0001 has two
        folder = tmp_path / "input" / "picai_public_images_fold2" / key.split("_")[0]
        folder.mkdir(parents=True)
        write_volume(near, folder / f"{key}_t2w.mha")
        sources[key] = voxel_hash(near)
    summary = import_dataset("picai", tmp_path / "input", tmp_path / "picai.csv", labels=labels)
    assert (summary.studies, summary.patients, summary.lesions) == (9, 9, 3)
    assert (summary.positives, summary.negatives, summary.skipped) == (3, 6, {})
    rows = rows_of(tmp_path / "picai.csv")
    positive = {key: (row["case_isup"], row["lesion_values"]) for key, row in rows.items() if row["label"] == "1"}
    assert positive == {"11149_1001172": ("2", "2"), "11231_1001254": ("3", "3"), "11373_1001396": ("3", "3")}
    assert "ISUP 0: 1, ISUP 1: 4, ISUP 2: 1, ISUP 3: 2" in "\n".join(summary.notes)
    for study in opened(tmp_path / "picai.csv"):
        assert voxel_hash(study.volume) == sources[study.row.study_id]
        gland = study.read_mask("gland")
        assert gland is not None and gland.shape_zyx == study.volume.shape_zyx
