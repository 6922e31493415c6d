"""PROSTATEx: counts by hand on a tree of TCIA's layout, its traps one by one, and the real files."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_dicom_series
from small_volumes import CORONAL, SAGITTAL, ball, t2w_volume, write_csv, write_itk

from prostate_mim.datasets import ImportSummary, import_dataset
from prostate_mim.errors import ManifestError, NotFoundError
from prostate_mim.studies import Study
from prostate_mim.volume import Volume, read_volume

Opened = Callable[[Path], list[Study]]
SkippedPairs = Callable[[Path], list[tuple[str, str]]]
DATE = "07-07-2011-NA-MR prostaat kanker detectie WDSmc MCAPRODETW-05711"
FINDINGS = "ProstateX-TrainingLesionInformationv2/ProstateX-Findings-Train.csv"
IMAGES = "ProstateX-TrainingLesionInformationv2/ProstateX-Images-Train.csv"
TEST_FINDINGS = "ProstateX-TestLesionInformation/ProstateX-Findings-Test.csv"
IMAGE_COLUMNS = (
    "ProxID,Name,fid,pos,WorldMatrix,ijk,TopLevel,SpacingBetweenSlices,VoxelSpacing,Dim,DCMSerDescr,DCMSerNum"
)

OUTSIDE = "finding whose position lies outside the patient's axial T2w series"
ABSENT = "finding of a patient who has no axial T2w series in the folder"
FURTHER = "further axial T2w series of a patient (see the notes)"
UNNAMED = "finding of a patient none of whose axial T2w series is one that the tables name"
DAMAGED = "axial T2w series that is damaged or incomplete"


def series(root: Path, patient: str, number: int, plane: str = "tra", volume: Volume | None = None) -> Path:
    """One T2w series at its place in TCIA's tree."""
    direction = {"tra": None, "sag": SAGITTAL, "cor": CORONAL}[plane]
    folder = root / "PROSTATEx" / patient / DATE / f"{number}.000000-t2tse{plane}-{number * 1111:05d}"
    seed = int(patient[-4:]) * 100 + number
    write_dicom_series(
        folder,
        volume or t2w_volume(seed, direction=direction),
        patient_id=patient,
        study=patient,
        series_number=number,
        description=f"t2_tse_{plane}",
    )
    return folder


def image_row(patient: str, finding: int, description: str, number: int) -> str:
    """A row of the Images table; the columns that are not read hold what the real one holds."""
    matrix = '"0.5,0,0,-8.25,0,0.5,0,-8.25,0,0,3,-10.5,0,0,0,1"'  # its offset is the first voxel's outer corner
    return f'{patient},{description}0,{finding},0 0 0,{matrix},16 16 3,1,3,"0.5,0.5,3",32x32x6x1,{description},{number}'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Nine patients; the expected counts are in the first test."""
    root = tmp_path / "downloaded"
    for number, plane in ((3, "sag"), (4, "tra"), (5, "cor")):
        series(root, "ProstateX-0000", number, plane)
    for number in (6, 10):
        series(root, "ProstateX-0001", number)
    series(root, "ProstateX-0005", 4)
    series(root, "ProstateX-0007", 3, "sag")
    series(root, "ProstateX-0008", 4)
    packed = series(root, "ProstateX-0010", 4)
    shutil.copy(series(root, "ProstateX-0010", 3, "sag") / "1-01.dcm", packed / "2-01.dcm")
    (series(root, "ProstateX-0011", 4) / "1-03.dcm").unlink()
    series(root, "ProstateX-0204", 4)
    series(root, "ProstateX-0300", 4)
    write_csv(
        root / FINDINGS,
        """ProxID,fid,pos,zone,ClinSig
        ProstateX-0000,1,1.5 -2 3,PZ,TRUE
        ProstateX-0001,1,-1 1 0,AS,FALSE
        ProstateX-0005,0,0 0 0,PZ,TRUE
        ProstateX-0005,1,3 3 3,PZ,TRUE
        ProstateX-0005,1,-3 -3 -3,TZ,FALSE
        ProstateX-0007,1,0 0 0,TZ,FALSE
        ProstateX-0008,1,25 38 -26,PZ,FALSE
        ProstateX-0008,2,not known,PZ,FALSE
        ProstateX-0009,1,0 0 0,TZ,FALSE
        ProstateX-0010,1,0 0 0,TZ,TRUE
        ProstateX-0011,1,0 0 0,TZ,TRUE""",
    )
    write_csv(root / TEST_FINDINGS, "ProxID,fid,pos,zone\nProstateX-0204,1,0 1 2,SV")
    rows = [
        image_row("ProstateX-0000", 1, "t2_tse_tra", 4),
        image_row("ProstateX-0000", 1, "t2_tse_sag", 3),
        image_row("ProstateX-0000", 1, "ep2d_diff_tra_DYNDIST", 6),
        image_row("ProstateX-0001", 1, "t2_tse_tra", 6),
        image_row("ProstateX-0001", 1, "t2_tse_tra", 10),
        image_row("ProstateX-0005", 0, "t2_tse_tra", 4),
    ]
    write_csv(root / IMAGES, "\n".join([IMAGE_COLUMNS, *rows]))
    write_csv(root / "ProstateX-2-Findings-Train.csv", "ProxID,fid,pos,zone,ggg\nProstateX-0300,1,0 0 0,PZ,3")
    return root


def rows_of(summary: ImportSummary) -> list[dict[str, str]]:
    with summary.manifest.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def lesion(rows: list[dict[str, str]], patient: str, number: str) -> dict[str, str]:
    return next(row for row in rows if (row["patient_id"], row["lesion_id"]) == (patient, number))


# ----------------------------------------------------------------------------------------------- the whole tree


def test_counts_are_those_counted_by_hand(tree: Path, tmp_path: Path, opened: Opened) -> None:
    """Six of nine patients have a usable series; five findings lie in it with a label, one without."""
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    assert (summary.studies, summary.patients) == (6, 6)
    assert (summary.lesions, summary.positives, summary.negatives) == (6, 3, 2)
    assert summary.skipped == {
        "axial T2w series that is damaged or incomplete": 1,
        "axial T2w series whose folder holds files of another series": 1,
        ABSENT: 3,
        "finding of a patient whose axial T2w series are all damaged or incomplete": 1,
        OUTSIDE: 1,
        "finding whose pos is not three numbers": 1,
        FURTHER: 1,
        "patient without an axial T2w series": 1,
    }
    assert summary.label_source == "ProstateX-Findings-Train.csv, ProstateX-Findings-Test.csv"
    assert len(opened(summary.manifest)) == 8


def test_a_place_outside_its_series_would_be_found_out(tree: Path, tmp_path: Path, opened: Opened) -> None:
    """Control of the test above: opening the rows does check their places."""
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    text = summary.manifest.read_text(encoding="utf-8")
    assert text.count("1.5 -2 3") == 1
    summary.manifest.write_text(text.replace("1.5 -2 3", "-150 -2 3"), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"row 1: the lesion .* lies outside the volume"):
        opened(summary.manifest)


def test_a_row_holds_what_the_table_says(tree: Path, tmp_path: Path, opened: Opened) -> None:
    """Identifier, zone, label, place and split; the place is the table's to the last digit."""
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    row = lesion(rows_of(summary), "ProstateX-0000", "1")
    assert (row["study_id"], row["zone"], row["label"], row["centre"]) == ("ProstateX-0000", "PZ", "1", "RUMC")
    assert (row["position_mm_lps"], row["split"], row["series_number"]) == ("1.5 -2 3", "train", "4")
    study = next(item for item in opened(summary.manifest) if item.row.patient_id == "ProstateX-0000")
    assert study.centre_mm_lps == (1.5, -2.0, 3.0)


def test_only_the_axial_series_is_taken(tree: Path, tmp_path: Path) -> None:
    """Its voxels are those that were written as t2_tse_tra, not those of the sagittal or the coronal."""
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    row = lesion(rows_of(summary), "ProstateX-0000", "1")
    assert "t2tsetra" in row["t2w"]
    assert (read_volume(tmp_path / row["t2w"]).voxels == t2w_volume(4).voxels).all()


def test_test_findings_have_no_label(tree: Path, tmp_path: Path) -> None:
    """The table of the test set has no column ClinSig: its rows have a place and no label."""
    row = lesion(rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv")), "ProstateX-0204", "1")
    assert (row["label"], row["split"], row["zone"], row["position_mm_lps"]) == ("", "test", "SV", "0 1 2")


def test_finding_zero_and_a_number_twice_are_kept_apart(tree: Path, tmp_path: Path) -> None:
    """As in the real table: findings 0, 1 and again 1 of one patient are three lesions."""
    rows = rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv"))
    of_patient = {
        row["lesion_id"]: (row["position_mm_lps"], row["label"]) for row in rows if row["patient_id"][-1] == "5"
    }
    assert of_patient == {"0": ("0 0 0", "1"), "1": ("3 3 3", "1"), "1-2": ("-3 -3 -3", "0")}


def test_a_patient_without_finding_is_a_row_without_lesion(tree: Path, tmp_path: Path) -> None:
    """0300 is in no table of the challenge, and 0008's findings are unusable: images for pre-training."""
    rows = rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv"))
    bare = [(row["patient_id"], row["label"], row["position_mm_lps"]) for row in rows if not row["lesion_id"]]
    assert bare == [("ProstateX-0008", "", ""), ("ProstateX-0300", "", "")]


def test_what_was_left_out_is_listed_by_name(tree: Path, tmp_path: Path, skipped: SkippedPairs) -> None:
    """The list beside the manifest names each thing; the reasons that are shown name no patient."""
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    pairs = skipped(summary.manifest)
    assert ("ProstateX-0008 finding 1", OUTSIDE) in pairs
    assert ("ProstateX-0001 6.000000-t2tsetra-06666", FURTHER) in pairs
    assert Counter(reason for _, reason in pairs) == summary.skipped
    assert not any("ProstateX-0" in reason for reason in summary.skipped)


def test_nothing_in_the_folder_is_changed(tree: Path, tmp_path: Path) -> None:
    """Not one file more, less, or with other bytes."""

    def state() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()}

    before = state()
    import_dataset("prostatex", tree, tmp_path / "m.csv")
    assert state() == before


# ---------------------------------------------------------------------------------------------- repeated series


@pytest.mark.parametrize(
    ("named", "taken"),
    [((6, 10), "10"), ((6,), "6"), ((10,), "10"), ((), "10")],
    ids=["both", "first", "second", "no table"],
)
def test_a_repeat_is_resolved_by_the_images_table(
    tree: Path, tmp_path: Path, named: tuple[int, ...], taken: str
) -> None:
    """Of the numbers that the table names the last; without a table the last of all."""
    rows = [image_row("ProstateX-0001", 1, "t2_tse_tra", number) for number in named]
    write_csv(tree / IMAGES, "\n".join([IMAGE_COLUMNS, *rows]))
    if not named:
        (tree / IMAGES).unlink()
    row = lesion(rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv")), "ProstateX-0001", "1")
    assert (row["series_number"], Path(row["t2w"]).name.split(".")[0]) == (taken, taken)


def test_a_number_that_no_series_has_skips_the_finding(tree: Path, tmp_path: Path) -> None:
    """The series that the table means was not downloaded: another one is not taken in its place."""
    write_csv(tree / IMAGES, f"{IMAGE_COLUMNS}\n{image_row('ProstateX-0001', 1, 't2_tse_tra', 12)}")
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    assert summary.skipped[UNNAMED] == 1
    assert "ProstateX-0001" not in {row["patient_id"] for row in rows_of(summary)}


def test_the_diffusion_series_names_no_t2w_series(tree: Path, tmp_path: Path) -> None:
    """DYNDIST2 holds the letters t2, and tra: read as T2w, its number would leave the patient without a series."""
    write_csv(tree / IMAGES, f"{IMAGE_COLUMNS}\n{image_row('ProstateX-0001', 1, 'ep2d_diff_tra_DYNDIST2', 7)}")
    row = lesion(rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv")), "ProstateX-0001", "1")
    assert row["series_number"] == "10"


def test_of_two_studies_the_place_tells_which_is_meant(tree: Path, tmp_path: Path) -> None:
    """Both have a series 4, and the finding lies within both; only the first lies where the table says."""
    later = t2w_volume(77, origin_mm_lps=(-7.0, -8.0, -9.0))
    folder = tree / "PROSTATEx" / "ProstateX-0000" / "08-08-2012-NA-MR prostaat" / "4.000000-t2tsetra-77777"
    tags = {"StudyDate": "20120808"}
    write_dicom_series(folder, later, patient_id="ProstateX-0000", study="later", description="t2_tse_tra", tags=tags)
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    assert DATE in lesion(rows_of(summary), "ProstateX-0000", "1")["t2w"]
    assert summary.skipped["axial T2w series that lies elsewhere than the Images table says"] == 1
    (tree / IMAGES).unlink()
    rows = rows_of(import_dataset("prostatex", tree, tmp_path / "n.csv"))
    assert DATE not in lesion(rows, "ProstateX-0000", "1")["t2w"], "without the table the later study is taken"


def test_a_matrix_that_is_none_says_nothing(tree: Path, tmp_path: Path) -> None:
    """The number alone decides then."""
    for matrix in ('"1,2,3"', "missing", '"' + ",".join(["nan"] * 16) + '"'):
        row = f"ProstateX-0001,t2_tse_tra0,1,0 0 0,{matrix},0 0 0,1,3,,,t2_tse_tra,6"
        write_csv(tree / IMAGES, f"{IMAGE_COLUMNS}\n{row}")
        out = tmp_path / f"{matrix[1:5].replace(',', '')}.csv"
        assert lesion(rows_of(import_dataset("prostatex", tree, out)), "ProstateX-0001", "1")["series_number"] == "6"


def test_a_broken_repeat_gives_way_to_the_series_before(tree: Path, tmp_path: Path) -> None:
    """The repeat was copied without one slice; the first series is whole."""
    next((tree / "PROSTATEx" / "ProstateX-0001").rglob("10.*/1-04.dcm")).unlink()
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    assert lesion(rows_of(summary), "ProstateX-0001", "1")["series_number"] == "6"
    assert (summary.skipped[DAMAGED], FURTHER in summary.skipped) == (2, False)


# --------------------------------------------------------------------------------------------------- the tables


def test_without_a_findings_table_nothing_is_imported(tree: Path, tmp_path: Path) -> None:
    """The message says which table is meant; no manifest is left behind."""
    (tree / FINDINGS).unlink()
    (tree / TEST_FINDINGS).unlink()
    with pytest.raises(NotFoundError, match=r"no table \*Findings-Train\.csv"):
        import_dataset("prostatex", tree, tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


def test_a_renamed_column_is_an_error_that_names_it(tree: Path, tmp_path: Path) -> None:
    """Columns are read by name: a file of another kind is not read by position."""
    write_csv(tree / FINDINGS, "ProxID,fid,position,zone,ClinSig\nProstateX-0000,1,0 0 0,PZ,TRUE")
    with pytest.raises(ManifestError, match="column 'pos' is missing"):
        import_dataset("prostatex", tree, tmp_path / "m.csv")


def test_columns_in_another_order_and_spelling_are_the_same(tree: Path, tmp_path: Path) -> None:
    """Order, case and spaces of a header mean nothing."""
    write_csv(tree / FINDINGS, "clinsig, Zone ,POS,fid,proxid\nTRUE,PZ,1.5 -2 3,1,ProstateX-0000")
    row = lesion(rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv")), "ProstateX-0000", "1")
    assert (row["label"], row["zone"], row["position_mm_lps"]) == ("1", "PZ", "1.5 -2 3")


@pytest.mark.parametrize("text", ["maybe", "2"])
def test_a_label_that_is_none_skips_the_finding(tree: Path, tmp_path: Path, text: str) -> None:
    """It is not taken for FALSE."""
    write_csv(tree / FINDINGS, f"ProxID,fid,pos,zone,ClinSig\nProstateX-0000,1,0 0 0,PZ,{text}")
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    assert summary.skipped["finding whose ClinSig is neither TRUE nor FALSE"] == 1
    assert (summary.positives, summary.negatives) == (0, 0)


def test_of_two_versions_of_a_table_v2_is_read(tree: Path, tmp_path: Path) -> None:
    """The old folder says FALSE where v2 says TRUE."""
    write_csv(
        tree / "ProstateX-TrainingLesionInformation" / "ProstateX-Findings-Train.csv",
        "ProxID,fid,pos,zone,ClinSig\nProstateX-0000,1,1.5 -2 3,PZ,FALSE",
    )
    row = lesion(rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv")), "ProstateX-0000", "1")
    assert row["label"] == "1"


def test_two_different_tables_without_a_v2_are_an_error(tree: Path, tmp_path: Path) -> None:
    """Nobody can say which is right."""
    (tree / FINDINGS).parent.rename(tree / "one")
    write_csv(
        tree / "two" / "ProstateX-Findings-Train.csv", "ProxID,fid,pos,zone,ClinSig\nProstateX-0000,1,0 0 0,PZ,TRUE"
    )
    with pytest.raises(ManifestError, match="2 different findings tables"):
        import_dataset("prostatex", tree, tmp_path / "m.csv")


def test_tables_may_lie_in_the_labels_folder(tree: Path, tmp_path: Path) -> None:
    """The images alone, with the lesion information elsewhere."""
    summary = import_dataset("prostatex", tree / "PROSTATEx", tmp_path / "m.csv", labels=tree)
    assert (summary.studies, summary.lesions) == (6, 6)


def test_a_finding_twice_word_for_word_is_one(tree: Path, tmp_path: Path) -> None:
    """Unlike two findings of one number, which differ in place."""
    line = "ProstateX-0000,1,1.5 -2 3,PZ,TRUE"
    write_csv(tree / FINDINGS, f"ProxID,fid,pos,zone,ClinSig\n{line}\n{line}")
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    assert summary.skipped["finding that its table holds twice"] == 1
    assert [row["lesion_id"] for row in rows_of(summary) if row["patient_id"][-1] == "0" and row["lesion_id"]] == ["1"]


# ---------------------------------------------------------------------------------------------------- the masks


@pytest.fixture
def masks(tree: Path, tmp_path: Path) -> Path:
    """A copy of the PROSTATEx_masks repository with its irregular names."""
    root = tmp_path / "PROSTATEx_masks"
    t2 = root / "Files" / "lesions" / "Masks" / "T2"
    for name, place in (
        ("ProstateX-0000-Finding1-t2_tse_tra_ROI.nii.gz", (1.5, -2, 3)),
        ("ProstateX-0001-Finding1-t2_tse_tra0_ROI.nii_ROI.nii.gz", (-1, 1, 0)),
        ("ProstateX-0005-Finding0-t2_tse_tra0_ROI.nii.gz", (0, 0, 0)),
        ("ProstateX-0005-Finding1-t2_tse_tra_ROI.nii.gz", (3, 3, 3)),
    ):
        write_itk(ball(t2w_volume(), place, 2.0), t2 / name)
    adc = t2.parent / "ADC" / "ProstateX-0000-Finding1-ep2d_diff_tra_DYNDIST_ADC_ROI.nii.gz"
    write_itk(ball(t2w_volume(), (0, 0, 0), 2.0), adc)
    write_csv(
        root / "Files" / "lesions" / "Image_list.csv",
        """ADC,T2
        ProstateX-0000_ep2d_diff_tra_7,ProstateX-0000_t2_tse_tra_4
        ProstateX-0001_ep2d_diff_tra_8,ProstateX-0001_t2_tse_tra_6
        ProstateX-0005_ep2d_diff_tra_7,ProstateX-0005_t2_tse_tra_4.nii""",
    )
    write_csv(
        root / "Files" / "lesions" / "PROSTATEx_Classes.csv",
        """"ID","Clinically Significant","Gleason Grade Group"
        "ProstateX-0000_Finding1","True",3
        "ProstateX-0001_Finding1","False","No biopsy information"
        "ProstateX-0005_Finding0","True",2
        "ProstateX-0005_Finding1","True",3""",
    )
    glands = root / "Files" / "prostate" / "mask_prostate"
    write_itk(ball(t2w_volume(), (0, 0, 0), 6.0), glands / "ProstateX-0000.nii.gz")
    return root


def test_masks_are_found_whatever_follows_their_number(tree: Path, tmp_path: Path, masks: Path, opened: Opened) -> None:
    """Suffixes tra0_ROI and tra0_ROI.nii_ROI; finding 0; a number that two findings share has no mask."""
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv", labels=masks)
    found = {(row["patient_id"][-1], row["lesion_id"]): Path(row["lesion_mask"]).name for row in rows_of(summary)}
    assert {key: name for key, name in found.items() if name} == {
        ("0", "1"): "ProstateX-0000-Finding1-t2_tse_tra_ROI.nii.gz",
        ("1", "1"): "ProstateX-0001-Finding1-t2_tse_tra0_ROI.nii_ROI.nii.gz",
        ("5", "0"): "ProstateX-0005-Finding0-t2_tse_tra0_ROI.nii.gz",
    }
    assert summary.label_source.endswith(" and PROSTATEx_masks")
    study = next(item for item in opened(summary.manifest) if item.row.patient_id == "ProstateX-0000")
    assert study.read_mask("lesion") is not None and study.read_mask("gland") is not None


def test_grades_of_the_repository_are_kept(tree: Path, tmp_path: Path, masks: Path) -> None:
    """Column isup; empty where there was no biopsy, and for a number that two findings share."""
    rows = rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv", labels=masks))
    grades = {(row["patient_id"][-1], row["lesion_id"]): row["isup"] for row in rows if row["isup"]}
    assert grades == {("0", "1"): "3", ("5", "0"): "2"}


def test_the_masks_list_decides_which_repeat_is_taken(tree: Path, tmp_path: Path, masks: Path) -> None:
    """Series 6 of patient 0001 is the one that was drawn on, though 10 came later and the table names both."""
    rows = rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv", labels=masks))
    assert lesion(rows, "ProstateX-0001", "1")["series_number"] == "6"
    assert lesion(rows, "ProstateX-0005", "0")["series_number"] == "4"


def test_a_number_that_two_findings_share_has_no_mask_though_one_is_outside(
    tree: Path, tmp_path: Path, masks: Path
) -> None:
    """The mask may be of the finding that was left out."""
    text = (tree / FINDINGS).read_text(encoding="utf-8")
    (tree / FINDINGS).write_text(text.replace("1,-3 -3 -3,TZ", "1,-300 -3 -3,TZ"), encoding="utf-8")
    rows = rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv", labels=masks))
    assert [row["lesion_id"] for row in rows if row["patient_id"] == "ProstateX-0005"] == ["0", "1"]
    assert lesion(rows, "ProstateX-0005", "1")["lesion_mask"] == ""


def test_a_mask_of_another_place_is_not_taken(tree: Path, tmp_path: Path, masks: Path, opened: Opened) -> None:
    """A mask a metre off its series would stop training later."""
    path = masks / "Files/lesions/Masks/T2/ProstateX-0000-Finding1-t2_tse_tra_ROI.nii.gz"
    far = t2w_volume(origin_mm_lps=(992.0, -8.0, -9.0))
    write_itk(ball(far, (1000.0, 0.0, 0.0), 2.0), path)
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv", labels=masks)
    assert summary.skipped["lesion or gland mask that is damaged or does not meet the patient's series"] == 1
    assert not lesion(rows_of(summary), "ProstateX-0000", "1")["lesion_mask"]
    opened(summary.manifest)


def test_the_older_layout_of_the_repository_is_read(tree: Path, tmp_path: Path, masks: Path) -> None:
    """Files/Masks/T2 beside Files/lesions/Masks/T2: today's layout where both hold a mask, else the one there is."""
    newer = masks / "Files/lesions/Masks/T2"
    older = masks / "Files/Masks/T2"
    older.mkdir(parents=True)
    shutil.copy(newer / "ProstateX-0000-Finding1-t2_tse_tra_ROI.nii.gz", older)
    shutil.move(newer / "ProstateX-0005-Finding0-t2_tse_tra0_ROI.nii.gz", older)
    rows = rows_of(import_dataset("prostatex", tree, tmp_path / "m.csv", labels=masks))
    assert "lesions/Masks" in lesion(rows, "ProstateX-0000", "1")["lesion_mask"]
    assert "Files/Masks" in lesion(rows, "ProstateX-0005", "0")["lesion_mask"]


# ---------------------------------------------------------------------------------------- converted and real files


def test_nifti_stands_in_where_there_is_no_dicom(tree: Path, tmp_path: Path, opened: Opened) -> None:
    """Converted axial series by name: number from its end, masks and patients with DICOM left alone."""
    nifti = tree / "nifti"
    write_itk(t2w_volume(1), nifti / "ProstateX-0009_t2tsetra_series4.nii.gz")
    write_itk(t2w_volume(2), nifti / "ProstateX-0009_t2tsetra_series10.nii.gz")
    write_itk(t2w_volume(3, direction=SAGITTAL), nifti / "ProstateX-0009_t2tsesag_series12.nii.gz")
    write_itk(ball(t2w_volume()), nifti / "ProstateX-0009-Finding1-t2_tse_tra_ROI.nii.gz")
    write_itk(t2w_volume(4), nifti / "ProstateX-0000_t2tsetra_series4.nii.gz")
    summary = import_dataset("prostatex", tree, tmp_path / "m.csv")
    rows = rows_of(summary)
    assert (summary.studies, summary.lesions) == (7, 7)
    assert lesion(rows, "ProstateX-0009", "1")["t2w"].endswith("series10.nii.gz")
    assert lesion(rows, "ProstateX-0000", "1")["t2w"].endswith("-04444")
    opened(summary.manifest)


def test_real_dicom(real_data: Path, tmp_path: Path, opened: Opened) -> None:
    """Patients 0000 and 0001: two of the fifteen findings, one significant; of two axial series the repeat."""
    source = real_data / "prostatex"
    summary = import_dataset("prostatex", source / "dicom", tmp_path / "m.csv", labels=source)
    assert (summary.studies, summary.patients, summary.lesions) == (2, 2, 2)
    assert (summary.positives, summary.negatives) == (1, 1)
    assert summary.skipped == {ABSENT: 13, FURTHER: 1}
    row = lesion(rows_of(summary), "ProstateX-0001", "1")
    assert row["series_number"] == "10"
    assert [study.volume.shape_zyx for study in opened(summary.manifest)] == [(19, 384, 384)] * 2


def test_real_dicom_and_nifti(real_data: Path, tmp_path: Path, opened: Opened) -> None:
    """All ten patients and their fifteen findings, of which four are significant; 0005 has findings 0, 1 and 1."""
    summary = import_dataset("prostatex", real_data / "prostatex", tmp_path / "m.csv")
    assert (summary.studies, summary.patients, summary.lesions) == (10, 10, 15)
    assert (summary.positives, summary.negatives) == (4, 11)
    assert summary.skipped == {FURTHER: 1}
    rows = rows_of(summary)
    assert sorted(row["lesion_id"] for row in rows if row["patient_id"] == "ProstateX-0005") == ["0", "1", "1-2"]
    assert Counter(row["zone"] for row in rows) == {"PZ": 8, "TZ": 5, "AS": 2}
    assert len(opened(summary.manifest)) == 15


def test_real_places_are_the_voxels_that_the_challenge_names(real_data: Path, tmp_path: Path, opened: Opened) -> None:
    """Column ijk counts from the first voxel's corner: it is our index of pos, plus a half, cut to whole numbers."""
    source = real_data / "prostatex"
    summary = import_dataset("prostatex", source, tmp_path / "m.csv")
    with (source / "ProstateX-Images-Train.csv").open(encoding="utf-8", newline="") as stream:
        axial = [row for row in csv.DictReader(stream) if row["DCMSerDescr"] == "t2_tse_tra"]
    named = {(row["ProxID"], row["pos"]): [int(part) for part in row["ijk"].split()] for row in axial}
    checked = 0
    for study in opened(summary.manifest):
        found = study.volume.geometry.position_to_index(study.row.position_mm_lps)[::-1]
        for (patient, place), ijk in named.items():
            if patient == study.row.patient_id and np.allclose([float(v) for v in place.split()], study.centre_mm_lps):
                assert np.abs(found + 0.5 - ijk).max() <= 1.0
                checked += 1
    assert checked == 15
