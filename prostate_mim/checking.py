"""data check: read every row of a manifest once, and say what is off: unreadable, not axial T2w, or a leak."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prostate_mim.errors import ProstateMimError
from prostate_mim.hub import open_release
from prostate_mim.leaks import Leak, model_saw, overlap_between, read_aliases, same_person, same_voxels
from prostate_mim.manifest import Manifest, ManifestRow, read_manifest
from prostate_mim.modality import Finding, Guard
from prostate_mim.prediction import load_guard
from prostate_mim.studies import Study, open_all, without_hash
from prostate_mim.volume.voxel_hash import voxel_hash

Progress = Callable[[int, int], None]
COLUMNS = ("row", "check", "value", "allowed", "message")
_STACK = re.compile(r"describes a (sagittal|coronal) stack")


@dataclass(frozen=True)
class RowReport:
    """What became of one row.

    Attributes:
        row: its number in the manifest.
        findings: what is off with its image.
        reason: why it cannot be read, without a path; empty if it can.
        notes: what a person should know, such as a mask on another grid; nothing is off.
        outlier_score: of the encoder's features; None for crops, and where there is no score.
    """

    row: int
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()
    outlier_score: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it can be read and nothing is off."""
        return not self.findings and not self.reason


@dataclass(frozen=True)
class CheckReport:
    """A checked manifest.

    Attributes:
        rows: one report a row, in order.
        leaks: studies or persons that are on two sides.
        allow_overlap: leaks are listed, but do not count.
        notes: what could not be checked.
    """

    rows: tuple[RowReport, ...]
    leaks: tuple[Leak, ...]
    allow_overlap: bool
    notes: tuple[str, ...]

    @property
    def flagged_rows(self) -> int:
        """How many rows are unreadable or have findings."""
        return sum(not row.ok for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether nothing is flagged; leaks that were allowed are not."""
        return not self.flagged_rows and (self.allow_overlap or not self.leaks)

    def lines(self) -> list[tuple[str, str, str, str, str]]:
        """Everything flagged, as (row or rows, check, value, allowed, message)."""
        found = []
        for row in self.rows:
            if row.reason:
                found.append((str(row.row), "readable", "no", "yes", row.reason))
            for finding in row.findings:
                found.append((str(row.row), finding.check, str(finding.value), finding.allowed, finding.message))
        for leak in self.leaks:
            rows = " ".join(str(number) for number in leak.rows)
            found.append((rows, "overlap", leak.kind, "allowed" if self.allow_overlap else "none", leak.message))
        return found

    def as_csv(self) -> str:
        """``lines`` with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(self.lines())
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "ok": self.ok,
            "rows": len(self.rows),
            "flagged_rows": self.flagged_rows,
            "unreadable_rows": sum(bool(row.reason) for row in self.rows),
            "overlaps": len(self.leaks),
            "allow_overlap": self.allow_overlap,
            "notes": [*self.notes, *(f"row {row.row}: {note}" for row in self.rows for note in row.notes)],
            "outlier_scores": {str(row.row): row.outlier_score for row in self.rows if row.outlier_score is not None},
            "flagged": [dict(zip(COLUMNS, line, strict=True)) for line in self.lines()],
        }


def check_manifest(
    manifest: str | Path,
    *,
    against: str | Path | None = None,
    model: str | Path | None = None,
    picai_labels: str | Path | None = None,
    allow_overlap: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    """Read every row once, and check its image and whether it is on two sides.

    An unreadable row is a row with its reason, not the end. Nothing names a patient, a study or a path.

    Args:
        manifest: CSV of studies or lesions.
        against: another manifest, whose studies and persons must not be in this one.
        model: a release that must not have seen these studies.
        picai_labels: the user's picai_labels folder, which says who is in PROSTATEx and in PI-CAI.
        allow_overlap: report studies and persons on two sides, but do not count them.
        progress: called with (rows done, rows in all).

    Raises:
        ManifestError, NotFoundError: a manifest is malformed, or names a file that does not exist.
        NotFoundError, IntegrityError, NetworkError: the model.
    """
    listed = read_manifest(manifest)
    other = None if against is None else read_manifest(against)
    aliases = {} if picai_labels is None else read_aliases(Path(picai_labels))
    release = None if model is None else open_release(model)
    reader = _Reader(len(listed.rows) + (len(other.rows) if other else 0), progress)
    with _one_thread():
        rows, hashes = reader.read(listed, load_guard())
    leaks = [*same_voxels(listed.rows, hashes), *same_person(listed.rows, aliases, _folds(listed))]
    unhashed = without_hash(listed)
    notes = [unhashed] if unhashed else []
    if other is not None:
        others, other_hashes = reader.read(other, None)
        leaks += overlap_between(listed.rows, hashes, other.rows, other_hashes, aliases)
        unread = sum(bool(row.reason) for row in others)
        if unread:
            notes.append(f"{unread} rows of the other manifest cannot be read: their voxels were not compared")
    if release is not None:
        for seen in release.studies.known:
            leaks += model_saw(listed.rows, hashes, seen)
        if not release.studies.known:
            notes.append(f"{release.name} does not say which studies it has seen: overlap with it cannot be told")
    return CheckReport(tuple(rows), tuple(leaks), allow_overlap, tuple(notes))


@contextmanager
def _one_thread() -> Iterator[None]:
    """A pass over one small crop gains nothing by threads, and where other work keeps the cores, they wait for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Reader:
    """Reads manifests row by row, and tells how far it is."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def read(self, manifest: Manifest, guard: Guard | None) -> tuple[list[RowReport], dict[int, str]]:
        """Reports of the rows (without findings if there is no guard), and the voxel hashes of those that are read."""
        reports, hashes = [], {}
        last: tuple[Any, str] | None = None
        for row, found in _opened(manifest):
            if isinstance(found, ProstateMimError):
                reports.append(_unread(manifest, row, found))
            else:
                if last is None or last[0] is not found.volume.voxels:
                    last = found.volume.voxels, voxel_hash(found.volume)
                hashes[row.number] = last[1]
                reports.append(_report(found, guard))
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
        return reports, hashes


def _opened(manifest: Manifest) -> Iterator[tuple[ManifestRow, Study | ProstateMimError]]:
    """Every row as a study, or as the reason why it is none; what consecutive rows share is read once."""
    studies: Iterator[Study] | None = None
    for place, row in enumerate(manifest.rows):
        studies = studies or open_all(Manifest(manifest.path, manifest.rows[place:]))
        try:
            yield row, next(studies)
        except ProstateMimError as error:
            studies = None
            yield row, error


def _report(study: Study, guard: Guard | None) -> RowReport:
    if guard is None:
        return RowReport(study.row.number, notes=study.notes)
    report = guard(study.volume, study.row.is_crop)
    notes = (*study.notes, report.note) if report.note else study.notes
    return RowReport(study.row.number, report.findings, "", notes, report.outlier_score)


def _unread(manifest: Manifest, row: ManifestRow, error: ProstateMimError) -> RowReport:
    """A stack in another plane is a finding with a value; all else is a reason."""
    reason = " ".join(str(error).split()).replace(f"{manifest.where(row)}", "").strip(" :")
    stack = _STACK.search(reason)
    if stack is None:
        return RowReport(row.number, reason=reason)
    return RowReport(row.number, (Finding("orientation", stack[1], "axial", f"not axial: {reason}"),))


def _folds(manifest: Manifest) -> list[int] | None:
    """The rows' folds; None where a row has none."""
    folds = [row.fold for row in manifest.rows if row.fold is not None]
    return folds if len(folds) == len(manifest.rows) else None
