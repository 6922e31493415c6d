"""predictions.csv of a finished run read back, and laid beside the manifest that it was made from."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.errors import ManifestError, NotFoundError
from prostate_mim.manifest import Manifest, ManifestRow

NAME = "predictions.csv"
_COLUMNS = ("row", "fold", "label", "probability")


@dataclass(frozen=True)
class OutOfFold:
    """What was said of a row by the model that saw nobody of its fold.

    Attributes:
        row: number in the manifest, 1 = the first after the header.
        fold: of its patient.
        label: 0 or 1.
        probability: of label 1.
    """

    row: int
    fold: int
    label: int
    probability: float


def read_predictions(run: Path) -> dict[int, OutOfFold]:
    """Row number -> what ``finetune`` wrote of it to ``run/predictions.csv``.

    Raises:
        NotFoundError: no such file.
        ManifestError: it is not as ``finetune`` writes it, or names a row twice.
    """
    path = run / NAME
    if not path.is_file():
        raise NotFoundError(f"{run}: no finished finetune run is here (no {NAME}); give the --out folder of one")
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            records = list(csv.DictReader(stream, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read ({' '.join(str(error).split())}); run finetune again") from error
    found: dict[int, OutOfFold] = {}
    for line, record in enumerate(records, 2):
        one = _parsed(record)
        if one is None:
            raise ManifestError(f"{path} line {line}: expected {','.join(_COLUMNS)} of a row; run finetune again")
        if one.row in found:
            raise ManifestError(f"{path} line {line}: row {one.row} is there twice; run finetune again")
        found[one.row] = one
    if not found:
        raise ManifestError(f"{path}: holds no row; run finetune again")
    return found


def _parsed(record: Mapping[str, str | None]) -> OutOfFold | None:
    """A line of the file; None where it is no such line."""
    try:
        row, fold, label, probability = (record[name] or "" for name in _COLUMNS)
        found = OutOfFold(int(row), int(fold), int(label), float(probability))
    except (KeyError, ValueError):
        return None
    sound = found.row > 0 and found.fold >= 0 and found.label in (0, 1) and math.isfinite(found.probability)
    return found if sound and 0 <= found.probability <= 1 else None


def match(
    listed: Manifest, predictions: Mapping[int, OutOfFold], run: Path, *, test_fold: int | None = None
) -> list[ManifestRow]:
    """The rows that were predicted, in the order of the manifest, if it is the one that the run was made from.

    Rows are told by their numbers; the order of either file does not count. Labels and recorded folds must be the same.

    Args:
        listed: the manifest.
        predictions: as of ``read_predictions``.
        run: for messages.
        test_fold: of a run that tested one fold: rows of the others were not predicted.

    Raises:
        ManifestError: naming the first row that differs.
    """
    path, remedy = run / NAME, "give the manifest of this run, as it was"
    rows = [row for row in listed.rows if test_fold is None or row.fold == test_fold]
    for row in rows:
        told = predictions.get(row.number)
        if told is None:
            raise ManifestError(f"{listed.where(row)}: {path} has no such row; {remedy}")
        if row.label != told.label:
            raise ManifestError(f"{listed.where(row)}: label {row.label}, but {told.label} in {path}; {remedy}")
        if row.fold is not None and row.fold != told.fold:
            raise ManifestError(f"{listed.where(row)}: fold {row.fold}, but {told.fold} in {path}; {remedy}")
    beyond = sorted(set(predictions) - {row.number for row in rows})
    if beyond:
        where = f"{listed.path}: has no row {beyond[0]}" + ("" if test_fold is None else f" in fold {test_fold}")
        raise ManifestError(f"{where}, which {path} tells of; {remedy}")
    return rows
