"""The parts of an archive: one parquet file per shard, written at once, that says whose rows it holds and how made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_mim.archive.job import FORMAT, Job
from prostate_mim.errors import BackendError, IntegrityError, NotFoundError, UsageError
from prostate_mim.files import atomic_path
from prostate_mim.manifest import ManifestRow

PATTERN = "part-*.parquet"
OK, FAILED = "ok", "failed"
_KEY = b"prostate-mim"
# The order in which differences are named: the first is the likeliest reason of those after it.
_NAMES = {
    "format": "format",
    "task": "task",
    "model": "model",
    "revision": "model revision",
    "spec": "input spec",
    "manifest": "manifest content",
    "rows": "number of manifest rows",
    "shard_rows": "shard_rows",
    "shards": "number of shards",
    "shard": "shard number",
    "first": "first row",
    "last": "last row",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one manifest row.

    Attributes:
        row: the manifest row.
        reason: empty, or why there is no result: one line that names no path.
        result: the task's own columns by name; None where the row failed.
    """

    row: ManifestRow
    reason: str
    result: dict[str, Any] | None


def import_pyarrow(what: str = "an archive", extra: str = "ray") -> tuple[Any, Any]:
    """``(pyarrow, pyarrow.parquet)``.

    Args:
        what: needs it, for the message.
        extra: of this package that brings it.

    Raises:
        BackendError: not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BackendError(f"{what} needs pyarrow ({error}); pip install 'prostate-mim[{extra}]'") from error
    return pyarrow, pyarrow.parquet


def schema(task: str) -> Any:
    """The parquet columns of a task, in order (a ``pyarrow.Schema``).

    row int64 (1 = the first after the manifest's header), study_id, lesion_id, status (``ok`` or ``failed``), reason
    (empty if ok); embed: embedding list of C float32; predict: probability float64, device, and flags (a list of
    lines: what is off with the image); then model, revision, spec. A task's own columns are null where the row failed.
    """
    arrow, _ = import_pyarrow()
    text = arrow.string()
    own = (
        [("embedding", arrow.list_(arrow.float32()))]
        if task == "embed"
        else [("probability", arrow.float64()), ("device", text), ("flags", arrow.list_(text))]
    )
    before = [("row", arrow.int64()), *((name, text) for name in ("study_id", "lesion_id", "status", "reason"))]
    return arrow.schema([*before, *own, *((name, text) for name in ("model", "revision", "spec"))])


def write_part(job: Job, shard: int, outcomes: Sequence[Outcome]) -> None:
    """Write a shard's part: complete and with checksums of its pages, or not at all.

    Raises:
        UsageError, ResourceError: it cannot be written.
    """
    arrow, parquet = import_pyarrow()
    columns: dict[str, list[Any]] = {
        "row": [outcome.row.number for outcome in outcomes],
        "study_id": [outcome.row.study_id for outcome in outcomes],
        "lesion_id": [outcome.row.lesion_id for outcome in outcomes],
        "status": [FAILED if outcome.result is None else OK for outcome in outcomes],
        "reason": [outcome.reason for outcome in outcomes],
        "model": [job.name] * len(outcomes),
        "revision": [job.revision] * len(outcomes),
        "spec": [job.spec] * len(outcomes),
    }
    kind = schema(job.task)
    for name in kind.names:
        if name not in columns:
            columns[name] = [outcome.result and outcome.result[name] for outcome in outcomes]
    said = json.dumps(job.identity(shard), sort_keys=True)
    table = arrow.table(columns, schema=kind.with_metadata({_KEY: said.encode()}))
    with atomic_path(job.part(shard)) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True, compression="zstd")


def check_part(job: Job, shard: int, rows: Sequence[ManifestRow]) -> int:
    """Make sure that a finished part is this job's, whole, and of exactly these manifest rows.

    Returns:
        how many of its rows failed.

    Raises:
        UsageError: it belongs to another archive; says what differs and what to do.
        IntegrityError: it is damaged.
    """
    path = job.part(shard)
    table, said = _read(path)
    for key, wanted in job.identity(shard).items():
        if said.get(key) != wanted:
            found = "" if key == "manifest" else f" ({said.get(key)!r}, now {wanted!r})"
            raise UsageError(
                f"{path}: was made with another {_NAMES[key]}{found}; "
                "choose another --out, or remove this folder's parts to begin again"
            )
    found_rows = list(zip(*(table[name].to_pylist() for name in ("row", "study_id", "lesion_id")), strict=True))
    if found_rows != [(row.number, row.study_id, row.lesion_id) for row in rows]:
        raise _damaged(path, "its rows are not the manifest's")
    statuses = table["status"].to_pylist()
    own = table["embedding" if job.task == "embed" else "probability"].is_valid().to_pylist()
    if own != [status == OK for status in statuses] or not set(statuses) <= {OK, FAILED}:
        raise _damaged(path, "results and statuses contradict each other")
    return sum(status == FAILED for status in statuses)


def rows_in(path: Path) -> list[int]:
    """The manifest row numbers a part holds, in its order.

    Raises:
        IntegrityError: it is damaged.
    """
    return list(_read(path, ["row"])[0]["row"].to_pylist())


def read_archive(out: str | Path) -> Any:
    """All rows of a finished archive, in the manifest's order.

    Returns:
        a ``pyarrow.Table`` with the columns of ``schema``.

    Raises:
        NotFoundError: no archive lies there.
        IntegrityError: a part is missing, damaged, or of another archive than the first.
        BackendError: pyarrow is not installed.
    """
    arrow, _ = import_pyarrow()
    folder = Path(out)
    paths = sorted(folder.glob(PATTERN), key=lambda path: (len(path.name), path.name))  # over 99,999 too
    if not paths:
        raise NotFoundError(f"{folder}: holds no archive (no {PATTERN}); prostate-mim embed --engine ray makes one")
    tables, first = [], _read(paths[0])[1]
    for shard, path in enumerate(paths):
        table, said = _read(path)
        strange = [key for key in _NAMES if key not in ("shard", "first", "last") and said.get(key) != first.get(key)]
        if strange:
            raise IntegrityError(f"{path}: differs from the other parts in {_NAMES[strange[0]]}; make the archive anew")
        if said.get("shard") != shard:
            raise IntegrityError(f"{folder}: part {shard} is missing; run the same command again to resume")
        tables.append(table)
    rows = [row for table in tables for row in table["row"].to_pylist()]
    if len(paths) != first.get("shards") or rows != list(range(1, len(rows) + 1)) or len(rows) != first.get("rows"):
        raise IntegrityError(f"{folder}: has {len(rows)} of {first.get('rows')} rows; run the same command to resume")
    return arrow.concat_tables(tables).replace_schema_metadata(None)


def _read(path: Path, columns: list[str] | None = None) -> tuple[Any, dict[str, Any]]:
    """A part's table, its pages' checksums verified, and what it says of itself."""
    arrow, parquet = import_pyarrow()
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            kept = file.schema_arrow
            said = json.loads((kept.metadata or {}).get(_KEY, b"null"))
            if said is not None:
                table = file.read(columns=columns)
    except (arrow.ArrowException, OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"it cannot be read: {type(error).__name__}") from error
    if not isinstance(said, dict):
        raise UsageError(f"{path}: is not a part of an archive of this package; choose another --out or remove it")
    if said.get("format") != FORMAT or said.get("task") not in ("embed", "predict"):
        raise UsageError(f"{path}: is an archive of format {said.get('format')!r}, this version reads {FORMAT}")
    if not kept.equals(schema(said["task"])):
        raise _damaged(path, "its columns are not an archive's")
    return table, said


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{path}: is damaged ({why}); remove this one file and run the same command again")
