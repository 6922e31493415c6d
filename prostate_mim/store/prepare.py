"""A whole manifest, prepared: in memory, or in a store on disk that later runs find again."""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from prostate_mim.errors import IntegrityError, ResourceError, UsageError, VolumeError
from prostate_mim.files import write_text
from prostate_mim.manifest import Manifest, ManifestRow, read_manifest
from prostate_mim.spec import InputSpec
from prostate_mim.store.contents import contents_of
from prostate_mim.store.entry import Entry, locked, make_store, remove, sweep_orphans
from prostate_mim.store.keys import canonical, code_fingerprint, digest
from prostate_mim.store.prepared import PreparedStudy
from prostate_mim.store.rows import FAILED, PREPARED, REUSED, Job, Outcome
from prostate_mim.store.workers import outcomes

REGION_ZYX = (24, 256, 256)
"""Voxels of a prepared region where nothing else is asked for: room for a default crop to wander in."""

REPORT = "report.csv"
Progress = Callable[[int, int], None]
_REPORT_LOCK_S = 60


@dataclass(frozen=True, eq=False)
class PreparedRow:
    """A manifest row and its study."""

    row: ManifestRow
    study: PreparedStudy


@dataclass(frozen=True)
class Failure:
    """A manifest row that could not be prepared, and why; the reason names no path and no patient."""

    number: int
    reason: str


@dataclass(frozen=True, eq=False)
class PreparedManifest:
    """Every row of a manifest that could be prepared, in the manifest's order.

    Attributes:
        rows: rows with their studies.
        failures: the others.
        made: entries made now (in memory: all).
        reused: entries found in the store.
        fingerprint: hash over the entries' keys: equal for equal files, spec and code, with and without a store.
    """

    rows: tuple[PreparedRow, ...]
    failures: tuple[Failure, ...]
    made: int
    reused: int
    fingerprint: str

    @cached_property
    def contents(self) -> str:
        """Hash over what the rows hold, in order (``contents_of``): equal for equal regions, whatever code made them.

        The first look at it reads every region once: seconds for hundreds of them.

        Raises:
            IntegrityError: an entry can no longer be read.
        """
        return digest(canonical([contents_of(one.study) for one in self.rows]))

    @property
    def voxel_hashes(self) -> dict[int, str]:
        """Row number -> ``voxel_hash`` of its whole volume, for ``leaks``; nothing is read again."""
        return {one.row.number: one.study.voxel_hash for one in self.rows if one.study.voxel_hash}


@dataclass(frozen=True)
class StoreSummary:
    """What ``prepare_store`` did.

    Attributes:
        made: entries made now.
        reused: rows whose entry was there.
        failed: rows that could not be prepared.
        bytes: size on disk of this manifest's entries.
        seconds: wall-clock time.
        fingerprint: as in ``PreparedManifest``.
        report: the CSV that says it row by row.
    """

    made: int
    reused: int
    failed: int
    bytes: int
    seconds: float
    fingerprint: str
    report: Path


def prepare_manifest(
    manifest: Manifest,
    spec: InputSpec,
    store: Path | None,
    *,
    workers: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> PreparedManifest:
    """Prepare every row, or find it in the store.

    Args:
        manifest: the rows.
        spec: spacing, and the size of the region (not of the crops that are drawn from it).
        store: a folder for the entries; None keeps the same integers in memory.
        workers: processes that prepare; 0 does it in this one.
        skip_bad: go on without the rows that cannot be prepared.
        progress: called with the number of rows done and of all rows.

    Raises:
        VolumeError: rows cannot be prepared; all others were, and the report of the store names every one.
        ResourceError: the disk or the memory is full; what was made stays.
        UsageError: the store may not be written.
    """
    found = _prepare(manifest, spec, store, workers, skip_bad, progress)
    rows = []
    mapped = _may_map(len(found))
    for row in manifest.rows:
        outcome = found[row.number]
        if outcome.status != FAILED:
            rows.append(PreparedRow(row, outcome.study or _open(store, manifest, row, outcome.key, mapped)))
    failures = tuple(Failure(item.number, item.reason) for item in found.values() if item.status == FAILED)
    made, reused = _count(found, PREPARED), _count(found, REUSED)
    return PreparedManifest(tuple(rows), failures, made, reused, _fingerprint(found))


def prepare_store(
    manifest_path: Path,
    store: Path,
    size_zyx: tuple[int, int, int] = REGION_ZYX,
    spacing_mm_zyx: tuple[float, float, float] | None = None,
    *,
    spec: InputSpec | None = None,
    workers: int = 1,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> StoreSummary:
    """Fill a store: what ``prostate-mim data prepare`` does.

    Args:
        manifest_path: the CSV.
        store: the folder; created where missing.
        size_zyx: voxels of a region.
        spacing_mm_zyx: of the regions, mm; the spec's if None.
        spec: all other rules of what will read the store (its size is not looked at); the default one if None.
        workers, skip_bad, progress: as for ``prepare_manifest``.

    Raises:
        NotFoundError, ManifestError: the manifest.
        VolumeError, ResourceError, UsageError: as ``prepare_manifest``.
    """
    begin = time.perf_counter()
    try:
        rules = spec or InputSpec()
        region = replace(rules, spacing_mm_zyx=spacing_mm_zyx or rules.spacing_mm_zyx, size_zyx=size_zyx)
    except IntegrityError as error:
        raise UsageError(f"the region is impossible: {error}; choose another size or spacing") from error
    found = _prepare(read_manifest(manifest_path), region, store, workers, skip_bad, progress)
    keys = {item.key for item in found.values() if item.status != FAILED}
    return StoreSummary(
        made=_count(found, PREPARED),
        reused=_count(found, REUSED),
        failed=_count(found, FAILED),
        bytes=sum(Entry(store, key).size_bytes for key in keys),
        seconds=time.perf_counter() - begin,
        fingerprint=_fingerprint(found),
        report=store / REPORT,
    )


def _prepare(
    manifest: Manifest, spec: InputSpec, store: Path | None, workers: int, skip_bad: bool, progress: Progress | None
) -> dict[int, Outcome]:
    """Row number -> outcome, in the manifest's order."""
    if workers < 0:
        raise UsageError(f"workers is {workers}; use 0 (this process) or more")
    if store is not None:
        make_store(store)
        if os.access(store, os.W_OK):
            sweep_orphans(store)
    code = code_fingerprint()
    jobs = [Job(manifest.path, row, spec, store, code) for row in manifest.rows]
    found: dict[int, Outcome] = {}
    for outcome in outcomes(jobs, workers):
        found[outcome.number] = outcome
        if outcome.status == PREPARED and outcome.reason:
            sys.stderr.write(f"warning: row {outcome.number}: {outcome.reason}\n")
        if progress is not None:
            progress(len(found), len(jobs))
    found = {row.number: found[row.number] for row in manifest.rows}
    if store is not None:
        _write_report(store, found)
    _refuse_failures(manifest, found, store, skip_bad)
    return found


def _refuse_failures(manifest: Manifest, found: dict[int, Outcome], store: Path | None, skip_bad: bool) -> None:
    failed = [item for item in found.values() if item.status == FAILED]
    if failed and (not skip_bad or len(failed) == len(found)):
        every = "" if store is None else f" {store / REPORT} names every one;"
        raise VolumeError(
            f"{manifest.path}: {len(failed)} of {len(found)} rows cannot be prepared, the first is row "
            f"{failed[0].number}: {failed[0].reason};{every} correct or remove them, or leave them out with --skip-bad "
            "(skip_bad=True)"
        )


def _write_report(store: Path, found: dict[int, Outcome]) -> None:
    if not os.access(store, os.W_OK) and all(item.status == REUSED for item in found.values()):
        return  # a complete store is used where it may only be read
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "status", "reason"))
    writer.writerows((item.number, item.status, item.reason) for item in found.values())
    with locked(store, "report", _REPORT_LOCK_S) as held:
        if not held:
            raise ResourceError(f"{store}: another process keeps its report locked; end it and prepare again")
        remove(store, f".{REPORT}.*")
        write_text(store / REPORT, text.getvalue())


def _open(store: Path | None, manifest: Manifest, row: ManifestRow, key: str, mapped: bool) -> PreparedStudy:
    """The entry that was verified a moment ago."""
    try:
        study = None if store is None else Entry(store, key).read(mapped=mapped, verify=False)
    except IntegrityError as error:
        raise IntegrityError(f"{manifest.where(row)}: {error}; prepare the store again") from error
    if study is None:
        raise IntegrityError(f"{manifest.where(row)}: its entry was removed from the store meanwhile; prepare it again")
    return study


def _may_map(entries: int) -> bool:
    """Whether so many files may be kept open at once: some systems allow a process only 1,024."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return allowed == resource.RLIM_INFINITY or 2 * entries <= allowed


def _count(found: dict[int, Outcome], status: str) -> int:
    return sum(item.status == status for item in found.values())


def _fingerprint(found: dict[int, Outcome]) -> str:
    keys: Sequence[str] = [item.key for item in found.values() if item.status != FAILED]
    return digest(canonical(keys))
