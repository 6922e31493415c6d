"""Fixtures of the study's tests: a labelled manifest of phantoms, others to pretrain on, a study that takes seconds."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

PATHS = ("t2w", "gland_mask", "lesion_mask", "zone_mask")
SMALL = """
name = "tiny"
seeds = [0, 1]
fractions = [0.5, 1.0]
samples = 60
device = "cpu"
architectures = ["resenc-s"]
pretraining_manifest = "others.csv"

[pretraining]
region_zyx = [8, 48, 48]
jitter_zyx = [0, 4, 4]
[pretraining.spec]
size_zyx = [8, 32, 32]
[pretraining.loop]
steps = 2
batch = 2
warmup = 1
health_every = 0
trackers = []
device = "cpu"

[[tasks]]
name = "lesions"
manifest = "lesions.csv"
folds = 2
[tasks.spec]
size_zyx = [8, 32, 32]

[[arms]]
name = "random"
initialisation = "random"

[[arms]]
name = "blocks"
"""
Rows = list[dict[str, str]]


@pytest.fixture(scope="session")
def needs_pyarrow() -> None:
    """Skip where the tables cannot be written."""
    if importlib.util.find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed: pip install 'prostate-mim[ray]'")


def read_rows(path: Path) -> Rows:
    """The rows of a manifest, its paths absolute."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row.update({name: str(path.parent / row[name]) for name in PATHS if row.get(name)})
    return rows


def write_rows(path: Path, rows: Rows) -> Path:
    """A manifest of some rows."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def study_folder(cohort: Path, tmp_path_factory: pytest.TempPathFactory, needs_pyarrow: None) -> Path:
    """``study.toml``, ``lesions.csv`` (10 phantoms, every second patient positive), ``others.csv``, and all studies."""
    folder = tmp_path_factory.mktemp("study")
    rows = read_rows(cohort)
    patients = list(dict.fromkeys(row["patient_id"] for row in rows))
    for row in rows:
        row["label"] = str(patients.index(row["patient_id"]) % 2)
    write_rows(folder / "lesions.csv", [row for row in rows if row["patient_id"] in patients[:-2]])
    studies = read_rows(cohort.parent / "studies.csv")
    every = list(dict.fromkeys(row["patient_id"] for row in studies))
    split = [{**row, "fold": str(every.index(row["patient_id"]) % 2)} for row in studies]
    write_rows(folder / "split.csv", split)
    write_rows(folder / "studies.csv", studies)
    lesion_patients = {row["patient_id"] for row in rows if row["patient_id"] in patients[:-2]}
    write_rows(folder / "others.csv", [row for row in studies if row["patient_id"] not in lesion_patients])
    (folder / "study.toml").write_text(SMALL)
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store of prepared studies for all: reading them takes longer than the rest."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def variant(study_folder: Path) -> Callable[..., Path]:
    """A function that writes the small study's TOML anew, words replaced and text added: ``variant((old, new))``."""
    made: list[Path] = []

    def write(*changes: tuple[str, str], more: str = "") -> Path:
        text = SMALL
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = study_folder / f"variant-{len(made)}.toml"
        made.append(path)
        path.write_text(text + more)
        return path

    return write
