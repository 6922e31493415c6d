"""The CSV of studies and lesions: one row each, checked as a whole before any work begins.

Messages name the row (1 = the first after the header), never a patient, a study or a path in it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prostate_mim.errors import ManifestError, NotFoundError, UsageError, nearest

REQUIRED = ("study_id", "patient_id", "t2w")
OPTIONAL = (
    "lesion_id", "label", "position_mm_lps", "lesion_mask", "gland_mask", "zone", "centre", "fold", "sha256",
    "spacing_mm_zyx", "is_crop", "isup", "zone_mask",
)  # fmt: skip
Point = tuple[float, float, float]
LEVELS = ("lesion", "study")
_IDENTIFYING = (*REQUIRED, "lesion_mask", "gland_mask", "zone_mask")
_SPACING_RANGE_MM = (0.1, 10.0)


@dataclass(frozen=True)
class ManifestRow:
    """One study, or one lesion of a study.

    Attributes:
        number: the row for messages, 1 = the first after the header.
        t2w, lesion_mask, gland_mask: absolute paths.
        isup: ISUP grade group, 1 to 5; 0 for no cancer; None where nobody says.
        zone_mask: absolute path of labels, 1 = peripheral zone, 2 = transition zone.
        level: what the row is about, and so where its crop lies: ``lesion`` or ``study``; from ``read_manifest``.
    """

    number: int
    study_id: str
    patient_id: str
    t2w: Path
    lesion_id: str = ""
    label: int | None = None
    position_mm_lps: Point | None = None
    lesion_mask: Path | None = None
    gland_mask: Path | None = None
    zone: str = ""
    centre: str = ""
    fold: int | None = None
    sha256: str | None = None
    spacing_mm_zyx: Point | None = None
    is_crop: bool = False
    isup: int | None = None
    zone_mask: Path | None = None
    level: str = LEVELS[0]

    @property
    def has_lesion(self) -> bool:
        """Whether the row says where its lesion is."""
        return self.is_crop or self.position_mm_lps is not None or self.lesion_mask is not None

    @property
    def has_place(self) -> bool:
        """Whether the row says where to look, by a lesion or a gland mask; else that is the middle of the image."""
        return self.gland_mask is not None or (self.level == "lesion" and self.has_lesion)


@dataclass(frozen=True)
class Manifest:
    """Checked rows of one CSV file."""

    path: Path
    rows: tuple[ManifestRow, ...]

    def where(self, row: ManifestRow) -> str:
        """How messages name a row."""
        return f"{self.path} row {row.number}"

    def row(self, number: int) -> ManifestRow:
        """One row; 1 is the first after the header.

        Raises:
            UsageError: there is no such row.
        """
        if not 1 <= number <= len(self.rows):
            raise UsageError(f"--row is {number}, but {self.path} has rows 1 to {len(self.rows)}")
        return self.rows[number - 1]


def read_manifest(path: str | Path, *, labels: bool = False, level: str = LEVELS[0]) -> Manifest:
    """Read and check a manifest.

    Args:
        path: the CSV; its relative paths start at its own folder.
        labels: every row needs a label 0 or 1, and at level ``lesion`` a place (position, mask or is_crop).
        level: ``lesion``, or ``study``: each row is a whole study, whose crop lies around the middle of its gland mask,
            else of its image; a position or lesion in it is not looked at.

    Raises:
        NotFoundError: no such file, or a row names a file that does not exist.
        ManifestError: a column is missing, a value is malformed, a study or lesion appears twice (at level ``study``:
            a study has several rows), or a fold divides a patient.
        UsageError: an unknown level.
    """
    if level not in LEVELS:
        raise UsageError(f"level {level!r} is unknown; choose {' or '.join(LEVELS)}")
    source = Path(path)
    records = _read_records(source)
    rows = tuple(replace(_parse(source, n, record), level=level) for n, record in enumerate(records, 1))
    if not rows:
        raise ManifestError(f"{source}: has a header but no rows; add one row per study")
    _check_unique(source, rows)
    _check_patients(source, rows)
    if level == "study":
        _check_studies(source, rows)
    if labels:
        _check_labels(source, rows)
    return Manifest(source, rows)


def level_of(details: Mapping[str, Any]) -> str:
    """What a classifier's rows are, by the details in its release: a key of ``LEVELS``, lesions where nothing is said.

    A model of whole studies has seen crops around glands, and has to be given such.
    """
    made = details.get("finetuning")
    found = made.get("level") if isinstance(made, Mapping) else None
    return LEVELS[1] if found == LEVELS[1] else LEVELS[0]


def _read_records(source: Path) -> list[dict[str, str]]:
    if not source.exists():
        raise NotFoundError(f"{source}: no such manifest; expected a CSV with columns {', '.join(REQUIRED)}")
    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{source}: cannot be read as a UTF-8 CSV ({error})") from error
    _check_header(source, header)
    for number, row in enumerate(rows, 1):
        # DictReader's marks of a row longer (key None) or shorter (value None) than the header
        if None in row or None in row.values():
            raise ManifestError(
                f"{source} row {number}: has not the {len(header)} cells of the header; quote cells that hold a comma"
            )
    return [{name: text.strip() for name, text in row.items()} for row in rows]


def _check_header(source: Path, header: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in header]
    plain = {letters_and_digits(name): name for name in header}
    if missing and not {letters_and_digits(name) for name in (*REQUIRED, *OPTIONAL)} & set(plain):
        # Without a header line the first study would be taken for one: do not repeat it.
        raise ManifestError(
            f"{source}: column {missing[0]!r} is missing, and so is every other; does the file begin with a header?"
        )
    if missing:
        near = nearest(letters_and_digits(missing[0]), plain)
        hint = f"; is it the column {plain[near]!r}?" if near else ""
        raise ManifestError(f"{source}: column {missing[0]!r} is missing (found: {', '.join(header)}){hint}")
    twice = [name for name in (*REQUIRED, *OPTIONAL) if header.count(name) > 1]
    if twice:
        raise ManifestError(f"{source}: column {twice[0]!r} appears twice; keep one")


def letters_and_digits(name: str) -> str:
    """A name of a column as it is compared: without regard to case, spaces and punctuation."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _parse(source: Path, number: int, record: dict[str, str]) -> ManifestRow:
    where = f"{source} row {number}"
    for name in REQUIRED:
        if not record[name]:
            raise ManifestError(f"{where}: {name} is empty; every row needs it")

    def cell(name: str, convert: Callable[[str], Any], wanted: str) -> Any:
        return _cell(where, record, name, convert, wanted)

    def file(name: str) -> Path | None:
        return _file(where, name, source.parent / record[name]) if record.get(name) else None

    return ManifestRow(
        number=number,
        study_id=record["study_id"],
        patient_id=record["patient_id"],
        t2w=_file(where, "t2w", source.parent / record["t2w"]),
        lesion_id=record.get("lesion_id", ""),
        label=cell("label", _label, "0 or 1"),
        position_mm_lps=cell("position_mm_lps", _point, "three numbers 'x y z' in mm, LPS"),
        lesion_mask=file("lesion_mask"),
        gland_mask=file("gland_mask"),
        zone=record.get("zone", ""),
        centre=record.get("centre", ""),
        fold=cell("fold", _fold, "a whole number, 0 or more"),
        sha256=cell("sha256", _digest, "64 hex digits"),
        spacing_mm_zyx=cell("spacing_mm_zyx", _spacing, "three numbers 'z y x' in mm, 0.1 to 10"),
        is_crop=bool(cell("is_crop", _label, "0 or 1")),
        isup=cell("isup", _isup, "an ISUP grade group, 1 to 5, or 0 for no cancer"),
        zone_mask=file("zone_mask"),
    )


def _cell(where: str, record: dict[str, str], name: str, convert: Callable[[str], Any], wanted: str) -> Any:
    """An optional cell, converted; None where it is empty or its column absent."""
    text = record.get(name, "")
    if not text:
        return None
    try:
        return convert(text)
    except ValueError:
        identifying = {record.get(column) for column in _IDENTIFYING}
        shown = "the value of another column" if text in identifying else repr(text[:40])
        raise ManifestError(f"{where}: {name} is {shown}, expected {wanted}") from None


def _file(where: str, name: str, path: Path) -> Path:
    if "\0" in str(path) or not os.access(path, os.R_OK):
        raise NotFoundError(
            f"{where}: {name} names a file that does not exist or may not be read; paths are relative to the CSV"
        )
    return path.resolve()


def _label(text: str) -> int:
    if text not in ("0", "1"):
        raise ValueError
    return int(text)


def _isup(text: str) -> int:
    if text not in ("0", "1", "2", "3", "4", "5"):
        raise ValueError
    return int(text)


def _point(text: str) -> Point:
    x, y, z = (float(part) for part in text.split())
    if not all(abs(v) < 1e5 for v in (x, y, z)):  # also refuses NaN
        raise ValueError
    return x, y, z


def _spacing(text: str) -> Point:
    low, high = _SPACING_RANGE_MM
    z, y, x = _point(text)
    if not all(low <= v <= high for v in (z, y, x)):
        raise ValueError
    return z, y, x


def _fold(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError
    return int(text)


def _digest(text: str) -> str:
    if len(text) != 64 or set(text.lower()) - set("0123456789abcdef"):
        raise ValueError
    return text.lower()


def _check_unique(source: Path, rows: Iterable[ManifestRow]) -> None:
    seen: dict[tuple[str, str], int] = {}
    studies: dict[str, ManifestRow] = {}
    for row in rows:
        key = (row.study_id, row.lesion_id)
        if key in seen:
            what = "study_id and lesion_id" if row.lesion_id else "study_id"
            raise ManifestError(
                f"{source} row {row.number}: the same {what} as row {seen[key]}; "
                "give each study one id, and lesions of one study different lesion_id"
            )
        seen[key] = row.number
        first = studies.setdefault(row.study_id, row)
        if first.patient_id != row.patient_id:
            raise ManifestError(
                f"{source} row {row.number}: its study_id belongs to another patient in row {first.number}"
            )
        if first.t2w != row.t2w and not row.is_crop:
            raise ManifestError(
                f"{source} row {row.number}: duplicate study_id: row {first.number} names another t2w file for it"
            )


def _check_patients(source: Path, rows: Iterable[ManifestRow]) -> None:
    folds: dict[str, ManifestRow] = {}
    for row in rows:
        if row.fold is None:  # a study that was added since the folds were recorded
            continue
        first = folds.setdefault(row.patient_id, row)
        if first.fold != row.fold:
            raise ManifestError(
                f"{source} row {row.number}: fold {row.fold} divides a patient who is in fold {first.fold} "
                f"in row {first.number}; a patient belongs to one fold"
            )


def _check_studies(source: Path, rows: Iterable[ManifestRow]) -> None:
    first: dict[str, int] = {}
    for row in rows:
        if first.setdefault(row.study_id, row.number) != row.number:
            raise ManifestError(
                f"{source} row {row.number}: the same study as row {first[row.study_id]}; at level 'study' a study has "
                "one row, with one label for all of it"
            )


def _check_labels(source: Path, rows: Iterable[ManifestRow]) -> None:
    for row in rows:
        if row.label is None:
            raise ManifestError(f"{source} row {row.number}: label is empty; fine-tuning needs 0 or 1 in every row")
        if row.level == "lesion" and not row.has_lesion:
            raise ManifestError(
                f"{source} row {row.number}: the lesion has no place; give position_mm_lps, lesion_mask or is_crop"
            )
