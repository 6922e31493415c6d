"""Fixtures of the importers' tests: a manifest opened to the last row, and the folder of real data."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prostate_mim.manifest import read_manifest
from prostate_mim.studies import Study, open_all

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def opened() -> Callable[[Path], list[Study]]:
    """Read a manifest and open every row of it, its masks too: what was imported can be used."""

    def open_rows(manifest: Path) -> list[Study]:
        studies = list(open_all(read_manifest(manifest)))
        for study in studies:
            study.read_mask("gland")
            study.read_mask("lesion")
        return studies

    return open_rows


@pytest.fixture
def skipped() -> Callable[[Path], list[tuple[str, str]]]:
    """The (item, reason) pairs of the list beside a manifest."""

    def pairs(manifest: Path) -> list[tuple[str, str]]:
        with manifest.with_name(f"{manifest.stem}-skipped.csv").open(encoding="utf-8", newline="") as stream:
            return [(row["item"], row["reason"]) for row in csv.DictReader(stream)]

    return pairs


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, or a skip that says why."""
    folder = Path(os.environ.get("PROSTATE_MIM_REAL_DATA", PROJECT / ".." / "shared" / "data"))
    if not (folder / "prostatex").is_dir():
        pytest.skip(f"no real data at {folder}; set PROSTATE_MIM_REAL_DATA to the folder that holds prostatex/")
    return folder
