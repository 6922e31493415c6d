"""run_study.py --sr: a DICOM structured report that says what the JSON says, where, and of which series."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prostate_mim.volume import Volume, write_volume

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (extra: datasets)")
pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (extra: datasets)")

from dicom_series import uid, write_dicom_series  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "export"
FRAME = uid("frame")
PLACES = ((-2.5, 4.0, 45.0), (1.0, 2.0, 39.0))


def run_study(*arguments: object, hidden: str = "") -> subprocess.CompletedProcess[str]:
    """run_study.py as a process; ``hidden`` is a package that it cannot import."""
    code = (
        f"import runpy, sys; sys.modules.update({{name: None for name in {hidden.split()!r}}}); "
        f"sys.path.insert(0, {str(KIT)!r}); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])  # the latter cuts its network off
    return subprocess.run(
        [sys.executable, "-c", code, str(KIT / "run_study.py"), "--device", "cpu", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


@pytest.fixture(scope="module")
def series(make_volume: Callable[..., Volume], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slightly oblique series of a patient with a name."""
    volume = make_volume(degrees=8.0, dtype="uint16")
    folder = tmp_path_factory.mktemp("series") / "t2"
    tags = {
        "FrameOfReferenceUID": FRAME, "PatientName": "Test^Jörg", "SpecificCharacterSet": "ISO_IR 100",
        "PatientID": "P7", "PatientBirthDate": "19500101", "PatientSex": "M", "AccessionNumber": "A1",
    }  # fmt: skip
    write_dicom_series(folder, volume, tags=tags)
    (folder / "notes.txt").write_text("not a slice")
    return folder


@pytest.fixture(scope="module")
def made(series: Path, classifier_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """The printed rows of two lesions, and their report."""
    out = tmp_path_factory.mktemp("report") / "report.dcm"
    places = [word for place in PLACES for word in ("--position", " ".join(map(str, place)))]
    ran = run_study("--model", classifier_file, series, *places, "--sr", out)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [path.name for path in out.parent.iterdir()] == ["report.dcm"]
    return [json.loads(line) for line in ran.stdout.splitlines()], out


def said(report: Any) -> list[dict[str, Any]]:
    """What a report says of each lesion, read back through highdicom's templates."""
    found = []
    for group in report.content.get_image_measurement_groups():
        (measured,) = group.get_measurements()
        (point,) = measured.referenced_coordinates
        (source,) = group.source_images
        found.append(
            {
                "probability": measured.value,
                "unit": measured.unit.value,
                "name": measured.name.meaning,
                "position": np.ravel(point.value).tolist(),
                "frame": point.frame_of_reference_uid,
                "slice": source.ReferencedSOPSequence[0].ReferencedSOPInstanceUID,
                "finding": group.finding_type,
                "algorithm": texts(measured[0], "Algorithm Name", "Algorithm Version", "Algorithm Parameters"),
            }
        )
    return found


def texts(item: Any, *names: str) -> list[str]:
    """Texts of a content item, by the names of their concepts."""
    by_name = {part.ConceptNameCodeSequence[0].CodeMeaning: part for part in item.ContentSequence}
    return [by_name[name].TextValue for name in names]


def test_report_repeats_the_answer(made: tuple[list[Any], Path]) -> None:
    """The very numbers, as measurements without unit at 3D points of the series' frame of reference."""
    rows, path = made
    found = said(highdicom.sr.srread(path))
    assert len(found) == len(rows) == 2
    for lesion, row, place in zip(found, rows, PLACES, strict=True):
        assert lesion["probability"] == row["probability"]
        assert (lesion["unit"], lesion["frame"]) == ("1", FRAME)
        assert lesion["name"] == "Probability of label 1 of the model"
        assert lesion["position"] == pytest.approx(place, abs=1e-4)
        assert lesion["finding"] == codes.SCT.Lesion
        assert lesion["algorithm"] == [row["model"], row["revision"], f"spec {row['spec']}"]
    assert found[0]["probability"] != found[1]["probability"]


def test_report_names_the_nearest_slices(made: tuple[list[Any], Path], series: Path) -> None:
    """Each point's own slice, along the tilted normal; and every slice is evidence, nothing else."""
    report = highdicom.sr.srread(made[1])
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(series.glob("*.dcm"))]
    for lesion, place in zip(said(report), PLACES, strict=True):
        rows = np.asarray(headers[0].ImageOrientationPatient, float)
        normal = np.cross(rows[:3], rows[3:])
        away = [abs((np.asarray(h.ImagePositionPatient, float) - place) @ normal) for h in headers]
        assert lesion["slice"] == headers[int(np.argmin(away))].SOPInstanceUID
        assert min(away) <= 1.5  # half a slice of 3 mm
    slices = [one["slice"] for one in said(report)]
    assert len(set(slices)) == 2
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == headers[0].SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in evidence.ReferencedSOPSequence} == {
        header.SOPInstanceUID for header in headers
    }


def test_report_is_plain_dicom_for_research(made: tuple[list[Any], Path], series: Path) -> None:
    """Read by pydicom alone: which object, whose, of what standing, and the notice in words."""
    report, source = pydicom.dcmread(made[1]), pydicom.dcmread(next(series.glob("*.dcm")))
    assert report.SOPClassUID.name == "Comprehensive 3D SR Storage"
    assert report.Modality == "SR" and report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber"):
        assert report[keyword].value == source[keyword].value
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    assert (report.VerificationFlag, report.ContentQualification) == ("UNVERIFIED", "RESEARCH")
    assert report.PreliminaryFlag == "PRELIMINARY"
    comments = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT" and "TextValue" in item]
    assert any("Research use only. Not for diagnosis" in text for text in comments)
    assert any("field of view" in text for text in comments)  # the flags of this small volume


def test_difference_would_be_seen(made: tuple[list[Any], Path]) -> None:
    """Negative control of the comparison: a report whose number or point was changed reads back otherwise."""
    rows, path = made
    report = pydicom.dcmread(path)
    (numbers,) = [item for item in report.ContentSequence if item.ValueType == "CONTAINER"]
    measured = next(item for item in numbers.ContentSequence[0].ContentSequence if item.ValueType == "NUM")
    measured.MeasuredValueSequence[0].FloatingPointValue = 0.5
    measured.MeasuredValueSequence[0].NumericValue = "0.5"
    point = next(item for item in measured.ContentSequence if item.ValueType == "SCOORD3D")
    point.GraphicData = [0.0, 0.0, 0.0]
    changed = said(highdicom.sr.Comprehensive3DSR.from_dataset(report))[0]
    assert changed["probability"] != rows[0]["probability"]
    assert changed["position"] != pytest.approx(PLACES[0], abs=1e-4)


@pytest.mark.parametrize(
    ("code", "told", "hidden"),
    [
        (2, "no folder of them", "file"),
        (2, "give --position", "no position"),
        (2, "outside of the series' folder", "inside"),
        (2, "cannot be written", "nowhere"),
        (3, "no such file or folder", "missing"),
        (6, "requirements-sr.txt", "highdicom"),
        (9, "outside the volume", "far"),
        (9, "FrameOfReferenceUID", "no frame"),
    ],
)
def test_refusals_leave_nothing(
    code: int, told: str, hidden: str, series: Path, classifier_file: Path, tmp_path: Path,
    make_volume: Callable[..., Volume],
) -> None:  # fmt: skip
    """One line, the right code, no JSON and no file."""
    study, out, place = series, tmp_path / "out" / "report.dcm", ["--position", "-2.5 4.0 45.0"]
    out.parent.mkdir()
    if hidden == "file":
        study = tmp_path / "a.nii.gz"
        write_volume(make_volume(), study)
    elif hidden == "no frame":
        study = tmp_path / "bare"
        write_dicom_series(study, make_volume(dtype="uint16"))
    elif hidden == "missing":
        study = tmp_path / "missing"
    out = {"inside": series / "report.dcm", "nowhere": tmp_path / "nowhere" / "report.dcm"}.get(hidden, out)
    place = {"no position": [], "far": ["--position", "900 0 0"]}.get(hidden, place)
    before = sorted(path.name for path in series.iterdir())
    ran = run_study(
        "--model", classifier_file, study, *place, "--sr", out, hidden=hidden if hidden == "highdicom" else ""
    )
    assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
    assert re.fullmatch(r"error: [^\n]+\n", ran.stderr) and told in ran.stderr
    assert "Jörg" not in ran.stderr
    assert not list((tmp_path / "out").iterdir())
    assert sorted(path.name for path in series.iterdir()) == before


def test_missing_optional_fields_become_empty(
    make_volume: Callable[..., Volume], classifier_file: Path, tmp_path: Path
) -> None:
    """A de-identified series without birth date, sex and so on: empty means unknown."""
    write_dicom_series(tmp_path / "s", make_volume(dtype="uint16"), tags={"FrameOfReferenceUID": FRAME})
    ran = run_study("--model", classifier_file, tmp_path / "s", "--position", "-2.5 4 45", "--sr", tmp_path / "r.dcm")
    assert (ran.returncode, ran.stderr) == (0, "")
    report = pydicom.dcmread(tmp_path / "r.dcm")
    assert report.PatientBirthDate == "" and report.PatientID == "P1"


def test_real_series(classifier_file: Path, tmp_path: Path) -> None:
    """The finding of ProstateX-0000, on the scanner's own files."""
    data = Path(os.environ.get("PROSTATE_MIM_REAL_DATA", "")) / "prostatex"
    if "PROSTATE_MIM_REAL_DATA" not in os.environ or not data.is_dir():
        pytest.skip("real data not present: set PROSTATE_MIM_REAL_DATA to the folder with promise12/ and prostatex/")
    folder = next((data / "dicom" / "ProstateX-0000").rglob("*.dcm")).parent
    line = next(one for one in (data / "ProstateX-Findings-Train.csv").read_text().splitlines() if "0000,1" in one)
    place = line.split(",")[2]
    ran = run_study("--model", classifier_file, folder, "--position", place, "--sr", tmp_path / "r.dcm")
    assert (ran.returncode, ran.stderr) == (0, "")
    (lesion,) = said(highdicom.sr.srread(tmp_path / "r.dcm"))
    assert lesion["probability"] == json.loads(ran.stdout)["probability"]
    assert lesion["position"] == pytest.approx([float(word) for word in place.split()], abs=1e-3)
    nearest = pydicom.dcmread(next(p for p in folder.iterdir() if pydicom.dcmread(p).SOPInstanceUID == lesion["slice"]))
    along = np.asarray(nearest.ImageOrientationPatient, float)
    away = np.asarray(lesion["position"]) - np.asarray(nearest.ImagePositionPatient, float)
    assert abs(away @ np.cross(along[:3], along[3:])) <= 1.5 + 1e-3  # half the distance of slices
