"""Prepared studies: resampled once, kept as compressed integers on disk, or in memory in the very same form."""

from __future__ import annotations

from prostate_mim.store.prepare import (
    REGION_ZYX,
    Failure,
    PreparedManifest,
    PreparedRow,
    StoreSummary,
    prepare_manifest,
    prepare_store,
)
from prostate_mim.store.prepared import BITS, PreparedStudy, prepare_study

__all__ = [
    "BITS",
    "REGION_ZYX",
    "Failure",
    "PreparedManifest",
    "PreparedRow",
    "PreparedStudy",
    "StoreSummary",
    "prepare_manifest",
    "prepare_store",
    "prepare_study",
]
