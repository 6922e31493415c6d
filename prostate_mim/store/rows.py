"""One manifest row -> one entry. This is what a worker process runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prostate_mim.errors import IntegrityError, ManifestError, NotFoundError, ResourceError, VolumeError
from prostate_mim.manifest import Manifest, ManifestRow
from prostate_mim.spec import InputSpec
from prostate_mim.store.entry import Entry, locked
from prostate_mim.store.keys import entry_key
from prostate_mim.store.prepared import PreparedStudy, prepare_study
from prostate_mim.studies import open_study

PREPARED, REUSED, FAILED, BUSY = "prepared", "reused", "failed", "busy"


@dataclass(frozen=True)
class Job:
    """What a worker needs to prepare one row.

    Attributes:
        manifest: the CSV, for messages.
        row: the row.
        spec: with the size of the region.
        store: the store's folder, or None to prepare in memory.
        code: ``code_fingerprint()``, taken once for a whole manifest.
    """

    manifest: Path
    row: ManifestRow
    spec: InputSpec
    store: Path | None
    code: str

    @property
    def where(self) -> str:
        """How messages name the row."""
        return Manifest(self.manifest, ()).where(self.row)


@dataclass(frozen=True)
class Outcome:
    """What became of one row.

    Attributes:
        number: the manifest's row number.
        status: prepared, reused, failed, or busy (another process is making the entry: come back later).
        key: the entry's; empty where it failed.
        reason: why it failed, or what a person should know of it: a mask on another grid, an entry that was damaged and
            had to be made again; no path, no patient.
        study: the prepared study, where there is no store.
    """

    number: int
    status: str
    key: str = ""
    reason: str = ""
    study: PreparedStudy | None = None


def prepare_row(job: Job) -> Outcome:
    """Make or find the entry of one row. A study that cannot be read is an outcome, not an exception.

    Raises:
        ResourceError: the disk or the memory is full.
        UsageError: the store may not be written.
    """
    try:
        return _prepare(job)
    except (VolumeError, ManifestError, NotFoundError) as error:
        reason = " ".join(str(error).replace(job.where, "").split()).removeprefix(":").strip()
        return Outcome(job.row.number, FAILED, reason=reason)
    except MemoryError as error:
        raise ResourceError(f"{job.where}: out of memory; use fewer workers") from error


def _prepare(job: Job) -> Outcome:
    key = entry_key(job.row, job.spec, job.code, job.where)
    number = job.row.number
    if job.store is None:
        study, notes = _read(job, key)
        return Outcome(number, PREPARED, key, "; ".join(notes), study)
    entry = Entry(job.store, key)
    good, _ = _look(entry)
    if good:  # needs no lock: a complete entry may lie in a store that can only be read
        return Outcome(number, REUSED, key)
    with locked(job.store, key, 0) as held:
        if not held:
            return Outcome(number, BUSY, key)
        entry.sweep()
        good, damage = _look(entry)
        if good:
            return Outcome(number, REUSED, key)
        study, notes = _read(job, key)
        entry.write(study)
    again = [f"the entry was damaged ({damage}) and was made again"] if damage else []
    return Outcome(number, PREPARED, key, "; ".join((*again, *notes)))


def _look(entry: Entry) -> tuple[bool, str]:
    """Whether an entry is there and whole, and else what is wrong with it (nothing where there is none)."""
    try:
        return entry.read(mapped=False, verify=True) is not None, ""
    except IntegrityError as error:
        return False, str(error)


def _read(job: Job, key: str) -> tuple[PreparedStudy, tuple[str, ...]]:
    """The prepared study, and what a person should know of it."""
    opened = open_study(Manifest(job.manifest, (job.row,)), job.row)
    study = prepare_study(opened, job.spec)
    if entry_key(job.row, job.spec, job.code, job.where) != key:
        raise VolumeError(f"{job.where}: a file of it changed while it was read; let it rest and prepare it again")
    return study, opened.notes
