"""Phantom studies, prepared as training sees them, and a monitor of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.health import HealthMonitor, Watched
from prostate_mim.manifest import read_manifest
from prostate_mim.store import prepare_study
from prostate_mim.studies import open_all

sys.path.insert(0, str(Path(__file__).parent))  # health_parts.py

from health_parts import SMALL, SPEC


@pytest.fixture(scope="session")
def studies(cohort: Path) -> list[Watched]:
    """A watched study per lesion row of the cohort, with label, patient and centre as numbers."""
    listed = read_manifest(cohort)
    patients = sorted({row.patient_id for row in listed.rows})
    centres = sorted({row.centre for row in listed.rows if row.centre})
    region = SPEC.with_size((12, 96, 96))
    return [
        Watched(
            prepare_study(study, region),
            -1 if study.row.label is None else study.row.label,
            patients.index(study.row.patient_id),
            centres.index(study.row.centre) if study.row.centre else -1,
        )
        for study in open_all(listed)
    ]


@pytest.fixture(scope="session")
def monitor(studies: list[Watched]) -> HealthMonitor:
    """A small monitor of four studies and all labelled ones."""
    return HealthMonitor(studies, studies, SPEC, SMALL, seed=1)


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded."""
    return np.random.default_rng(0)
