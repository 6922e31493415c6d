"""Embedding and prediction of many studies: a Ray cluster, one parquet part per shard, one row per manifest row."""

from __future__ import annotations

from prostate_mim.archive.driver import ArchiveSummary, run_archive
from prostate_mim.archive.parts import read_archive

__all__ = ["ArchiveSummary", "read_archive", "run_archive"]
