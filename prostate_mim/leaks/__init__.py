"""One patient on both sides of a split: alarms for every way in which that happens unseen."""

from __future__ import annotations

from prostate_mim.leaks.alarms import (
    MODEL_SAW,
    SAME_PERSON,
    SAME_VOXELS,
    TWO_FOLDS,
    Leak,
    model_saw,
    overlap_between,
    refuse,
    same_person,
    same_voxels,
)
from prostate_mim.leaks.aliases import read_aliases
from prostate_mim.leaks.hashes import StudyHashes

__all__ = [
    "MODEL_SAW",
    "SAME_PERSON",
    "SAME_VOXELS",
    "TWO_FOLDS",
    "Leak",
    "StudyHashes",
    "model_saw",
    "overlap_between",
    "read_aliases",
    "refuse",
    "same_person",
    "same_voxels",
]
