"""A small cohort on disk: four studies, two with masks, one whose voxels must be interpolated."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prostate_mim.manifest import Manifest, read_manifest

sys.path.insert(0, str(Path(__file__).parent))  # small_cohort.py

from small_cohort import cohort_rows, write_rows, write_study

MakeCohort = Callable[..., Path]


@pytest.fixture(scope="session")
def make_cohort(tmp_path_factory: pytest.TempPathFactory) -> MakeCohort:
    """``make_cohort(count)`` -> path of a manifest in a folder of its own."""

    def make(count: int = 4, **options: object) -> Path:
        folder = tmp_path_factory.mktemp("studies")
        for number in range(count):
            write_study(folder, number, **({"spacing": 0.8} if number == 1 else {}), **options)  # type: ignore[arg-type]
        return write_rows(folder / "list.csv", cohort_rows(count))

    return make


@pytest.fixture(scope="session")
def manifest(make_cohort: MakeCohort) -> Manifest:
    """Four studies that no test changes."""
    return read_manifest(make_cohort())
