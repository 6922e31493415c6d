"""``data split``: the manifest again, with a complete column of folds, and nothing else changed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from outcomes import refused

from prostate_mim.folds import assign_folds
from prostate_mim.manifest import read_manifest


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_only_the_column_of_folds_is_new(run, cohort: Path) -> None:
    """Beside the manifest: every other cell is the same, the figures are those of the file, and training takes it."""
    out = cohort.parent / "split.csv"
    shown = run("data", "split", cohort, "--out", out, "--folds", 3, "--seed", 4, "--json").json
    before, after = rows_of(cohort), rows_of(out)
    assert [{name: row[name] for name in row if name != "fold"} for row in after] == before
    for fold in shown["folds"]:
        own = [row for row in after if row["fold"] == str(fold["number"])]
        assert fold["rows"] == len(own)
        assert fold["patients"] == len({row["patient_id"] for row in own})
        assert fold["centres"] == {
            centre: len({row["patient_id"] for row in own if row["centre"] == centre})
            for centre in sorted({row["centre"] for row in own})
        }
        assert fold["positives"] == len({row["patient_id"] for row in own if row["label"] == "1"})
    assert sum(fold["rows"] for fold in shown["folds"]) == len(before)
    listed = read_manifest(out, labels=True)
    assert assign_folds(listed, 5, 0) == [int(row["fold"]) for row in after]
    assert assign_folds(read_manifest(cohort), 3, 4) == [int(row["fold"]) for row in after]


def test_paths_are_right_in_another_folder(run, cohort: Path, tmp_path: Path) -> None:
    """In another folder the same files are named, in columns that are not known too; absolute paths stay."""
    rows = rows_of(cohort)
    rows[0]["t2w"] = str(cohort.parent / rows[0]["t2w"])
    rows = [row for row in rows if row["study_id"] != rows[0]["study_id"]] + rows[:1]
    mixed = write_rows(cohort.parent / "mixed.csv", rows)
    out = tmp_path / "deep" / "split.csv"
    out.parent.mkdir()
    assert run("data", "split", mixed, "--out", out, "--folds", 2).code == 0
    for one, two in zip(read_manifest(mixed).rows, read_manifest(out).rows, strict=True):
        assert (one.t2w, one.gland_mask, one.lesion_mask) == (two.t2w, two.gland_mask, two.lesion_mask)
    made = rows_of(out)
    assert all((out.parent / row["zone_mask"]).exists() for row in made)
    assert made[-1]["t2w"] == rows[-1]["t2w"]
    assert not made[0]["t2w"].startswith("/")


def test_folds_by_centre_and_recorded_ones(run, cohort: Path, tmp_path: Path) -> None:
    """One fold a centre; then a patient without a fold joins, and all others stay."""
    rows = rows_of(cohort)
    for row in rows:
        row["centre"] = "B" if int(row["patient_id"][-1], 36) % 2 else "A"
        for name in row:
            if name == "t2w" or name.endswith("_mask"):
                row[name] = str(cohort.parent / row[name]) if row[name] else ""
    given = write_rows(tmp_path / "centres.csv", rows)
    text = run("data", "split", given, "--out", tmp_path / "by.csv", "--by-centre").out
    made = rows_of(tmp_path / "by.csv")
    assert {(row["centre"], row["fold"]) for row in made} == {("A", "0"), ("B", "1")}
    patients = len({row["patient_id"] for row in rows if row["centre"] == "A"})
    assert text.startswith(f"fold 0: {patients} patients (")
    assert f"A {patients}" in text.splitlines()[0]

    joined = made[0]["patient_id"]
    for row in made:
        row["fold"] = "" if row["patient_id"] == joined else row["fold"]
    again = run("data", "split", write_rows(tmp_path / "part.csv", made), "--out", tmp_path / "full.csv")
    assert again.code == 0, again.err
    full = rows_of(tmp_path / "full.csv")
    assert all(one["fold"] == two["fold"] for one, two in zip(made, full, strict=True) if one["fold"])
    assert all(row["fold"] for row in full)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--folds", 13), 2, "13 folds were asked for, but there are only"),
        (("--by-centre", "--folds", 2), 2, "leave out --folds"),
        (("--folds", 1), 2, "2"),
    ],
)
def test_refusals(run, cohort: Path, tmp_path: Path, words: tuple[object, ...], code: int, said: str) -> None:
    """Too many folds, folds by centre that are counted, one fold: nothing is written."""
    found = run("data", "split", cohort, "--out", tmp_path / "x.csv", *words)
    assert found.code == code
    assert said in found.err
    assert not (tmp_path / "x.csv").exists()


def test_nothing_is_overwritten(run, cohort: Path) -> None:
    """The manifest itself, too, stays as it is."""
    before = cohort.read_bytes()
    refused(run("data", "split", cohort, "--out", cohort), 2, "nothing is overwritten")
    assert cohort.read_bytes() == before
