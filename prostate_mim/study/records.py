"""The tables a study leaves behind: literal parquet schemas, one writer and one reader.

A report is made from these tables, ``study.json`` and ``run.json`` alone; no patient id and no path is in any of them.
Control arms have names that begin with ``CONTROL``: they are no competitors and stay out of comparisons. Those with
shuffled labels (``PERMUTED``) have another permutation in each seed; their intervals are over permutations.

``study.json``: ``format``; ``config`` (the whole StudyConfig as plain values, paths replaced); ``tasks`` (a list: name,
kind, level, rows, patients, positives, folds, zones, centres, data_fingerprint, spec); ``arms`` (a list, one an arm and
architecture: name, architecture, initialisation, details, method, parameters, encoders: list of {task, seed, fold or
null, weights_sha256}); ``guard`` (a list: task, arm, architecture, seed, fold, proven, proof, findings); ``controls``
(a list: name, task, passed or null, what); ``counts`` (cells, done, failed, missing). ``run.json``: as of every run
(code, packages, hardware, times).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prostate_mim.archive import parts
from prostate_mim.errors import IntegrityError, NotFoundError
from prostate_mim.files import atomic_path

FORMAT = 1
CONTROL = "control:"
PERMUTED = f"{CONTROL}permuted:"
ALL = "all"
PREDICTIONS, RESULTS, COMPARISONS, CASES = "predictions", "results", "comparisons", "cases"
STUDY = "study.json"
FAILURES = "failures.csv"
_KEY = b"prostate-mim study"

# Of one group of cells (all seeds together): what was computed, on what.
_GROUP = (
    ("task", "string"), ("arm", "string"), ("architecture", "string"), ("mode", "string"), ("fraction", "float64"),
)  # fmt: skip

# name of the table -> (column, type), in order. Every "float64" of an estimate may be null: it could not be had.
COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    # One row per out-of-fold prediction and seed. row: the manifest's row number (1 = the first after the header);
    # patient: a running number; zone and centre: "" where the manifest gives none. Tasks of kind "lesions" only.
    PREDICTIONS: (
        *_GROUP, ("seed", "int64"), ("row", "int64"), ("patient", "int64"), ("fold", "int64"), ("zone", "string"),
        ("centre", "string"), ("label", "int64"), ("probability", "float64"),
    ),
    # Tidy. seed: "0", "1", ... (low and high are null) or "all": of the mean over seeds of the probabilities (of the
    # patients' values in probes). level: "lesion" | "patient". subset: "all" | "zone=PZ" | "centre=...".
    # rows, patients, positives: what the value was computed on (positives: 0 in probes).
    RESULTS: (
        *_GROUP, ("seed", "string"), ("metric", "string"), ("level", "string"), ("subset", "string"),
        ("value", "float64"), ("low", "float64"), ("high", "float64"), ("rows", "int64"), ("patients", "int64"),
        ("positives", "int64"),
    ),
    # first minus second, of the same task, architecture, mode and fraction. p_holm: p_bootstrap corrected over all
    # comparisons of that task, metric, architecture, mode and fraction. p_delong: null in probes.
    COMPARISONS: (
        ("task", "string"), ("metric", "string"), ("first", "string"), ("second", "string"),
        ("architecture", "string"), ("mode", "string"), ("fraction", "float64"), ("difference", "float64"),
        ("low", "float64"), ("high", "float64"), ("p_delong", "float64"), ("p_bootstrap", "float64"),
        ("p_holm", "float64"), ("p_seeds", "float64"), ("detectable", "float64"),
    ),
    # Of probes (tasks of kind "voxels" and "centres"): one value per patient, metric and seed.
    CASES: (
        *_GROUP, ("seed", "int64"), ("patient", "int64"), ("metric", "string"), ("value", "float64"),
    ),
}  # fmt: skip


def import_pyarrow() -> tuple[Any, Any]:
    """``(pyarrow, pyarrow.parquet)``.

    Raises:
        BackendError: not installed.
    """
    return parts.import_pyarrow("a study", "study")


def schema(name: str) -> Any:
    """The ``pyarrow.Schema`` of a table: ``predictions``, ``results``, ``comparisons`` or ``cases``."""
    arrow, _ = import_pyarrow()
    kinds = {"string": arrow.string(), "int64": arrow.int64(), "float64": arrow.float64()}
    return arrow.schema([(column, kinds[kind]) for column, kind in COLUMNS[name]])


def write_table(
    path: Path, name: str, rows: Sequence[Mapping[str, Any]], said: Mapping[str, Any] | None = None
) -> None:
    """Write rows as one parquet file of the schema ``name``, atomically and with page checksums.

    Args:
        rows: each with every column of the schema.
        said: plain values kept in the file's metadata: nothing here reads them, a person may.

    Raises:
        UsageError, ResourceError: it cannot be written.
    """
    arrow, parquet = import_pyarrow()
    columns = {column: [row[column] for row in rows] for column, _ in COLUMNS[name]}
    text = json.dumps({"format": FORMAT, "table": name, **(said or {})}, sort_keys=True)
    table = arrow.table(columns, schema=schema(name).with_metadata({_KEY: text.encode()}))
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True, compression="zstd")


def read_table(path: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a table that ``write_table`` wrote.

    Raises:
        NotFoundError: no such file.
        IntegrityError: it is damaged, or another table.
    """
    arrow, parquet = import_pyarrow()
    if not path.is_file():
        raise NotFoundError(f"{path}: no such table; prostate-mim study makes it")
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            kept = file.schema_arrow
            said = json.loads((kept.metadata or {}).get(_KEY, b"null"))
            rows: list[dict[str, Any]] = file.read().to_pylist()
    except (arrow.ArrowException, OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: is damaged ({type(error).__name__}); remove this file and run again") from error
    if not isinstance(said, dict) or said.get("table") != name or not kept.equals(schema(name)):
        raise IntegrityError(f"{path}: is not a table of {name} of this version; remove this file and run again")
    return rows


def table_path(out: Path, name: str) -> Path:
    """Where a table lies in a study's folder."""
    return out / f"{name}.parquet"


def is_control(arm: str) -> bool:
    """Whether an arm is a control (permuted labels, duplicated studies) and not a competitor."""
    return arm.startswith(CONTROL)
