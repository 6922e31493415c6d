"""Prostate-MRI-US-Biopsy: real DICOM, STL and xlsx files in the layout of TCIA, with its traps."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from dicom_series import uid, write_dicom_series
from hypothesis import given
from hypothesis import strategies as st
from stl_files import box, write_stl

from prostate_mim.datasets import ImportSummary, import_dataset
from prostate_mim.datasets.surface import Surface
from prostate_mim.datasets.us_biopsy_sheets import Core, Score, cores_label, isup_grade, read_cores, score_of
from prostate_mim.errors import ManifestError, NotFoundError, UsageError
from prostate_mim.studies import Study
from prostate_mim.volume import Geometry, Volume, read_mask

NAME = "us-biopsy"
Opened = Callable[[Path], list[Study]]
SkippedList = Callable[[Path], list[tuple[str, str]]]
SHAPE, SPACING, ORIGIN = (10, 26, 24), (3.0, 1.0, 1.0), (-11.0, -5.0, -20.0)
CORE_COLUMNS = [
    "Patient Number", "Series Instance UID (MRI)", "Series Instance UID (US)", "Core Label", "Primary Gleason",
    "Secondary Gleason", *(f"Bx {end} {axis} (MRI Coord)" for end in ("Tip", "Base") for axis in "XYZ"),
]  # fmt: skip
TARGET_COLUMNS = [
    "Patient ID", "seriesInstanceUID_MR", "seriesInstanceUID_US", "ROI Volume (cc)", "UCLA Score (Similar to PIRADS v2)"
]  # fmt: skip
T2, ADC, US = "t2_spc_rst_axial_obl_Prostate", "ep2d_diff_ADC", "Ultrasound"
TARGETED, SYSTEMATIC = "TARGET OR PRIOR POSITIVE", "LEFT MID"
NOWHERE = (-1000, -1000, 1000)


def person(number: int) -> str:
    return f"Prostate-MRI-US-Biopsy-{number:04d}"


def write_series(folder: Path, number: int, series: int, description: str = T2, study: str = "") -> str:
    """One series of a patient in TCIA's folders; returns its SeriesInstanceUID."""
    shape = SHAPE if description != US else (2, 8, 8)
    voxels = np.random.default_rng([number, series]).integers(10, 900, shape).astype(np.int16)
    named = f"{person(number)} {study or ('us' if description == US else 'mr')}"
    write_dicom_series(
        folder / person(number) / f"01-01-2009-NA-{named[-2:]}-123" / f"{series}.000000-{description}-456",
        Volume(voxels, Geometry(SPACING, ORIGIN)), patient_id=person(number), study=named, series_number=series,
        description=description, tags={"Modality": "US"} if description == US else {},
    )  # fmt: skip
    return uid(named, series)


def write_sheet(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in (columns, *rows):
        book.active.append(list(row))
    book.save(path)


def surface(folder: Path, number: int, what: str, series_uid: str, low: Sequence[float], high: Sequence[float]) -> Path:
    return write_stl(folder / "STLs" / f"{person(number)}-{what}-seriesUID-{series_uid}.STL", box(low, high))


def core(number: int, mr: str, label: str, grade: tuple[object, object], tip: object, base: object) -> list[object]:
    return [person(number), mr, uid("us"), label, *grade, *tip, *base]  # type: ignore[misc]


GLAND = ((-9.3, -2.2, -18.2), (9.3, 18.2, 4.2))
FIRST = ((-5.3, 0.7, -12.4), (-1.3, 4.7, -6.4))  # 4 x 4 x 6 mm: 0.096 cc around (-3.3, 2.7, -9.4)
SECOND = ((2.6, 6.6, -7.4), (8.6, 12.6, -1.4))  # 6 x 6 x 6 mm: 0.216 cc around (5.6, 9.6, -4.4)


def write_tree(folder: Path, *, sheet: str = "Target Data_2019-12-05.xlsx") -> Path:
    """Five patients: two targets that can be used in the first, and a trap in each of the others."""
    one, sound = write_series(folder, 1, 4), write_series(folder, 1, 1, US)
    write_series(folder, 1, 7, ADC)
    two = write_series(folder, 2, 3)
    write_series(folder, 2, 9)  # later, but nothing was drawn on it
    write_series(folder, 3, 3)
    write_series(folder, 3, 5)
    write_series(folder, 4, 1, US)
    five = write_series(folder, 5, 3)
    next(folder.glob(f"{person(5)}/*/*/1-04.dcm")).unlink()
    for series_uid in (one, sound):
        surface(folder, 1, "ProstateSurface", series_uid, *GLAND)
        surface(folder, 1, "Target1", series_uid, *FIRST)
    surface(folder, 1, "Target2", one, *SECOND)
    surface(folder, 2, "Target1", two, (80, 80, 80), (90, 90, 90))
    surface(folder, 2, "Target2", two, *SECOND)
    surface(folder, 4, "Target1", uid("not downloaded"), *FIRST)
    surface(folder, 5, "ProstateSurface", five, *GLAND)
    cores = [
        core(1, one, TARGETED, (3, 4), (-3, 2, -18), (-3, 3, 0)),
        core(1, one, TARGETED, (3, 3), (-2, 2, -18), (-2, 3, 0)),
        core(1, one, TARGETED, ("", ""), (5, 9, -15), (5, 9, 3)),
        core(1, one, SYSTEMATIC, (4, 4), (-8, 15, -15), (-8, 15, 3)),
        core(1, one, TARGETED, (5, 5), NOWHERE, (5, 9, -4)),  # half a track: nobody knows where it went
        core(2, two, SYSTEMATIC, ("", ""), (5, 9, -15), (5, 9, 3)),
    ]
    write_sheet(folder / "TCIA Biopsy Data_2020-07-14.xlsx", CORE_COLUMNS, cores)
    scores = [
        [person(1), one, sound, 0.2, 3],
        [person(1), one, sound, 0.1, 5],
        [person(1), one, uid("second ultrasound"), 0.1, 5],
        [person(2), two, uid("us 2"), 0.21, 0],
    ]
    write_sheet(folder / sheet, TARGET_COLUMNS, scores)
    return folder


def rows_of(summary: ImportSummary) -> list[dict[str, str]]:
    with summary.manifest.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_counts_are_the_hand_counted_ones(tmp_path: Path, opened: Opened, skipped: SkippedList) -> None:
    summary = import_dataset(NAME, write_tree(tmp_path / "set"), tmp_path / "m.csv")
    assert (summary.studies, summary.patients, summary.lesions) == (3, 3, 2)
    assert (summary.positives, summary.negatives) == (1, 1)
    assert summary.skipped == {
        "MR series that is not axial T2w": 1,
        "axial T2w series that is damaged or incomplete": 1,
        "further axial T2w series of a study, without annotations": 2,
        "surface drawn on ultrasound": 2,
        "surface whose series is not in the folder, or not usable": 2,
        "target whose centroid lies outside its series": 1,
        "target without a biopsy core through it that tells its grade": 1,
        "ultrasound series": 2,
    }
    assert len(skipped(summary.manifest)) == 12
    rows = rows_of(summary)
    assert [(row["patient_id"][-4:], row["lesion_id"], row["label"], row["isup"]) for row in rows] == [
        ("0001", "target1", "1", "2"), ("0001", "target2", "0", "0"), ("0002", "", "", ""), ("0003", "", "", ""),
    ]  # fmt: skip
    assert {row["label_source"] for row in rows} == {summary.label_source}
    assert "cores" in summary.label_source
    assert "/3.000000-" in rows[2]["t2w"]  # the annotated one of the study
    assert rows[3]["t2w"].endswith("5.000000-t2_spc_rst_axial_obl_Prostate-456")  # the last of the study
    assert len(opened(summary.manifest)) == 4


def test_positions_and_masks_are_those_of_the_surfaces(tmp_path: Path) -> None:
    """Voxels of 1 x 1 x 3 mm from (-11, -5, -20): target 1 holds x -5..-2, y 1..4 and z -11, -8 (slices 3 and 4)."""
    summary = import_dataset(NAME, write_tree(tmp_path / "set"), tmp_path / "m.csv")
    first, second = rows_of(summary)[:2]
    assert [float(v) for v in first["position_mm_lps"].split()] == pytest.approx((-3.3, 2.7, -9.4), abs=1e-5)
    assert [float(v) for v in second["position_mm_lps"].split()] == pytest.approx((5.6, 9.6, -4.4), abs=1e-5)
    lesion = read_mask(summary.manifest.parent / first["lesion_mask"])
    expected = np.zeros(SHAPE, bool)
    expected[3:5, 6:10, 6:10] = True
    assert np.array_equal(lesion.voxels > 0, expected)
    gland = read_mask(summary.manifest.parent / first["gland_mask"])
    assert (gland.voxels > 0).sum() == 8 * 21 * 19  # z -17..4, y -2..18, x -9..9
    assert lesion.geometry.index_to_position((3, 6, 6)) == pytest.approx((-5, 1, -11))


@pytest.mark.parametrize(
    ("source", "labels"),
    [("biopsy", ["1", "0", "", ""]), ("ucla-3", ["1", "1", "", ""]), ("ucla-4", ["1", "0", "", ""])],
)
def test_label_source_is_chosen_and_pinned(tmp_path: Path, source: str, labels: list[str]) -> None:
    """Scores 5 and 3 of targets known by volume; the sheet lists the smaller target last, and twice."""
    summary = import_dataset(NAME, write_tree(tmp_path / "set"), tmp_path / "m.csv", label_source=source)
    rows = rows_of(summary)
    assert [row["label"] for row in rows] == labels
    assert [row["ucla_score"] for row in rows] == ["5", "3", "", ""]
    assert {row["label_source"] for row in rows} == {summary.label_source}
    if source != "biopsy":
        assert summary.skipped["target whose UCLA score is missing or not to be told apart"] == 1


@pytest.mark.parametrize(
    "sheet", ["Target Data_2019-12-05.xlsx", "Target-Data_2019-12-05.xlsx", "Target-Data_2019-12-05-2.xlsx"]
)
def test_name_of_the_target_sheet_may_vary(tmp_path: Path, sheet: str) -> None:
    tree = write_tree(tmp_path / "set", sheet=sheet)
    assert import_dataset(NAME, tree, tmp_path / "m.csv", label_source="ucla-4").positives == 1


def test_two_target_sheets_are_refused(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    shutil.copy(tree / "Target Data_2019-12-05.xlsx", tree / "Target-Data_2019-12-05-2.xlsx")
    with pytest.raises(ManifestError, match="2 files match"):
        import_dataset(NAME, tree, tmp_path / "m.csv")


def test_without_sheets_targets_have_places_and_no_labels(tmp_path: Path, opened: Opened) -> None:
    tree = write_tree(tmp_path / "set")
    for sheet in tree.glob("*.xlsx"):
        sheet.unlink()
    summary = import_dataset(NAME, tree, tmp_path / "m.csv")
    assert (summary.lesions, summary.positives, summary.negatives, summary.label_source) == (3, 0, 0, "")
    assert any("--labels" in note for note in summary.notes)
    assert len(opened(summary.manifest)) == 4
    with pytest.raises(NotFoundError, match="biopsy"):
        import_dataset(NAME, tree, tmp_path / "n.csv", label_source="biopsy")


def test_sheets_and_surfaces_may_lie_in_the_folder_of_labels(tmp_path: Path) -> None:
    tree, apart = write_tree(tmp_path / "set"), tmp_path / "downloads"
    apart.mkdir()
    shutil.move(tree / "STLs", apart / "STLs")
    for sheet in tree.glob("*.xlsx"):
        shutil.move(sheet, apart / sheet.name)
    summary = import_dataset(NAME, tree, tmp_path / "m.csv", labels=apart)
    assert (summary.lesions, summary.positives, summary.negatives) == (2, 1, 1)
    with pytest.raises(UsageError, match="no folder"):
        import_dataset(NAME, tree, tmp_path / "n.csv", labels=apart / "TCIA Biopsy Data_2020-07-14.xlsx")


def test_damaged_and_open_surfaces(tmp_path: Path, opened: Opened) -> None:
    """A damaged file is skipped; a surface with a hole has a position, but neither a mask nor a biopsy label."""
    tree = write_tree(tmp_path / "set")
    for sheet in tree.glob("*.xlsx"):
        sheet.unlink()
    first, second = sorted(tree.glob(f"STLs/{person(1)}-Target?-seriesUID-{uid(person(1) + ' mr', 4)}.STL"))
    first.write_bytes(first.read_bytes()[:200])
    write_stl(second, box(*SECOND)[2:])
    summary = import_dataset(NAME, tree, tmp_path / "m.csv")
    assert summary.skipped["surface that is damaged"] == 1
    row = rows_of(summary)[0]
    assert (row["lesion_id"], row["lesion_mask"], bool(row["position_mm_lps"])) == ("target2", "", True)
    assert len(opened(summary.manifest)) == 3


def test_target_far_from_its_gland_is_skipped(tmp_path: Path, opened: Opened) -> None:
    """As a target mirrored by another convention would be: inside the image, but not at the gland."""
    tree = write_tree(tmp_path / "set")
    mr = uid(person(1) + " mr", 4)
    surface(tree, 1, "ProstateSurface", mr, (-9.3, -2.2, -18.2), (-3.3, 3.8, -12.2))
    summary = import_dataset(NAME, tree, tmp_path / "m.csv")
    assert summary.skipped["target far from its gland's surface"] == 1
    assert [row["lesion_id"] for row in rows_of(summary)[:2]] == ["target1", ""]
    assert len(opened(summary.manifest)) == 3


@pytest.mark.parametrize(
    ("primary", "secondary", "grade"),
    [
        ("", "", 0), ("3", "3", 1), ("3.0", "4.0", 2), ("4", "3", 3), ("4", "4", 4), ("3", "5", 4), ("5", "3", 4),
        ("4", "5", 5), ("5", "5", 5), ("2", "3", 1), ("2", "5", 2), ("3", "", None), ("", "4", None), ("6", "3", None),
        ("x", "3", None), ("nan", "3", None),
    ],
)  # fmt: skip
def test_grade_groups(primary: str, secondary: str, grade: int | None) -> None:
    assert isup_grade(primary, secondary) == grade


TARGET = Surface(box((0, 0, 0), (4, 4, 4)))


def through(grade: int | None, *, targeted: bool = True) -> Core:
    return Core((2, 2, -6), (2, 2, 12), targeted, grade)


@pytest.mark.parametrize(
    ("cores", "label"),
    [
        ([through(2)], (1, 2)),
        ([through(0), through(5, targeted=False)], (1, 5)),
        ([through(1), through(0)], (0, 1)),
        ([through(0, targeted=False)], (None, None)),
        ([through(0), through(None)], (None, None)),
        ([through(None), through(3)], (1, 3)),
        ([Core((9, 9, -6), (9, 9, 12), True, 5)], (None, None)),
        ([Core((2, 2, -6), (2, 2, -1), True, 5)], (None, None)),
        ([], (None, None)),
    ],
)
def test_label_of_a_target_by_its_cores(cores: list[Core], label: tuple[int | None, int | None]) -> None:
    assert cores_label(cores, TARGET) == label


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=5))
def test_cores_that_pass_beside_a_target_change_nothing(found: list[tuple[int, bool]]) -> None:
    cores = [through(grade, targeted=targeted) for grade, targeted in found]
    beside = [Core((20, 2, -6), (20, 2, 12), True, grade) for grade in range(6)]
    assert cores_label(cores + beside, TARGET) == cores_label(cores, TARGET)


def test_score_of_a_target() -> None:
    """By number where the sheet has one, else by volume; two that fit and disagree tell nothing."""
    scores = [Score("", 0.5, 3), Score("", 1.5, 5)]
    assert (score_of(scores, "1", 1.45), score_of(scores, "1", 0.55), score_of(scores, "1", 1.0)) == (5, 3, None)
    assert score_of([Score("", 0.5, 3), Score("", 0.52, 4)], "1", 0.5) is None
    assert score_of([Score("", 0.5, 4), Score("", 0.52, 4)], "1", 0.5) == 4
    numbered = [Score("1", 0.5, 3), Score("2", 0.5, 4)]
    assert (score_of(numbered, "1", 9.0), score_of(numbered, "2", 9.0), score_of(numbered, "3", 0.5)) == (3, 4, None)


def test_sheet_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_sheet(tmp_path / "a.xlsx", TARGET_COLUMNS, [["P", "1.2", "1.3", 0.5, 3]])
    with pytest.raises(ManifestError, match="missing"):
        read_cores(tmp_path / "a.xlsx")
