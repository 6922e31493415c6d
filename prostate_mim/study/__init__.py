"""study: a grid of initialisations, label fractions and seeds -> tidy tables, each cell computed once."""

from __future__ import annotations

from prostate_mim.study.config import ArmConfig, ProbeOptions, StudyConfig, TaskConfig
from prostate_mim.study.reading import read_study
from prostate_mim.study.run import Failed, StudyRun, run_study

__all__ = [
    "ArmConfig",
    "Failed",
    "ProbeOptions",
    "StudyConfig",
    "StudyRun",
    "TaskConfig",
    "read_study",
    "run_study",
]
