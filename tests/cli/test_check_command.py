"""data check, and the flags that predict carries: real files, real commands."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from outcomes import refused
from wrong_inputs import WRONG

from prostate_mim.checking import check_manifest
from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.prediction import NO_POSITION
from prostate_mim.encoder import PreMIM
from prostate_mim.phantom import make_study
from prostate_mim.volume import Volume, read_volume, write_volume
from prostate_mim.volume.geometry import Geometry

PLANTED = "doe-john"  # in the path and in both ids of every row
Make = Callable[[str, list[dict[str, str]]], Path]
COLUMNS = ("study_id", "patient_id", "t2w", "lesion_id", "spacing_mm_zyx", "is_crop", "fold")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and wrong volumes, by name."""
    folder = tmp_path_factory.mktemp("check")
    good, other = make_study(77, 0).volume, make_study(77, 2).volume
    write_volume(good, folder / f"{PLANTED}-good.nii.gz")
    write_volume(good, folder / f"{PLANTED}-copy.mha")
    write_volume(other, folder / f"{PLANTED}-other.nii.gz")
    for name, kind in (("head", "head"), ("double", "spacing x 2")):  # of 'other': its field of view is 155 mm
        write_volume(WRONG[kind](other, np.random.default_rng(5)), folder / f"{PLANTED}-{name}.nii.gz")
    turned = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    write_volume(Volume(good.voxels, Geometry((3.0, 0.5, 0.5), direction=turned)), folder / f"{PLANTED}-sagittal.mha")
    whole = (folder / f"{PLANTED}-good.nii.gz").read_bytes()
    (folder / f"{PLANTED}-cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    np.save(folder / f"{PLANTED}-crop.npy", good.voxels[10, 100:150, 100:150])
    return folder


@pytest.fixture
def make(files: Path) -> Iterator[Make]:
    """Write a manifest beside the files: rows are given by the columns that matter, the t2w by its short name."""
    made = []

    def write(name: str, rows: list[dict[str, str]]) -> Path:
        path = files / name
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, restval="")
            writer.writeheader()
            for number, row in enumerate(rows):
                ids = {"study_id": f"{PLANTED}-s{number}", "patient_id": f"{PLANTED}-p{number}"}
                writer.writerow({**ids, **row, "t2w": f"{PLANTED}-{row['t2w']}"})
        made.append(path)
        return path

    yield write
    for path in made:
        path.unlink()


def flagged(outcome: Any) -> set[tuple[str, str]]:
    return {(line["row"], line["check"]) for line in outcome.json["flagged"]}


def test_good_manifest_passes(run, make: Make) -> None:
    """The control: two phantoms, one of them as a crop too; exit code 0, scores for the whole volumes."""
    crop = {"t2w": "crop.npy", "spacing_mm_zyx": "3 0.5 0.5", "is_crop": "1"}
    made = run("data", "check", make("m.csv", [{"t2w": "good.nii.gz"}, {"t2w": "other.nii.gz"}, crop]), "--json")
    assert made.code == 0, made.err
    assert (made.json["rows"], made.json["flagged_rows"], made.json["flagged"]) == (3, 0, [])
    assert set(made.json["outlier_scores"]) == {"1", "2"}


def test_one_thread_and_then_as_before(make: Make) -> None:
    """Torch's threads would wait for cores that others hold; the caller's count is put back, after an error too."""
    manifest, seen, before = make("m.csv", [{"t2w": "good.nii.gz"}]), [], torch.get_num_threads()

    def stop(done: int, total: int) -> None:
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    try:
        torch.set_num_threads(2)
        check_manifest(manifest, progress=lambda done, total: seen.append(torch.get_num_threads()))
        with pytest.raises(KeyboardInterrupt):
            check_manifest(manifest, progress=stop)
        assert (seen, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(before)


def test_every_kind_of_row_is_reported(run, make: Make, tmp_path: Path) -> None:
    """Unreadable and sagittal rows do not end the check; each wrong row says its number; nothing names a patient."""
    names = ("good.nii.gz", "cut.nii.gz", "sagittal.mha", "double.nii.gz", "head.nii.gz")
    manifest = make("m.csv", [{"t2w": name} for name in names])
    made = run("data", "check", manifest, "--json", "--out", tmp_path / "new" / "report.csv")
    assert made.code == 9
    found = flagged(made)
    assert {number for number, _ in found} == {"2", "3", "4", "5"}
    assert {("2", "readable"), ("3", "orientation"), ("4", "field of view x"), ("5", "outlier score")} <= found
    assert (made.json["flagged_rows"], made.json["unreadable_rows"]) == (4, 1)
    orientation = next(line for line in made.json["flagged"] if line["check"] == "orientation")
    assert (orientation["value"], orientation["allowed"]) == ("sagittal", "axial")
    table = (tmp_path / "new" / "report.csv").read_text()
    assert table.splitlines()[0] == "row,check,value,allowed,message"
    for text in (made.out, made.err, table):
        assert PLANTED not in text
    assert "4 of 5 rows are flagged" in made.err


def test_table_for_people(run, make: Make) -> None:
    """Without --json: a table with row, check, value and range, and how many rows were checked."""
    made = run("data", "check", make("m.csv", [{"t2w": "double.nii.gz"}]))
    assert made.code == 9
    for text in ("row", "check", "value", "allowed", "1 rows checked", "1 flagged"):
        assert text in made.out
    assert PLANTED not in made.out
    passed = run("data", "check", make("good.csv", [{"t2w": "good.nii.gz"}]))
    assert passed.code == 0
    assert "nothing flagged" in passed.out
    (note,) = [line for line in passed.out.splitlines() if "sha256" in line]  # not broken at the terminal's width
    assert note.startswith("note: 1 of 1 rows have no sha256") and "docs/data.md" in note


def test_overlap_within_and_between(run, make: Make) -> None:
    """One image under two ids, in two formats; the same in another manifest; allowed, it is listed all the same."""
    twice = make("twice.csv", [{"t2w": "good.nii.gz"}, {"t2w": "copy.mha"}])
    made = run("data", "check", twice, "--json")
    assert made.code == 9
    assert [(line["row"], line["value"]) for line in made.json["flagged"]] == [("1 2", "same voxels")]
    allowed = run("data", "check", twice, "--allow-overlap", "--json")
    assert allowed.code == 0
    assert allowed.json["overlaps"] == 1
    own = make("own.csv", [{"t2w": "good.nii.gz"}])
    apart = make("apart.csv", [{"t2w": "other.nii.gz", "study_id": "b", "patient_id": "b"}])
    same = make("same.csv", [{"t2w": "copy.mha", "study_id": "c", "patient_id": "c"}])
    assert run("data", "check", own, "--against", apart, "--json").code == 0
    found = run("data", "check", own, "--against", same, "--json")
    assert found.code == 9
    assert found.json["overlaps"] == 1


def test_bad_arguments(run, make: Make, tmp_path: Path) -> None:
    """A missing manifest and a missing model are refused before anything is read."""
    refused(run("data", "check", tmp_path / "no.csv"), 3, "no.csv")
    refused(run("data", "check", make("m.csv", [{"t2w": "good.nii.gz"}]), "--model", "resenc-s.mim"), 3, "resenc-s.mim")


# -------------------------------------------------------------------------------------------------------- predict


@pytest.fixture(scope="module")
def classifier(small_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose head is untrained."""
    model = LesionClassifier(PreMIM.from_pretrained(small_encoder))
    return model.save_pretrained(tmp_path_factory.mktemp("classifier") / "c")


def test_predict_carries_flags(run, files: Path, classifier: Path) -> None:
    """A good study has none, a wrong one has; in text they are warnings on stderr, the probability stays on stdout."""
    path = files / f"{PLANTED}-good.nii.gz"
    place = " ".join(map(str, read_volume(path).centre_mm_lps))
    good = run("predict", path, "--position", place, "--model", classifier, "--json")
    assert good.code == 0, good.err
    assert good.json["flags"] == []
    wrong = run("predict", files / f"{PLANTED}-double.nii.gz", "--model", classifier, "--json")
    assert wrong.code == 0
    assert any(flag.startswith("field of view along x is 310 mm") for flag in wrong.json["flags"])
    text = run("predict", files / f"{PLANTED}-double.nii.gz", "--model", classifier)
    assert text.code == 0
    assert len(text.out.splitlines()) == 1
    assert "warning: " in text.err
    assert "310 mm" in text.err


def test_strict_refuses(run, files: Path, make: Make, classifier: Path) -> None:
    """Exit code 9 with the number that is off, for a study and for a manifest's row; good ones pass."""
    words = ("--model", classifier, "--strict", "--json")
    assert run("predict", files / f"{PLANTED}-good.nii.gz", *words).code == 0
    refused(run("predict", files / f"{PLANTED}-double.nii.gz", *words), 9, "allowed", "other finding", "--strict")
    manifest = make("m.csv", [{"t2w": "good.nii.gz"}, {"t2w": "double.nii.gz"}])
    outcome = run("predict", "--manifest", manifest, *words)
    refused(outcome, 9, "row 2", "allowed")
    assert PLANTED not in outcome.err
    passed = run("predict", "--manifest", manifest, "--model", classifier, "--json")
    assert passed.json[0]["flags"] == [NO_POSITION]  # no matter of the image: --strict has let it pass above
    assert [len(row["flags"]) > 1 for row in passed.json] == [False, True]
    assert passed.json[1]["flags"][-1] == NO_POSITION


def test_strict_needs_one_process(run, make: Make, classifier: Path, tmp_path: Path) -> None:
    """An archive never refuses a row for its flags: it has a column for them."""
    manifest = make("m.csv", [{"t2w": "good.nii.gz"}])
    words = ("--engine", "ray", "--out", tmp_path / "out", "--strict")
    refused(run("predict", "--manifest", manifest, "--model", classifier, *words), 2, "--strict", "flags")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
